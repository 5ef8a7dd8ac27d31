"""The kernel proxy: what a Jupyter client starts as its kernel.

It answers heartbeats itself and lives as long as the client wants it, whatever happens to the network, the service or
the node. Everything else it passes on: requests to the session's host, the host's journal to the clients.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Any

import msgspec

from ..client.kernel_notes import KernelNote, drop_note, is_to_detach, write_note
from ..config import Settings
from ..errors import GpuaasError, SessionError
from ..model import Channel, GpuSession, HostState
from ..wire.after_loss import KINDS
from ..wire.channel import Channel as SessionChannel
from ..wire.channel import Resend
from ..wire.jupyter import make_parts, read_header
from ..wire.record import Buffer, Record
from ..wire.requests import ASKED_BY_ITSELF, UNREACHABLE, Requests
from ..wire.unreadable import UNREADABLE
from ..wire.waiting import Held, Waiting, fail_request, tell_ended
from .delivery import Delivery
from .front import Front, settle, unsent_bytes
from .seeker import Seeker, default_name

#: How long a shutdown waits for the host before it goes by the service instead.
SHUTDOWN_PATIENCE_S = 2.0
PARENT_POLL_S = 1.0
#: Name of the error that cells get when the session is over.
ENDED = "RemoteSessionEnded"
log = logging.getLogger(__name__)


class Proxy:
    """One kernel proxy.

    Parameters
    ----------
    problem
        Why there can be no session, where that is known already: what each cell is told.
    """

    def __init__(self, connection_file: Path, settings: Settings, problem: str = "") -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._front = Front(connection_file, self._requested, self._subscribers_changed)
        self._waiting = Waiting(self._front.reply, self._front.publish, settings.unreachable_s, settings.outbox_bytes)
        #: Under which name notes about this kernel are kept.
        self._kernel = default_name(connection_file)
        self._seeker = Seeker(settings, self._kernel, self._waiting.status, self._waiting.retrying, self._note_session)
        self._channel = SessionChannel(
            self._seeker.ticket, self, settings, token=lambda: self._seeker.token, ca=lambda: self._seeker.ca
        )
        self._delivery = Delivery(
            self._front,
            self._channel,
            settings.ack_delay_s,
            most_records=settings.undelivered_records,
            most_bytes=settings.undelivered_bytes,
        )
        self._ever_linked = False
        self._over = problem  # why there is no session, or none any more
        self._noted = KernelNote(pid=os.getpid())
        self._over_name = "SettingError" if problem else ENDED
        self._leave = asyncio.Event()
        self._shutdown: Held | None = None
        self._restarts = False  # the client starts the kernel anew, once it has shut down
        self._shutdown_answered = False
        self._requests = Requests(
            self._channel, self._fail, self._end, tell=self._say, most_bytes=settings.outbox_bytes
        )
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Serve until the client shuts the kernel down or the process is told to end."""
        self._loop.add_signal_handler(signal.SIGTERM, self._leave.set)
        self._loop.add_signal_handler(signal.SIGINT, lambda: self._channel.send_op({"op": "interrupt"}))
        drop_note(self._settings.folder, self._kernel)  # of the proxy before this one
        if self._over:
            self._note(problem=self._over)
        else:
            self._task(self._keep_channel())
        self._task(self._watch_parent())
        await self._leave.wait()
        # What the clients have taken must not be said again to the next proxy.
        await settle(0.5)
        if unsent_bytes() == 0:  # else some of it dies with this process
            self._channel.acknowledge(self._delivery.acknowledgeable)
        await settle(0.2)
        self._channel.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._seeker.close()
        self._delivery.close()
        drop_note(self._settings.folder, self._kernel)
        self._front.close(linger_ms=500)

    async def _keep_channel(self) -> None:
        try:
            reason = await self._channel.run()
            if reason:
                self._over = f"this session has ended: {reason}. Restart the kernel to get a new one."
        except GpuaasError as error:
            self._over = str(error)
            if not isinstance(error, SessionError):
                self._over_name, self._over = type(error).__name__, f"{error} Then restart the kernel."
        except Exception as error:
            log.exception("the channel is over")
            self._over = f"the kernel proxy has failed: {type(error).__name__}: {error}. Restart the kernel."
        if self._over:
            self._note(problem=self._over)
            self._requests.fail(self._over_name, self._over)
            self._waiting.fail(self._over_name, self._over)
            self._say(f"\n[remote GPU] {self._over}\n")
        if self._shutdown is not None:
            self._leave.set()

    async def _watch_parent(self) -> None:
        """Leave when the client's process is gone, as a local kernel would; the session stays."""
        parent = os.environ.get("JPY_PARENT_PID", "")
        if not parent.isdecimal():
            return  # started by somebody who means it to live on
        try:
            while True:
                os.kill(int(parent), 0)
                await asyncio.sleep(PARENT_POLL_S)
        except ProcessLookupError:
            log.warning("the client's process has ended")
        except PermissionError:
            return  # it lives, as somebody else
        self._leave.set()

    # -- what clients ask --------------------------------------------------------------------------------------

    def _requested(self, channel: Channel, address: bytes, parts: list[Buffer]) -> None:
        try:
            header = read_header(parts[0])
        except (msgspec.MsgspecError, ValueError) as error:
            log.warning("%s: a message with an unreadable header was dropped: %s", channel, error)
            return
        held = Held(channel, address, header.msg_id, header.msg_type, parts, self._loop.time())
        if header.msg_type == "shutdown_request":
            self._task(self._shut_down(held))
            return
        if header.msg_type == "interrupt_request" and self._is_to_detach():
            # A Jupyter server interrupts a kernel before it ends it; what the session runs is to go on.
            self._front.reply(channel, address, make_parts(b"", "interrupt_reply", parts[0], {"status": "ok"})[1:])
            return
        if channel is Channel.STDIN:
            self._delivery.prompt_answered()
        if self._over:
            self._fail(held, self._over_name, self._over)
        elif self._channel.linked:
            self._requests.send(held)
        elif header.msg_type == "interrupt_request":
            self._waiting.cancel_cells()
            if self._ever_linked:
                self._task(self._interrupt_by_service())
            reply = make_parts(b"", "interrupt_reply", parts[0], {"status": "ok"})[1:]
            self._front.reply(channel, address, reply)
        elif self._waiting.hold(held):
            if header.msg_type not in ASKED_BY_ITSELF:
                self._seeker.wanted.want()
        else:
            full = "too much waits for the link already. Setting outbox_bytes."
            self._fail(held, UNREACHABLE, full)
        self._delivery.client_spoke(address)

    def _fail(self, held: Held, ename: str, why: str) -> None:
        if held is self._shutdown and self._over:
            # The session's end is what was asked for, whichever way it came.
            self._answer_shutdown(held)
            return
        fail_request(held, ename, why, self._front.reply, self._front.publish)

    def _end(self, held: Held) -> None:
        tell_ended(held, self._delivery.say)

    async def _interrupt_by_service(self) -> None:
        """Interrupt what runs, while there is no link."""
        try:
            await self._seeker.interrupt()
        except GpuaasError as error:
            log.warning("the session could not be interrupted: %s", error)

    def _is_to_detach(self) -> bool:
        return is_to_detach(self._settings.folder, self._kernel)

    async def _shut_down(self, held: Held) -> None:
        """The client ends the kernel, for good or to start it anew."""
        self._shutdown, self._restarts = held, _is_restart(held)  # of what was sent, only the header is kept
        if self._settings.on_shutdown == "detach" or self._is_to_detach() or self._over:
            self._answer_shutdown(held)
            return
        self._requests.send(held)
        if not await self._channel.delivered(SHUTDOWN_PATIENCE_S):
            log.warning("the session's host cannot be reached; ending the session by the service")
            try:
                await asyncio.wait_for(self._seeker.release(), SHUTDOWN_PATIENCE_S)
            except (GpuaasError, asyncio.TimeoutError) as error:
                log.error("the session could not be ended: %s", error)
            self._answer_shutdown(held)
            return
        # The reply comes with the stream; a kernel that cannot even reply is ended by its host.
        await asyncio.sleep(self._settings.stop_timeout_s)
        self._leave.set()

    def _answer_shutdown(self, held: Held) -> None:
        if not self._shutdown_answered:
            self._shutdown_answered = True
            content = {"status": "ok", "restart": self._restarts}
            parts = make_parts(b"", "shutdown_reply", held.parts[0], content)
            self._front.reply(held.channel, held.address, parts[1:])
        self._leave.set()

    def _subscribers_changed(self, count: int) -> None:
        if count:
            self._delivery.subscribed()
        else:
            self._delivery.unsubscribed()

    # -- ChannelHandler ----------------------------------------------------------------------------------------

    def record_received(self, record: Record) -> None:
        taken = self._delivery.take(record)
        self._requests.heard(record, passed_over=not taken)
        if self._shutdown is not None and record.kind is KINDS[self._shutdown.channel]:
            if read_header(record.parts[2]).msg_id == self._shutdown.msg_id:
                self._leave.set()

    def channel_linked(self, welcome: dict[str, Any]) -> None:
        log.info("linked to session %s, epoch %s", welcome["session"], welcome["epoch"])
        if not self._ever_linked:
            self._ever_linked = True
            self._delivery.maybe_delivered = welcome["sent"]
            if welcome["state"] == HostState.BUSY:
                # Said before this proxy was there; without it a front end would show the kernel as idle.
                busy = make_parts(b"", "status", b"{}", {"execution_state": "busy"})
                self._front.publish(b"status", busy[1:])
        self._seeker.wanted.settle()
        for held in self._waiting.release():
            self._requests.send(held)

    def channel_unlinked(self, reason: str, retry_s: float) -> None:
        if not retry_s:
            log.info("%s", reason)
            self._waiting.status(f"{reason}; this cell runs when it is there")
            return
        log.warning("no link: %s; next try in %.1f s", reason, retry_s)
        if self._ever_linked:
            self._waiting.status(f"no link to the session ({reason}); this cell runs when it is back")
        else:
            self._waiting.trouble(f"{reason} Next try in {retry_s:.1f} s; run the cell again when it is back.")

    def host_lost(self, welcome: dict[str, Any], kept: frozenset[int], *, anew: bool) -> Resend:
        if anew:
            self._delivery.begin_anew()
        return self._requests.host_lost(welcome, kept, anew=anew)

    def host_changed(self, op: dict[str, Any]) -> None:
        log.info("session is %s %s", op.get("state"), op.get("cause"))

    def _note_session(self, url: str, session: GpuSession) -> None:
        self._note(url=url, session_id=session.id, session_name=session.name)

    def _note(self, **changes: str) -> None:
        """For the Jupyter server, which knows only the kernel."""
        self._noted = msgspec.structs.replace(self._noted, **changes)
        try:
            write_note(self._settings.make_folder(), self._kernel, self._noted)
        except (OSError, GpuaasError) as error:
            log.warning("the session of this kernel cannot be noted down: %s", error)

    def _say(self, text: str) -> None:
        parts = make_parts(b"", "stream", b"{}", {"name": "stderr", "text": text})
        self._front.publish(b"stream.stderr", parts[1:])

    def _task(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_restart(shutdown: Held) -> bool:
    try:
        return bool(msgspec.json.decode(shutdown.parts[3]).get("restart"))
    except (*UNREADABLE, AttributeError):
        return False
