"""The session of one host: what passes between its kernel, its journal and its clients."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ..config import Settings
from ..errors import MigrationError, NoSuchSession, RemoteProtocolError, TransportError
from ..lifecycle.kernel_end import after_end
from ..lifecycle.node_loss import ENAME, broken_words, lost_cells, notice
from ..model import Channel, Handover, HeldRequest, HostReport, HostSpec, HostState, RestoreReport
from ..model.words import restored_lines
from ..wire.jupyter import Header, make_parts, read_header
from ..wire.record import Buffer, Kind, Record
from ..wire.unreadable import UNREADABLE
from .attachment import Attachment
from .checkpoint_notes import TOPIC, CheckpointNotes
from .clients import MOVING, Clients
from .dialogue import Dialogue, shutdown_kind
from .held import HANDOVER, Held, HeldRequests
from .jailed_kernel import JailedKernel
from .journal import Journal
from .kernel_process import Kernel, describe_exit
from .marks import Marks
from .outflow import Outflow
from .overdue import Overdue
from .standstill import RETURNED, Standstill
from .standstill import TOPIC as STAND_TOPIC
from .unanswered import HEAD_PARTS, STATUS
from .without_devices import WithoutDevices

log = logging.getLogger(__name__)

#: Name of the error of a request that cannot wait, as too many do.
TOO_MUCH = "TooMuchWaits"
FULL = "Too much waits for this session already (setting outbox_bytes)"
KINDS = {Channel.SHELL: Kind.SHELL, Channel.IOPUB: Kind.IOPUB, Channel.STDIN: Kind.STDIN, Channel.CONTROL: Kind.CONTROL}
CHANNELS = {kind: channel for channel, kind in KINDS.items()}


class SessionHost:
    """Acts for one session from adoption to its end.

    Parameters
    ----------
    start_kernel
        Starts another kernel process for this session, ready and adopted.
    changed
        Called with every new report; the agent passes it on.
    """

    def __init__(
        self,
        spec: HostSpec,
        folder: Path,
        settings: Settings,
        *,
        start_kernel: Callable[[], Any],
        changed: Callable[[HostReport], None],
    ) -> None:
        self.spec = spec
        self.folder = folder
        self.settings = settings
        self.journal = Journal(
            folder / "journal",
            most_bytes=settings.journal_bytes,
            segment_bytes=settings.journal_segment_bytes,
            message_bytes=settings.message_bytes,
            memory_bytes=settings.waiting_bytes,
        )
        self.kernel: Kernel | None = None
        self.state = HostState.STARTING
        self.cause = ""
        self.used_bytes = 0
        self._start_kernel = start_kernel
        self._changed = changed
        self.dialogue = Dialogue(settings.requests_remembered)
        self._clients = Clients(self, settings)
        self._outflow = Outflow(self.journal, self._clients, self)
        self._kernel_starts = 0
        self._deaths = 0
        self._expected_exit = ""  # why the kernel's end is no accident: restart, end, stop
        self.held = HeldRequests(settings.outbox_bytes)  # for the kernel
        #: The cell that the variables were restored to when this host began, after the loss of another; else None.
        self.restored_cell: int | None = None
        #: Number of the last record before that.
        self.restored_number = 0
        self._lost_cells: tuple[int, ...] = ()
        marks = Marks()
        self.standstill = Standstill(self, marks)
        self._overdue = Overdue(self, marks, settings.begin_s)
        self.without_devices = WithoutDevices(self)
        #: Whether it waits to take the session over from another host.
        self.stands_by = spec.peer is not None
        #: Whether its processes are stopped because its node has lost contact with the service.
        self.cut_off = False
        self._busy_timer: asyncio.TimerHandle | None = None
        self._kill_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._outputs_held = False
        self._notes = CheckpointNotes(settings.busy_report_s, lambda: self._changed(self.report()))

    # -- towards the agent -------------------------------------------------------------------------------------

    def report(self) -> HostReport:
        """The session as it stands."""
        attended = bool(self._clients) or self.without_devices.let_go
        return HostReport(
            session_id=self.spec.session_id,
            lease=self.spec.lease,
            state=self.state,
            cause=self.cause,
            clients=len(self._clients),
            unattended_since_s=0.0 if attended else self._clients.unattended_since_s,
            kernel_starts=self._kernel_starts,
            used_bytes=self.used_bytes,
            working_folder=str(self.folder / "work"),
            warning=self.journal.no_room or self.without_devices.lacks,
            checkpoints=self._notes.status,
            wish=self._notes.wish,
            in_jail=isinstance(self.kernel, JailedKernel),
            suspended=self.without_devices.holds,
            no_suspend=self.without_devices.barred,
            lost_cells=self._lost_cells,
            stands_still=self.standstill.holds,
        )

    def look(self) -> HostReport:
        """The session at this moment. Reports of busy and idle come a little later, and not for every cell."""
        self._report_busy()
        return self.report()

    @property
    def is_new(self) -> bool:
        """Whether no kernel has been ready yet."""
        return not self._kernel_starts

    async def checkpoints(self, content: dict[str, Any]) -> dict[str, Any]:
        """Let the kernel do something with its checkpoints, when it has ended the cells that it was sent before.

        Raises
        ------
        NoSuchSession, TransportError
            There is no kernel, or it ended.
        MigrationError
            The session has been handed over, or has not arrived yet.
        """
        self._refuse_elsewhere()
        if self.kernel is None:
            raise NoSuchSession("the session has no kernel at the moment.")
        try:
            if content["op"] == "stop":
                return await self.kernel.ask(Channel.CONTROL, "gpuaas_checkpoint_stop_request", content)
            reply = await self.kernel.ask(Channel.SHELL, "gpuaas_checkpoint_request", content)
        except RuntimeError as error:
            raise TransportError(f"{error}.") from error
        if reply["status"] == "ok" and content["op"] == "restore":
            report = msgspec.convert(reply["result"], RestoreReport)
            self.notice("".join(f"[remote GPU] {line}\n" for line in restored_lines(report)))
        return reply

    def kernel_ready(self, kernel: Kernel) -> None:
        """A kernel process belongs to the session now and takes its requests."""
        self.kernel = kernel
        if self.stands_by:
            self._set_state(HostState.STANDBY, "")
            return
        self._kernel_starts += 1
        if self.state is HostState.ENDING:
            return
        self._expected_exit = ""
        self.release_held()
        self._set_state(HostState.BUSY if self.dialogue.busy else HostState.IDLE, self.cause)

    def awaits_kernel(self) -> None:
        """The kernel comes from the host that has the session now."""
        self._set_state(HostState.STANDBY, "")

    def failed(self, why: str) -> None:
        """No kernel can be had."""
        self.tell(self.dialogue.kernel_died(why))
        self._set_state(HostState.FAILED, why)

    def interrupt(self) -> None:
        """Interrupt what runs, out of band; MigrationError when the session is not here to be interrupted."""
        self._refuse_elsewhere()
        if self.kernel is not None and not self._interrupted():
            self.kernel.interrupt()

    def restart(self) -> None:
        """A fresh kernel for the same session."""
        self._refuse_elsewhere()
        self._expect_exit("restart")
        if self.kernel is not None:
            self.kernel.kill()

    async def close(self, reason: str, *, keep: bool = False, moved: bool = False) -> None:
        """End kernel and links, and remove what is on disk; or ``keep`` it for a successor.

        Parameters
        ----------
        moved
            The session goes on elsewhere, as it does with ``keep``.
        """
        moved = moved or keep
        self._expected_exit = "stop"
        self.standstill.close()
        self._overdue.close()
        if self.kernel is not None:
            kernel, self.kernel = self.kernel, None
            if self.state is not HostState.BUSY and not self.standstill.frozen and not kernel.stopped:
                # Idle: let its exit handlers run.
                kernel.send(Channel.CONTROL, make_parts(b"", "shutdown_request", b"{}", {"restart": False})[1:])
                await kernel.ended(self.settings.stop_timeout_s)
            kernel.kill()
            await kernel.ended()
            kernel.close()
        op = {"op": "moved"} if moved else {"op": "ended", "reason": reason}
        self.let_clients_go(op, MOVING if moved else reason)
        if keep:
            await self.settled()
        self._outflow.close()
        for task in self._tasks:
            task.cancel()
        if not keep:
            self.journal.remove()

    # -- towards clients ---------------------------------------------------------------------------------------

    async def attach(
        self,
        connection: Any,
        head: bytes,
        rest: bytes,
        client: str,
        after: int | None,
        journal: str = "",
        epoch: int | None = None,
    ) -> None:
        """A client opens its link, for the first time or again; its former link is closed.

        Parameters
        ----------
        after, journal
            The last record that it has, and of which journal; None and empty when it has none.
        epoch
            Of the host whose welcome it has read last; None where there was none, or where it does not say.
        """
        if not self._lets_in():
            # With this answer a client asks the service where it is.
            raise NoSuchSession(MOVING)
        self._outflow.flush()
        new = await self._clients.attach(
            connection, head, rest, client, after, journal, epoch=epoch, may=self._lets_in, welcome=self._welcome
        )
        if new is None:
            return
        if new and self.dialogue.prompt is not None:
            self._outflow.append(Kind.STDIN, self.dialogue.prompt)
            self._outflow.flush()
        self._changed(self.report())

    def _lets_in(self) -> bool:
        return self.is_here and not self.cut_off

    def _welcome(self) -> dict[str, Any]:
        return {
            "session": self.spec.session_id,
            "epoch": self.spec.lease.epoch,
            "journal": self.journal.id,
            "kernel_starts": self._kernel_starts,
            "restored_cell": self.restored_cell,
            "on_node_loss": self.spec.on_node_loss,
            "state": self.state,
        }

    def client_interrupts(self) -> None:
        if self.standstill.sealed:
            # With the other requests, to wherever the session goes on.
            parts = make_parts(b"", "interrupt_request", b"{}", {})
            self._hold(Held(Channel.CONTROL, read_header(parts[1]), parts))
        elif self.standstill.frozen:
            self.standstill.interrupted()
        else:
            self.interrupt()

    def detached(self, attachment: Attachment, reason: str) -> None:
        if self._clients.left(attachment):
            self._changed(self.report())

    def requests_received(self, attachment: Attachment, records: list[Record]) -> None:
        problem: RemoteProtocolError | None = None
        for record in records:
            try:
                self._request(record)
            except RemoteProtocolError as error:
                # What came with it was received, so it is carried out; only this one is refused.
                problem = problem or error
        self._outflow.flush()
        if problem is not None:
            raise problem

    def _request(self, record: Record) -> None:
        channel = CHANNELS.get(record.kind)
        parts = list(record.parts)
        if channel is None or channel is Channel.IOPUB or len(parts) < 5:
            raise RemoteProtocolError(f"record {record.number}: kind {record.kind} is no request.")
        try:
            header = self.dialogue.accept(parts)
        except (msgspec.MsgspecError, ValueError) as error:
            raise RemoteProtocolError(f"record {record.number}: header: {error}.") from error
        if header is None:
            return
        if header.msg_type == "execute_request" and channel is Channel.SHELL:
            self._outflow.append(Kind.REQUEST, parts)
        if self.takes_requests:
            if self.standstill.sealed or (channel is Channel.SHELL and self._holds):
                self._hold(Held(channel, header, parts))
            elif header.msg_type == "interrupt_request" and self._interrupted():
                self._outflow.append(
                    KINDS[channel], make_parts(parts[0], "interrupt_reply", parts[1], {"status": "ok"})
                )
            elif self.standstill.frozen:  # this kernel is about to be stopped; wherever the session goes on answers
                self._hold(Held(channel, header, parts))
            else:
                self.pass_on(channel, header, parts)
        elif header.msg_type == "shutdown_request":
            # There is no kernel that could answer.
            content = {"status": "ok", "restart": shutdown_kind(parts[4]) == "restart"}
            self._outflow.append(KINDS[channel], make_parts(parts[0], "shutdown_reply", parts[1], content))
            if shutdown_kind(parts[4]) == "end":
                self._expect_exit("end")
        else:
            self._hold(Held(channel, header, parts))

    def _hold(self, held: Held) -> None:
        """A request waits for the kernel, or is refused where too many do: clients that go on asking cost no more."""
        if self.held.has_room_for(held):
            self.held.add(held)
            return
        refusal = held.failed(TOO_MUCH, f"{FULL}.")
        self.tell(refusal)
        if not refusal and not self.held.told_of_drops:
            self.held.told_of_drops = True
            self.notice(
                f"\n[remote GPU] {FULL}. Messages that nobody answers, as of widgets, are lost until it goes on.\n"
            )

    def pass_on(self, channel: Channel, header: Header, parts: list[Buffer]) -> None:
        """Give the kernel a request."""
        assert self.kernel is not None
        self.dialogue.passed_on(channel, header, parts, time.monotonic())
        if channel is Channel.SHELL:
            self._overdue.watch()
        if header.msg_type == "execute_request":
            self._deaths = 0
            self._note_busy()
        elif header.msg_type == "shutdown_request":
            self._expect_exit(shutdown_kind(parts[4]))
        self.kernel.send(channel, parts[1:])
        if header.msg_type == "interrupt_request":
            self.kernel.remind()

    # -- KernelHandler -----------------------------------------------------------------------------------------

    def kernel_said(self, channel: Channel, batch: list[tuple[Buffer, list[Buffer]]]) -> None:
        if self.stands_by:
            return
        for topic, parts in batch:
            try:
                self._said(channel, topic, parts)
            except UNREADABLE as error:
                # A cell can send what it likes; what came with it is others'.
                log.warning("a message of the kernel on %s cannot be read: %s", channel, error)
        self._outflow.flush()
        if channel is Channel.SHELL:
            self._note_busy()
        if self.journal.pending_bytes > self.settings.waiting_bytes and self.kernel is not None:
            self._outputs_held = True
            self.kernel.hold_outputs()  # the disk is slower than the cell; now the cell waits

    def _said(self, channel: Channel, topic: Buffer, parts: list[Buffer]) -> None:
        kind = KINDS[channel]
        if channel is Channel.IOPUB:
            if topic == TOPIC:
                self._notes.heard(parts[3])
            elif topic == STAND_TOPIC:
                self.standstill.heard(parts[3])
            else:
                self._outflow.append(kind, [topic, *parts])
                if bytes(topic).endswith(STATUS):
                    self.dialogue.status(parts, time.monotonic())
        elif channel is Channel.SHELL and read_header(parts[0]).msg_type == RETURNED:
            self._returned(parts[4:])
        else:
            addressed = self.dialogue.answer(channel, parts, time.monotonic())
            if addressed[0] or channel is Channel.STDIN:
                self._outflow.append(kind, addressed)

    def kernel_exited(self, status: int) -> None:
        if self.standstill.kernel_exited(status):
            return
        expected, self._expected_exit = self._expected_exit, ""
        if expected == "stop":
            return
        kernel, self.kernel = self.kernel, None
        if self._kill_timer is not None:
            self._kill_timer.cancel()
            self._kill_timer = None
        self._outputs_held = False
        if kernel is not None:
            kernel.close()
        how = self.cause if self.cause.startswith("memory") else describe_exit(status)
        if not expected and not self.stands_by:
            self._deaths += 1
        then = after_end(expected, how, deaths=self._deaths, way_back=self._notes.way_back(), stands_by=self.stands_by)
        if then.told:
            self.tell(self.dialogue.kernel_died(then.told))
        if then.notice:
            self.notice(then.notice)
        self._set_state(then.state, then.cause)
        if then.start:
            self._run(self._start_kernel())

    def notice(self, text: str) -> None:
        """Say something to the user in the stream of outputs."""
        if not self.is_here:
            return
        self._outflow.append(
            Kind.IOPUB, make_parts(b"stream.stderr", "stream", b"{}", {"name": "stderr", "text": text})
        )
        self._outflow.flush()

    # -- standing still, and going on elsewhere ----------------------------------------------------------------

    @property
    def takes_requests(self) -> bool:
        """Whether there is a kernel, and it is not about to end."""
        return self.kernel is not None and not self._expected_exit

    @property
    def may_be_asked(self) -> bool:
        """Whether the kernel is to answer now."""
        runs = self.kernel is not None and not self.kernel.stopped and self.takes_requests
        return runs and self.is_here and self.standstill.goes_on and not (self.without_devices.holds or self.cut_off)

    @property
    def is_here(self) -> bool:
        """Whether clients may use the session here."""
        return not (self.stands_by or self.standstill.frozen or self.without_devices.asleep)

    @property
    def executing(self) -> bool:
        return self.dialogue.busy

    async def settled(self) -> None:
        """Return when everything that was said is in the journal."""
        await self._outflow.settled()

    def stands_or_goes(self) -> None:
        """Tell the service, which may be another one than that which has stopped it."""
        self._changed(self.report())

    def let_clients_go(self, op: dict[str, Any], reason: str) -> None:
        """Tell all clients, and end their links."""
        self._clients.let_go(op, reason)

    def release_held(self) -> None:
        """Give the kernel what waits, unless it has to wait on, or there is no kernel yet that could take it."""
        if self._holds or not self.takes_requests:
            return
        for held in self.held.take():
            self.pass_on(held.channel, held.header, held.parts)

    def abort_held(self, subshell: str | None) -> None:
        """Answer the cells that wait as the kernel does behind one that failed."""
        for held in self.held.take_cells(subshell):
            self.tell(held.aborted())

    def cancel_held(self) -> None:
        """The user interrupts: the first cell that waits is told so, those behind it as behind one that failed."""
        for index, held in enumerate(self.held.take_cells()):
            self.tell(held.aborted() if index else held.interrupted())

    def handover(self, subshells: tuple[str, ...]) -> Handover:
        """What a successor has to know, beside journal and kernel; on disk too, in case that this process ends."""
        handover = Handover(
            journal=self.journal.id,
            last=self.journal.last,
            acknowledged=self.journal.acknowledged,
            sent=self._clients.sent,
            inboxes=self._clients.received,
            losses=self.journal.losses,
            seen=self.dialogue.seen,
            held=tuple(HeldRequest(held.channel, tuple(map(bytes, held.parts))) for held in self.held),
            kernel_starts=self._kernel_starts,
            subshells=subshells,
        )
        if self.standstill.imaged:
            prompt = tuple(map(bytes, self.dialogue.prompt or ()))
            handover = msgspec.structs.replace(
                handover, imaged=True, asked=self.dialogue.asked, prompt=prompt, checkpoints=self._notes.status
            )
        with contextlib.suppress(OSError):  # then it is in memory only
            temporary = self.folder / f"{HANDOVER}.new"
            temporary.write_bytes(msgspec.msgpack.encode(handover))
            temporary.replace(self.folder / HANDOVER)
        return handover

    def withdraw_handover(self) -> None:
        """Nobody takes the session over."""
        (self.folder / HANDOVER).unlink(missing_ok=True)

    def take_over(self, handover: Handover, *, cell: int | None = None) -> None:
        """Go on with a session whose journal and variables are here.

        Parameters
        ----------
        cell
            After the loss of a host: the cell that the variables are those after.
        """
        self.stands_by = False
        policy = self.spec.on_node_loss
        if not handover.whole:
            self.journal.note_loss(self.spec.lease.epoch)
        self._clients.take_over(handover.inboxes, handover.sent)
        self.restored_cell, self.restored_number = cell, self.journal.last
        self.dialogue.remember(handover.seen)
        self.dialogue.take_over(handover.asked, handover.prompt, time.monotonic())
        self._overdue.watch()
        if handover.checkpoints is not None and self._notes.status is None:
            self._notes.status = handover.checkpoints
        self._kernel_starts = handover.kernel_starts
        self.journal.acknowledge(handover.acknowledged)
        self._outflow.go_on_with(_cells(handover))
        if not handover.whole:
            self._lost_cells = tuple(lost_cells(handover.answered, cell))
            self.notice(notice(self._lost_cells, cell))
        for header in handover.unended:
            ended = make_parts(STATUS, "status", header, {"execution_state": "idle"})
            self.tell([(Channel.IOPUB, ended)])
        rerun = [each for each in handover.broken if policy == "rerun" and len(each.parts) > HEAD_PARTS]
        for each in handover.broken:
            if each not in rerun:
                self.tell(Held.of(each).failed(ENAME, broken_words(policy, cell)))
        if handover.asked and not isinstance(self.kernel, JailedKernel):
            self.tell(self.dialogue.kernel_died("its process was lost on the way to another node"))
        for each in (*rerun, *handover.held):
            self.held.add(Held.of(each))
        self.release_held()
        self._set_state(HostState.BUSY if self.dialogue.busy else HostState.IDLE, "")

    def _returned(self, parts: list[Buffer]) -> None:
        """The kernel gives back a request that it has not begun."""
        returned = self.dialogue.returned(Channel.SHELL, parts)
        if returned is None:
            log.warning("%s came back when nobody waited for it any more", read_header(parts[0]).msg_id)
            return
        held = Held(Channel.SHELL, *returned)
        if self._holds or not self.takes_requests:
            self.held.put_before(held)
        else:
            self.pass_on(held.channel, held.header, held.parts)

    # -- standing still without devices ------------------------------------------------------------------------

    @property
    def suspended(self) -> bool:
        """Whether it has no devices, or is about to have none."""
        return self.without_devices.holds

    @property
    def _holds(self) -> bool:
        """Whether shell requests wait here."""
        return self.standstill.holds or self.without_devices.holds

    def halted(self, kernel: Kernel, why: str = "") -> None:
        """See `WithoutDevices.halted`."""
        self.without_devices.halted(kernel, why)

    def let_clients_sleep(self) -> bool:
        """Let all clients go until they want the session; whether there were any."""
        had = bool(self._clients)
        self.let_clients_go({"op": "moved"}, "the session is parked")
        return had

    def awake(self) -> None:
        """Whoever has woken the session is about to come."""
        self._clients.unattended_since_s = time.time()

    def _interrupted(self) -> bool:
        """The user interrupts. True: the kernel is not to hear of it, or has heard of it."""
        if not self.suspended:
            return self.standstill.interrupted()
        self.without_devices.interrupted()
        return True

    def _refuse_elsewhere(self) -> None:
        if not self.is_here or self.standstill.sealed:
            raise MigrationError(MOVING)

    # -- Source ------------------------------------------------------------------------------------------------

    def not_written(self, why: str) -> None:
        self._set_state(self.state, why)

    def disk_filled(self, why: str) -> None:
        self._changed(self.report())
        if why:
            self.notice(f"\n[remote GPU] {why}; outputs are kept in memory meanwhile.\n")

    def written(self) -> None:
        """The kernel's outputs are taken again, if too many waited for the disk; not those of one that is frozen."""
        held, kernel = self._outputs_held, self.kernel
        if held and self.journal.pending_bytes <= self.settings.waiting_bytes and not self.standstill.frozen:
            self._outputs_held = False
            if kernel is not None and not kernel.stopped:
                kernel.take_outputs()

    # -- inside ------------------------------------------------------------------------------------------------

    def tell(self, messages: list[tuple[Channel, list[Buffer]]]) -> None:
        """Let clients have what is said in the kernel's place."""
        for channel, parts in messages:
            self._outflow.append(KINDS[channel], parts)
        self._outflow.flush()
        self._note_busy()

    def _set_state(self, state: HostState, cause: str) -> None:
        self.state, self.cause = state, cause
        self._changed(self.report())
        self._clients.send_op({"op": "state", "state": state, "cause": cause, "kernel_starts": self._kernel_starts})

    def _note_busy(self) -> None:
        """Report busy and idle, but not for cells too short for anybody to look."""
        if self._busy_timer is None:
            self._busy_timer = asyncio.get_running_loop().call_later(self.settings.busy_report_s, self._report_busy)

    def _report_busy(self) -> None:
        if self._busy_timer is not None:
            self._busy_timer.cancel()
        self._busy_timer = None
        if self.state in (HostState.IDLE, HostState.BUSY):
            state = HostState.BUSY if self.dialogue.busy else HostState.IDLE
            if state is not self.state:
                self._set_state(state, "")

    def _expect_exit(self, why: str) -> None:
        """The kernel is about to end; when it does not by itself, it is killed."""
        self._expected_exit = why
        if self._kill_timer is not None:
            self._kill_timer.cancel()
            self._kill_timer = None
        if self.kernel is not None:
            self._kill_timer = asyncio.get_running_loop().call_later(self.settings.stop_timeout_s / 2, self.kernel.kill)
        elif why == "end":
            self._set_state(HostState.ENDING, "shut down by its client")

    def _run(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _cells(handover: Handover) -> Iterator[tuple[bytes, ...]]:
    """Those that a former host was asked for, and has not answered."""
    for asked in handover.asked:
        if asked.msg_type == "execute_request":
            yield asked.address, asked.header
    for held in (*handover.broken, *handover.held):
        if read_header(held.parts[1]).msg_type == "execute_request":
            yield held.parts
