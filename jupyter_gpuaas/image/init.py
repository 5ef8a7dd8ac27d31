"""Process 1 of a jail. Run by its path, in isolated mode: it imports the standard library only.

``jail.py`` starts it with one argument, JSON::

    {"home": where the jail's folder is seen, "folder": the jail's folder, "binds": [[inside, outside], ...],
     "scratch": [[inside, outside or ""], ...], "argv": [...] or null, "root": pid, "last_pid": n, "cwd": inside}

It makes PID, mount and IPC namespaces, mounts what the jail sees, says ``{"init": pid}`` and then ``{}`` or
``{"error": "..."}`` on its standard output, and from then on only reaps. With ``argv`` it starts that as process
``root``, which is the tree that an image is made of; without, CRIU is going to make that tree. It ends when ``root``
has ended, with its status, and everything in the jail with it; and it ends when its own parent does.

Process 1 is no part of an image: each node has its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID = 0x20000, 0x8000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG = 1
#: Not more descriptors than this were open in who started us.
MOST_DESCRIPTORS = 65_536

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    arguments = [text.encode() if text is not None else None for text in (source, target, kind, data)]
    result = _libc.mount(arguments[0], arguments[1], arguments[2], ctypes.c_ulong(flags), arguments[3])
    _check(result, f"mount {target}")


def die_with_parent() -> None:
    _check(_libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0), "prctl")


def say(descriptor: int, message: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(message).encode() + b"\n")


def furnish(spec: dict[str, Any]) -> None:
    """Mount what the jail sees. Sources are opened first: a mount may hide them."""
    places = [(spec["home"], spec["folder"]), *spec["scratch"], *spec["binds"]]
    opened = [
        (inside, os.open(outside, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY) if outside else -1)
        for inside, outside in places
    ]
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    # Terminals have numbers too, which must be free: `!command` of a notebook runs in one.
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    mount("/dev/pts/ptmx", "/dev/ptmx", None, MS_BIND)
    for inside, source in opened:
        os.makedirs(inside, exist_ok=True)
        if source < 0:
            mount("gpuaas", inside, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
        else:
            mount(f"/proc/self/fd/{source}", inside, None, MS_BIND | MS_REC)
            os.close(source)


def own_descriptors(keep: int) -> None:
    """Standard streams on /dev/null, and nothing else open but ``keep``: what was opened outside of the jail belongs
    to mounts that it does not have, and CRIU could not dump a process that inherited it."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    os.closerange(3, keep)
    os.closerange(keep + 1, MOST_DESCRIPTORS)


def start_tree(spec: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            os.chdir(spec["cwd"])
            os.execv(spec["argv"][0], spec["argv"])
        finally:
            os._exit(127)
    return pid


def reap(root: int) -> int:
    """Reap until ``root`` has ended; gives its wait status."""
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            # Before CRIU has made the tree. Its root becomes our child when CRIU ends, which tells us nothing; that it
            # ended later does. SIGCHLD is blocked, so one that came between the two calls is still there.
            signal.sigwait({signal.SIGCHLD})
            continue
        if pid == root:
            return status


def run_jail(spec: dict[str, Any], lifeline: int) -> int:
    """What process 1 does."""
    die_with_parent()
    os.read(lifeline, 1)  # the parent still lived when prctl had taken effect
    report = os.dup(1)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # what is ignored by default would not be kept
    try:
        furnish(spec)
        own_descriptors(report)
        if spec["last_pid"]:
            with open("/proc/sys/kernel/ns_last_pid", "w") as file:
                file.write(str(spec["last_pid"]))
        os.set_inheritable(report, False)
        if spec["argv"]:
            pid = start_tree(spec)
            if pid != spec["root"]:
                raise OSError(f"process {spec['root']} got number {pid}")
    except OSError as error:
        say(report, {"error": str(error)})
        return 1
    # Errors of the start of the tree went to the descriptor that we were given; now nothing of the outside is left.
    os.dup2(0, 2)
    say(report, {})
    os.close(report)
    return reap(spec["root"])


def main() -> int:
    spec = json.loads(sys.argv[1])
    die_with_parent()
    try:
        unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID)
        mount(None, "/", None, MS_REC | MS_PRIVATE)
    except OSError as error:
        say(1, {"error": str(error)})
        return 1
    lifeline, alive = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(alive)
        status = 1
        try:
            status = run_jail(spec, lifeline)
        finally:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF if status else 0)
    say(1, {"init": pid})
    os.write(alive, b"1")
    os.close(1)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
