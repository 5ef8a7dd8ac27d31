"""The driver's library over the files of ``gpu_files``."""

from __future__ import annotations

import fcntl
from typing import Any

import gpu_files

from jupyter_gpuaas.image.cuda_stand_in import StandInLibrary, StandInProcess
from jupyter_gpuaas.image.cuda_states import Action, ProcessState


class FileLibrary(StandInLibrary):
    """Its state machine, and processes that outlive it."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(gpu_files.DEVICES, gpu_files.TOTAL_BYTES), {})

    def _get_state(self, pid: int, out: Any) -> int:
        self._load(pid)
        return super()._get_state(pid, out)

    def _act(self, action: Action, pid: int, arguments: Any) -> int:
        with open(gpu_files.folder().parent / "driver.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._load(pid)
            result = super()._act(action, pid, arguments)
            if (process := self.processes.get(pid)) is not None:
                gpu_files.write(gpu_files.path(pid), process.memory, process.state)
            return result

    def _load(self, pid: int) -> None:
        """This process, and those who have memory beside it."""
        try:
            its = gpu_files.path(pid).name
        except OSError:
            its = ""
        self.processes = {}
        for number, file in enumerate(gpu_files.folder().iterdir()):
            memory, state = gpu_files.read(file)
            self.processes[pid if file.name == its else -1 - number] = StandInProcess(memory, ProcessState(state))
