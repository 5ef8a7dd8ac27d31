"""The kernel application: ipykernel's, with an iopub that never drops and a life tied to its host."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Any

import zmq
from ipykernel import kernelapp
from ipykernel.kernelapp import IPKernelApp
from traitlets import DottedObjectName, Type

from .direct import share
from .iopub import IpcIOPubThread
from .kernel import GpuKernel
from .packing import pack, unpack

PR_SET_PDEATHSIG = 1


class GpuKernelApp(IPKernelApp):
    """Starts a ``GpuKernel``."""

    kernel_class = Type("jupyter_gpuaas.kernel.kernel.GpuKernel", klass="ipykernel.kernelbase.Kernel").tag(config=True)
    outstream_class = DottedObjectName("jupyter_gpuaas.kernel.iopub.DirectStream", allow_none=True).tag(config=True)

    def init_poller(self) -> None:
        """Die with the host, however it ends: nobody else would know of this process."""
        if sys.platform == "linux":
            host = os.getppid()
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != host:  # it ended before prctl took effect
                os._exit(1)
        else:
            super().init_poller()

    def init_signal(self) -> None:
        """Let the host end what the main thread waits for in the system, so that it sees a signal it has slept over."""
        super().init_signal()
        signal.signal(signal.SIGURG, lambda number, frame: None)

    def _bind_socket(self, s: Any, port: int) -> Any:
        """Block iopub at its high-water mark instead of dropping; the host always reads on, to its journal."""
        if s.socket_type == zmq.XPUB:
            s.setsockopt(zmq.XPUB_NODROP, 1)
        return super()._bind_socket(s, port)

    def init_iopub(self, context: Any) -> None:
        """Listen on no TCP port."""
        vars(kernelapp)["IOPubThread"] = IpcIOPubThread  # where ipykernel takes it from; this process has one kernel
        super().init_iopub(context)

    def init_kernel(self) -> None:
        """Let the main thread send its replies itself."""
        self.session.pack, self.session.unpack = pack, unpack
        shell = share(self.shell_socket)
        super().init_kernel()
        if self.shell_channel_thread:
            self.kernel.answer_on(shell)

    def init_extensions(self) -> None:
        """Load ``%remote_gpu`` before the user's own extensions."""
        super().init_extensions()
        assert self.shell is not None
        if "jupyter_gpuaas" not in self.shell.extension_manager.loaded:
            try:
                self.shell.extension_manager.load_extension("jupyter_gpuaas")
            except Exception:
                self.log.warning("The magics %%remote_gpu are not there:", exc_info=True)


__all__ = ["GpuKernel", "GpuKernelApp"]
