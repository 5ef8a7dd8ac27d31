"""ipykernel's iopub thread, without its TCP port."""

from __future__ import annotations

import os
from typing import Any

import zmq
from ipykernel.iostream import IOPubThread
from zmq.eventloop.zmqstream import ZMQStream


class IpcIOPubThread(IOPubThread):
    """Takes what forked processes print on an ipc socket beside the kernel's others, instead of a port of loopback.

    Any process of the machine reaches a port. And a process image can be restored only where every port on which the
    process listened is free, which for one that the system chose at random is a matter of luck.
    """

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
