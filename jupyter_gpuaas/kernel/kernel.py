"""The kernel of a session: IPython's, and the messages that its host and shipped cells need."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from ipykernel.ipkernel import IPythonKernel
from traitlets import Float

from ..errors import CheckpointError, GpuaasError, MigrationError, to_wire
from ..model import CheckpointPlan, Wish
from ..wire.jupyter import DELIMITER, read_route
from .bundles import BundleStore
from .direct import Replies, SharedSocket
from .due import Due
from .exchange import Exchange
from .interrupts import Held
from .look import Handling, look, look_again
from .returning import NOTE as STAND_NOTE
from .returning import RETURNED, Returning
from .subshells import make_subshell
from .transformed import TransformedOnce
from .warming import steps_ahead

if TYPE_CHECKING:
    from .checkpoints import Checkpoints
    from .standby import Standby

DATA_SOCKET = "GPUAAS_DATA_SOCKET"
#: Type and topic of what the kernel tells its host of its checkpoints; no client sees it.
NOTE = "gpuaas_checkpoint"
WARM_UP_S = 0.2
#: Until replies have left, before a capture may hold up the threads that send them.
SENDING_S = 0.05
#: Messages that may be for another shell than their header says.
TO_COMMS = frozenset({"comm_msg", "comm_close"})
#: For checkpoints that are being written when the process is about to be put into an image.
SETTLE_S = 5.0
#: Of the time that a kernel has to end by itself, what goes into writing the last checkpoints.
CLOSING_S = 2.0


class GpuKernel(IPythonKernel):
    """An IPython kernel that can be started ahead and given to a session later."""

    #: ipykernel sleeps before a reply, so that what a cell has printed leaves first. Here it has left by then.
    _execute_sleep = Float(0.0).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.control_handlers["gpuaas_adopt_request"] = self.gpuaas_adopt_request
        self.shell_handlers["gpuaas_request"] = self.gpuaas_request
        self.shell_handlers["gpuaas_checkpoint_request"] = self.gpuaas_checkpoint_request
        self.shell_handlers["gpuaas_standby_request"] = self.gpuaas_standby_request
        self.control_handlers["gpuaas_checkpoint_stop_request"] = self.gpuaas_checkpoint_stop_request
        self.control_handlers["gpuaas_stand_request"] = self.gpuaas_stand_control_request
        self.control_handlers["gpuaas_look_request"] = self.gpuaas_look_request
        self.shell_handlers["gpuaas_stand_request"] = self.gpuaas_stand_shell_request
        for kind in ("comm_open", "comm_msg", "comm_close"):
            self.shell_handlers[kind] = self._beside_cells(self.shell_handlers[kind])
        # A debugger can change variables.
        self.control_handlers["debug_request"] = self._beside_cells(self.control_handlers["debug_request"])
        self.exchange = Exchange(self.shell, BundleStore(os.environ.get(DATA_SOCKET, "")))
        #: None before a session has taken this kernel, and where it takes no checkpoints.
        self.checkpoints: Checkpoints | None = None
        #: Brings the session's variables here; None unless it comes from another host.
        self._standby: Standby | None = None
        self.returning = Returning()
        #: For whoever asks what this kernel does.
        self.handling = Handling()
        #: Whether a session has taken this kernel.
        self._taken = False
        #: What the session told of its checkpoints, until they have begun.
        self._adopted: dict[str, Any] | None = None
        self._beginning = threading.Lock()
        self._due: Due | None = None
        self._shell_socket: SharedSocket | None = None
        #: Messages that the thread of the shell channel has read, and not passed on.
        self._passing_on = 0

    async def gpuaas_adopt_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Become the kernel of a session: take its environment and working folder."""
        content = parent["content"]
        self._taken = True
        reply = {"status": "ok"}
        try:
            os.chdir(content["cwd"])
            os.environ.update(content["env"])
            if most_bytes := content.get("memory_bytes"):
                resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))
            self.returning.still = bool(content.get("standby"))
            if content.get("checkpoints"):
                # Not here: the session can be used before this is done.
                self._adopted = content
                self.io_loop.add_callback(self._begin_checkpoints)
        except OSError as error:
            reply = {"status": "error", "evalue": f"the working folder cannot be entered: {error}"}
        assert self.session is not None
        self.session.send(stream, "gpuaas_adopt_reply", reply, parent, ident=ident)

    async def gpuaas_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Carry out one operation of the client half that is not a cell."""
        try:
            content = {"status": "ok", **await self.exchange.request(parent["content"])}
        except (Exception, KeyboardInterrupt) as error:
            content = {
                "status": "error",
                "ename": type(error).__name__,
                "evalue": str(error),
                "traceback": _rendered(error),
            }
        assert self.session is not None
        self.session.send(stream, "gpuaas_reply", content, parent, ident=ident)

    # -- cells -------------------------------------------------------------------------------------------------

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = False,
        *,
        cell_meta: dict[str, Any] | None = None,
        cell_id: str | None = None,
    ) -> dict[str, Any]:
        """Run a cell; a shipped one brings variables along and has some sent back."""
        with self._beside_a_cell():
            self._begin_checkpoints()
        checkpoints = self.checkpoints
        if checkpoints is None:
            return await self._execute(code, silent, store_history, user_expressions, allow_stdin, cell_meta, cell_id)
        assert self.shell is not None
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and not silent:
            try:
                with self._beside_a_cell():
                    if "remote_gpu" in code:
                        checkpoints.catch_up()
                    checkpoints.before_cell(self._say)
            except KeyboardInterrupt:
                return self._interrupted()
        number = self.shell.execution_count if store_history else 0
        sources = [code, *(user_expressions or {}).values()]
        asks = _is_own_magic(code) and not user_expressions
        run = None
        began = time.monotonic()
        reply: dict[str, Any] = {}
        try:
            with Held() as held:
                if in_main and not asks:
                    run = checkpoints.begins("\n".join(sources))
            if held.pressed:
                reply = self._interrupted()
            else:
                reply = await self._execute(
                    code, silent, store_history, user_expressions, allow_stdin, cell_meta, cell_id
                )
        finally:
            with Held():  # the cell is over, so there is nothing to interrupt
                with self._beside_a_cell():
                    if run is not None or not in_main:
                        aside = _aside(reply, cell_meta, silent)
                        shipped = bool((cell_meta or {}).get("gpuaas"))
                        checkpoints.ended(run, number=number, silent=silent, shipped=shipped, aside=aside)
                with self._beside_a_cell():
                    if code.strip() or user_expressions:
                        counts = not silent and bool(code.strip()) and not _is_own_magic(code)
                        checkpoints.ran(sources, time.monotonic() - began, number=number, counts=counts)
                if not in_main:
                    checkpoints.background()
                self._transformed.forget()
        return reply

    @contextlib.contextmanager
    def _beside_a_cell(self) -> Iterator[None]:
        """What fails here, of ours, is logged: it must not keep a cell from running, nor its user from a reply."""
        try:
            yield
        except Exception:
            self.log.warning("beside a cell:", exc_info=True)
            if self.checkpoints is not None:
                self.checkpoints.background()  # what the cell changes is not known

    async def _execute(
        self,
        code: str,
        silent: bool,
        store_history: bool,
        user_expressions: dict[str, str] | None,
        allow_stdin: bool,
        cell_meta: dict[str, Any] | None,
        cell_id: str | None,
    ) -> dict[str, Any]:
        shipped = (cell_meta or {}).get("gpuaas")
        if shipped:
            try:
                self.exchange.before(shipped)
            except (Exception, KeyboardInterrupt) as error:
                assert self.shell is not None
                self.shell.showtraceback()
                return self._refusal(type(error).__name__, str(error), _rendered(error))
        try:
            reply: dict[str, Any] = await super().do_execute(
                code,
                silent,
                store_history,
                user_expressions,
                allow_stdin,
                cell_meta=cell_meta,
                cell_id=cell_id,
            )
        except KeyboardInterrupt:  # before or after the cell's own code, where IPython expects none
            reply = self._interrupted()
        if shipped:
            reply["gpuaas"] = self.exchange.after(shipped, reply)
        return reply

    def _interrupted(self) -> dict[str, Any]:
        """The reply to a cell that was interrupted; without one, who asked would wait for ever."""
        with Held():
            assert self.shell is not None
            self.shell.showtraceback((KeyboardInterrupt, KeyboardInterrupt(), None))
            return self._refusal("KeyboardInterrupt", "", self.shell._last_traceback or [])

    def _refusal(self, name: str, value: str, trace: list[str]) -> dict[str, Any]:
        return {
            "status": "error",
            "ename": name,
            "evalue": value,
            "traceback": trace,
            "execution_count": self.execution_count,
            "user_expressions": {},
            "payload": [],
        }

    def _say(self, text: str) -> None:
        self.send_response(self.iopub_socket, "stream", {"name": "stderr", "text": text})

    # -- checkpoints -------------------------------------------------------------------------------------------

    def _begin_checkpoints(self) -> None:
        """Before the user's first cell: what differs later from what there is now is the user's."""
        with self._beginning:
            content, self._adopted = self._adopted, None
            if content is None:
                return
            from ..state.hidden import mark_baseline
            from .checkpoints import Checkpoints

            assert self.shell is not None
            mark_baseline(self.shell.user_ns)
            self.shell.transform_cell = self._transformed = TransformedOnce(self.shell.transform_cell)
            self.checkpoints = Checkpoints(
                self.shell,
                msgspec.convert(content["checkpoints"], CheckpointPlan),
                session=content["session"],
                epoch=content["epoch"],
                tell=self._note,
            )
            self._due = Due(self.checkpoints, free=self._may_capture, before=self._let_replies_go, log=self.log)

    def answer_on(self, shell: SharedSocket) -> None:
        """Send the main thread's replies on this socket, which the thread of the shell channel reads."""
        self._shell_socket = shell

    def start(self) -> None:
        """Begin to serve; a kernel that waits for its session has time for what a session will need."""
        super().start()
        if self._shell_socket is not None and self.shell_channel_thread is not None and self.shell_stream is not None:
            self._shell_socket.watched(self.shell_channel_thread.io_loop, self.shell_stream._handle_events)
            way = self.shell_channel_thread.manager._main_to_shell_channel
            way.from_socket = Replies(self._shell_socket, way.from_socket)
        assert self.shell is not None
        self.io_loop.call_later(WARM_UP_S, self._warm_up, steps_ahead(self.shell.user_ns))

    def shell_channel_thread_main(self, msg: Any) -> Any:
        """Pass a message on to its shell; at once where nothing has to be looked up for that, as with cells."""
        if not self._passing_on and self._passed_to_main(msg):
            return None
        self._passing_on += 1
        return self._pass_on(msg)

    async def _pass_on(self, msg: Any) -> None:
        try:
            await super().shell_channel_thread_main(msg)
        finally:
            self._passing_on -= 1

    def _passed_to_main(self, msg: Any) -> bool:
        try:
            behind = next(index for index, frame in enumerate(msg) if frame.bytes == DELIMITER) + 2
            msg_type, subshell_id = read_route(msg[behind].bytes)
        except (StopIteration, IndexError, msgspec.MsgspecError, ValueError):
            return False  # ipykernel says what is wrong with it
        if subshell_id is not None or msg_type in TO_COMMS:
            return False
        assert self.shell_channel_thread is not None
        way = self.shell_channel_thread.manager.get_shell_channel_to_subshell_socket(None)
        way.send_multipart(msg, copy=False)
        return True

    def _warm_up(self, steps: Iterator[None]) -> None:
        """Take the next step, and another after what has come meanwhile, until there is a session to work for."""
        if not self._taken and next(steps, self) is not self:
            self.io_loop.add_callback(self._warm_up, steps)

    async def dispatch_shell(self, msg: Any, /, subshell_id: str | None = None, **more: Any) -> None:
        """Handle a message, and then, before the next one is handled, take the checkpoint that is due.

        The lock of the main shell is still held, and the idle status has been published. While the session is being
        brought to a standstill, the message goes back to the host instead.
        """
        # What comes beside a running cell belongs to it.
        if self.returning.active and not more.get("concurrent") and self._returned(msg, subshell_id):
            return
        try:
            await super().dispatch_shell(msg, subshell_id, **more)
        finally:
            if not more.get("concurrent"):
                self.handling.ended()
        if self._due is None or more.get("concurrent") or self.returning.still:
            return
        if subshell_id is None:
            self._due.after_message()
        else:
            self._due.after_subshell()

    def set_parent(self, ident: Any, parent: Any, channel: str = "shell") -> None:
        """A request begins; or goes on, after one that was handled in its middle."""
        super().set_parent(ident, parent, channel)
        if channel == "shell":
            self.handling.begins(parent.get("header", {}).get("msg_id", ""))

    async def gpuaas_look_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Tell what this kernel does; see ``look``."""
        found = look(self)
        look_again(self)
        assert self.session is not None
        self.session.send(stream, "gpuaas_look_reply", found, parent, ident=ident)

    def _may_capture(self) -> bool:
        """Whether no message is handled in the main shell, and the session does not stand still."""
        return not self.returning.still and not self._main_asyncio_lock.locked()

    def _let_replies_go(self) -> None:
        """Let the thread that sends what could not be sent at once do so: a long pickle would hold it up."""
        if self.iopub_thread is not None and self.iopub_thread.waits:
            said = threading.Event()
            self.iopub_thread.schedule(said.set)
            said.wait(SENDING_S)

    def _beside_cells(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """A handler of messages whose callbacks may change variables."""

        def handle(*arguments: Any) -> Any:
            if self.checkpoints is not None:
                self.checkpoints.background()
            return handler(*arguments)

        return handle

    def wish(self, op: str, *, target: str | None = None, accept_loss: bool = False) -> None:
        """Ask the service for something that is done when the cell that asks has ended; ``model.Wish``."""
        wish = Wish(number=time.time_ns(), op=op, target=target, accept_loss=accept_loss)
        self._note({"wish": msgspec.to_builtins(wish)})

    def _note(self, content: dict[str, Any]) -> None:
        if self.session is not None:
            self.session.send(self.iopub_socket, NOTE, content, parent={}, ident=NOTE.encode())

    async def gpuaas_checkpoint_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Do with checkpoints what the host asks for."""

        def act(checkpoints: Checkpoints) -> Any:
            if self.returning.frozen:
                raise MigrationError("the session has been handed over to another host.")
            content = parent["content"]
            # What is taken has all that one that is due would have; and to ask what has changed is not to wait for it.
            if content.get("op") not in ("take", "outdated"):
                checkpoints.catch_up()
            return checkpoints.request(content)

        self._with_checkpoints(act, stream, "gpuaas_checkpoint_reply", ident, parent)

    async def gpuaas_standby_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Bring the variables of a session here that is still at another host."""

        def act(checkpoints: Checkpoints) -> Any:
            if self._standby is None:
                from .standby import Standby

                self._standby = Standby(checkpoints)
            return self._standby.request(parent["content"])

        self._with_checkpoints(act, stream, "gpuaas_standby_reply", ident, parent)

    def _with_checkpoints(
        self, act: Callable[[Checkpoints], Any], stream: Any, kind: str, ident: Any, parent: dict[str, Any]
    ) -> None:
        """Answer a request of the host's with what comes of it."""
        content: dict[str, Any]
        try:
            self._begin_checkpoints()
            if self.checkpoints is None:
                raise CheckpointError("this session takes no checkpoints.")
            content = {"status": "ok", "result": act(self.checkpoints)}
        except KeyboardInterrupt:
            content = {"status": "error", **to_wire(CheckpointError("it was interrupted."))}
        except GpuaasError as error:
            content = {"status": "error", **to_wire(error)}
        except Exception as error:
            content = {"status": "error", **to_wire(CheckpointError(f"{type(error).__name__}: {error}"))}
        assert self.session is not None
        self.session.send(stream, kind, content, parent, ident=ident)

    async def gpuaas_checkpoint_stop_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Give up what was asked for with a ``gpuaas_checkpoint_request``."""
        if self.checkpoints is not None:
            self.checkpoints.stop_request(str(parent["content"].get("request", "")))
        assert self.session is not None
        self.session.send(stream, "gpuaas_checkpoint_stop_reply", {"status": "ok"}, parent, ident=ident)

    # -- standstill --------------------------------------------------------------------------------------------

    def _returned(self, msg: Any, subshell_id: str | None) -> bool:
        """Send a message back to the host; False when it is to be handled."""
        session, threads = self.session, self.shell_channel_thread
        if session is None or len(msg) == 1:  # one of ipykernel's own
            return False
        idents, frames = session.feed_identities(msg, copy=False)
        try:
            header = session.deserialize(frames, content=False, copy=False)["header"]
        except Exception:
            return False  # ipykernel says what is wrong with it
        stream, aborting = self.shell_stream, self._aborting
        if threads is not None:
            stream = threads.manager.get_subshell_to_shell_channel_socket(subshell_id)
            if subshell_id is not None:
                aborting = threads.manager.get_subshell_aborting(subshell_id)
        kind, of_session, subshell = header["msg_type"], header["session"], subshell_id is not None
        if not self.returning.takes(kind, of_session, subshell=subshell, aborting=aborting):
            return False
        buffers: Any = [frame.buffer for frame in frames[1:]]  # type: ignore[union-attr]  # without the signature
        # On the channel of replies, so that whoever has the reply to a later message has this.
        session.send(stream, RETURNED, {}, {"header": header}, ident=idents, buffers=buffers)
        return True

    def _abort_queues(self, subshell_id: str | None = None) -> None:
        """What waits behind a failed cell is answered as aborted; a part of it may wait at the host."""
        super()._abort_queues(subshell_id)
        if self.returning.active:
            self._tell_stand({"kind": "aborting", "subshell": subshell_id})

    def _tell_stand(self, content: dict[str, Any]) -> None:
        if self.session is not None:
            self.session.send(self.iopub_socket, STAND_NOTE, content, parent={}, ident=STAND_NOTE.encode())

    async def gpuaas_stand_control_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Begin or end a standstill; see ``returning``."""
        op = parent["content"]["op"]
        content: dict[str, Any] = {"status": "ok"}
        if op == "return":
            self.returning.begin()
            threads = self.shell_channel_thread
            content["subshells"] = threads.manager.list_subshell() if threads is not None else []
        elif op == "image":
            content["busy"] = self._before_image()
        elif op == "go_on":
            for subshell in parent["content"].get("subshells", ()) if self.shell_channel_thread is not None else ():
                make_subshell(self.shell_channel_thread, subshell)
            if "epoch" in parent["content"]:
                self._moved(parent["content"]["epoch"], parent["content"]["env"])
            content["done"] = self.returning.end(in_order=False)
        elif op == "freeze":
            self.returning.frozen = True
        assert self.session is not None
        self.session.send(stream, "gpuaas_stand_reply", content, parent, ident=ident)

    async def gpuaas_stand_shell_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """What has its place among the other messages of a shell."""
        content = parent["content"]
        if content["op"] == "go_on":
            self.returning.end(in_order=True)
        elif content["op"] == "mark":
            for output in (sys.stdout, sys.stderr):
                output.flush()
            self._tell_stand({"kind": "mark", "mark": content["mark"]})
        assert self.session is not None
        self.session.send(stream, "gpuaas_stand_reply", {"status": "ok"}, parent, ident=ident)

    def _before_image(self) -> str:
        """Bring to an end what ties this process to its node; gives what does not end soon, in words."""
        self.returning.still = True
        if self.exchange.bundles.moving:
            return "variables of a shipped cell are on their way"
        if self.checkpoints is not None and not self.checkpoints.settle(SETTLE_S):
            return "checkpoints are being written"
        return ""

    def _moved(self, epoch: int, env: dict[str, str]) -> None:
        """This process goes on at another host of its session."""
        os.environ.update(env)
        if self._adopted is not None:
            self._adopted["epoch"] = epoch
        if self.checkpoints is not None:
            self.checkpoints.belong_to(epoch)

    def do_shutdown(self, restart: bool) -> Any:
        """Write the last checkpoints before the end."""
        if self.checkpoints is not None and self._due is not None:
            self._due.catch_up(CLOSING_S / 2)
            self.checkpoints.close(CLOSING_S)
        return super().do_shutdown(restart)


def _is_own_magic(code: str) -> bool:
    """Whether a cell only asks about checkpoints and the like, so that there is nothing to capture after it."""
    return all(line.startswith("%remote_gpu") for line in code.strip().splitlines())


def _aside(reply: dict[str, Any], cell_meta: dict[str, Any] | None, silent: bool) -> str:
    """Why a cell is not one that can be run again; empty if it is."""
    if (cell_meta or {}).get("gpuaas"):
        return "came with %%remote_gpu"
    if reply.get("status") != "ok":
        return "did not come to its end"
    return "ran silently" if silent else ""


def _rendered(error: BaseException) -> list[str]:
    """The error as the shell shows it: ours in words, others with their stack."""
    if isinstance(error, GpuaasError):
        return error._render_traceback_()
    return traceback.format_exception(error)
