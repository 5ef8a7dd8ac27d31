"""Which processes have memory on made-up GPUs: a file for each, which all processes of a test read and write.

A process is known by its environment, its command and its number inside its jail: what CRIU brings along. So the copy
that is made of it elsewhere is the same process for this driver, as it is for the real one.

This folder is on the import path of the processes of such a test, in which nothing else of the tests is.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path

VARIABLE = "STAND_IN_GPUS"
#: UUIDs as the driver has them, and as NVML writes them. The first one belongs to the first node.
DEVICES = (bytes(range(16)), bytes(range(16, 32)))
TOTAL_BYTES = 1 << 30
CHECKPOINTED = 2


def folder() -> Path:
    return Path(os.environ[VARIABLE])


def name(device: bytes) -> str:
    """As NVML has it."""
    return f"GPU-{uuid.UUID(bytes=device)}"


def path(pid: int) -> Path:
    """Its file; raises OSError where there is no such process."""
    about = Path(f"/proc/{pid}")
    status = (about / "status").read_text()
    inner = next(line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:"))
    known = (about / "environ").read_bytes() + (about / "cmdline").read_bytes() + inner.encode()
    return folder() / hashlib.sha256(known).hexdigest()


#: Cell that prints the name of its process's file, which lies where a jail cannot see it.
ITS_FILE = """
import hashlib, os
known = b"".join(open(f"/proc/self/{each}", "rb").read() for each in ("environ", "cmdline")) + str(os.getpid()).encode()
print(hashlib.sha256(known).hexdigest())
"""


def write(file: Path, memory: dict[bytes, int], state: int = 0) -> None:
    told = {"memory": {device.hex(): size for device, size in memory.items()}, "state": state}
    # At once, as others read it at any time, and beside the folder, in which each file is a process.
    new = file.parent.parent / f"{file.name}.{os.getpid()}"
    new.write_text(json.dumps(told))
    new.replace(file)


def read(file: Path) -> tuple[dict[bytes, int], int]:
    """Memory that it has, or needs, on devices; what the driver calls its state."""
    told = json.loads(file.read_text())
    return {bytes.fromhex(device): size for device, size in told["memory"].items()}, told["state"]


def held() -> dict[int, dict[bytes, int]]:
    """Memory on devices of each process that runs."""
    found = {}
    files = {each.name for each in folder().iterdir()}
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            file = path(pid)
            if file.name in files:
                memory, state = read(file)
                if state != CHECKPOINTED:
                    found[pid] = memory
        except (OSError, StopIteration):
            continue
    return found
