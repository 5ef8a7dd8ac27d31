"""ipykernel's iopub thread without its TCP port, and without a hand-over to it where there is nothing to wait for."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import zmq
from ipykernel.iostream import IOPubThread, OutStream
from zmq.eventloop.zmqstream import ZMQStream

from .direct import SharedSocket, share
from .interrupts import Postponed


class IpcIOPubThread(IOPubThread):
    """Takes what forked processes print on an ipc socket beside the kernel's others, instead of a port of loopback.

    Any process of the machine reaches a port. And a process image can be restored only where every port on which the
    process listened is free, which for one that the system chose at random is a matter of luck.

    What a thread publishes it sends itself, while nothing of before waits here. When the host takes no more, messages
    wait here in their order, and this thread sends them.
    """

    def __init__(self, socket: Any, *arguments: Any, **more: Any) -> None:
        self._shared: SharedSocket = share(socket)
        super().__init__(socket, *arguments, **more)
        self._shared.watched(self.io_loop, self._xpub_stream._handle_events)

    def send_multipart(self, *arguments: Any, **more: Any) -> None:
        """Send a message behind those that wait."""
        if len(arguments) != 1 or more.keys() - {"copy"} or not self.at_once(partial(self._sent, *arguments, **more)):
            super().send_multipart(*arguments, **more)

    def at_once(self, act: Callable[[], bool]) -> bool:
        """Do what is this thread's to do, in the calling one; False when it has to wait, or was not done."""
        if self._events or not self.thread.is_alive():
            return False
        with Postponed():
            if not self._shared.lock.acquire(blocking=False):
                return False
            try:
                return not self._events and not self.closed and act()
            finally:
                self._shared.lock.release()

    @property
    def waits(self) -> bool:
        """Whether something waits here to be sent."""
        return bool(self._events)

    def using(self) -> Any:
        """Enter this to send several messages that nothing may come between."""
        return self._shared.lock

    def _sent(self, parts: Any, *, copy: bool = True) -> bool:
        try:
            self._shared.send_at_once(parts, copy=copy)
        except zmq.Again:
            return False
        return True

    def _handle_event(self, message: Any) -> None:
        with self._shared.lock:  # what was taken out of the queue must be sent before anything else
            super()._handle_event(message)

    def _setup_pipe_in(self) -> None:
        endpoint = self.socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        self._forks = f"{endpoint}-forks" if endpoint.startswith("ipc://") else ""
        if self._forks:
            pipe_in = self.socket.context.socket(zmq.PULL)
            pipe_in.linger = 0
            try:
                pipe_in.bind(self._forks)
            except zmq.ZMQError:  # the folder's path leaves no room for this one
                pipe_in.close()
                self._forks = ""
            else:
                self._pipe_uuid = os.urandom(16)
                self._pipe_in = ZMQStream(pipe_in, self.io_loop)
                self._pipe_in.on_recv(self._handle_pipe_msg)
                return
        super()._setup_pipe_in()

    def _setup_pipe_out(self) -> tuple[Any, Any]:
        if not self._forks:
            sockets: tuple[Any, Any] = super()._setup_pipe_out()
            return sockets
        context: Any = zmq.Context()  # a forked process cannot use that of its parent
        pipe_out = context.socket(zmq.PUSH)
        pipe_out.linger = 3000
        pipe_out.connect(self._forks)
        return context, pipe_out


class DirectStream(OutStream):
    """A stream for ``sys.stdout`` or ``sys.stderr`` that is flushed by the thread that asks for it.

    ipykernel flushes both twice a cell, and waits for its iopub thread each time.
    """

    #: Whether a thread has taken from the buffers and not sent it yet.
    _taken = False

    def flush(self) -> None:
        """Return when everything that was written before is on its way."""
        thread = self.pub_thread
        if not isinstance(thread, IpcIOPubThread):
            super().flush()
        # In this order: what is in no buffer any more has been taken, then sent or left to wait.
        elif self._buffers or self._taken or thread.waits or self.echo is not None:
            if not thread.at_once(self._flush_at_once):
                super().flush()

    def _flush_at_once(self) -> bool:
        if self._hooks:  # of this thread; they are not called for what it prints
            return False
        pending = self._flush_pending
        self._flush()
        self._flush_pending = pending  # the timer that was set still runs
        return True

    def _flush(self) -> None:
        thread = self.pub_thread
        if not isinstance(thread, IpcIOPubThread) or not self._is_master_process():
            super()._flush()
            return
        with thread.using():
            self._taken = True
            try:
                super()._flush()
            finally:
                self._taken = False

    def _schedule_flush(self) -> None:
        """See to it that what was written is sent soon; not by an event of the thread, for which others would wait."""
        if not self._flush_pending:
            self._flush_pending = True
            self._io_loop.add_callback(self._io_loop.call_later, self.flush_interval, self._flush)
