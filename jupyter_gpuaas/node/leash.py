"""The leash of a node: a process that stops the node's kernels when its lease is over.

Agent and hosts may hang, or be stopped, just when this is needed, so it is neither of them. It uses the standard
library only and nothing of this package, so that it starts at once and needs little: ``python -I -S leash.py FOLDER``.

Its agent tells it on its standard input, a line of JSON each time, until when the lease runs and which hosts have a
session, and reads as many answers. Without an agent it goes on by itself. A host's processes are those with its mark
in their environment, and all below them: so it needs no list of kernels that could be out of date, and stops one that
was started a moment ago, too. What it stops is in ``leash-PID.json`` before it is stopped; only that is ever continued,
by the host, which knows of kernels that stand still for other reasons. A disk that takes no file keeps it from nothing:
it knows by itself, and tries to write again. Until it can there is no file, so that nobody believes an old one.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = b"GPUAAS_RUN="
#: While the lease is over: pause between two looks for processes that were started since.
LOOK_S = 0.2
#: Looks in a row, until nothing runs any more.
LOOKS = 20
#: A host that does not take its notice in this time gets none.
TELL_S = 0.2
#: Pause between two tries to write what could not be written.
WRITE_AGAIN_S = 0.5

Held = dict[str, dict[int, int]]  # run id -> pid -> start time


def now_s() -> float:
    """A clock that all processes of the machine share, and that goes on while the machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def send(pid: int, started: int, number: int) -> bool:
    """Send a signal to the process that had this start time, and to no other that has its pid by now."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        found = stat(pid)
        if found is None or found[2] != started:
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def stat(pid: int) -> tuple[str, int, int] | None:
    """State letter, parent and start time (in ticks since the boot); None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[1]), int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def is_there(pid: int, started: int) -> bool:
    """Whether the process that had this start time has not ended."""
    found = stat(pid)
    return found is not None and found[0] not in "ZXx" and found[2] == started


def running(runs: dict[str, int]) -> Held:
    """Processes of these hosts (run id -> pid of the host, which is left out) that run."""
    return _found(runs, lambda state: state not in "TtZXx")


def standing(runs: dict[str, int]) -> Held:
    """Those that are stopped, by whomever."""
    return _found(runs, lambda state: state == "T")


def _found(runs: dict[str, int], wanted: Callable[[str], bool]) -> Held:
    facts: dict[int, tuple[str, int, int]] = {}
    below: dict[int, list[int]] = {}
    owner: dict[int, str] = {}
    marks = {MARK + run.encode(): run for run in runs}
    for name in os.listdir("/proc"):
        if not name.isdigit() or (found := stat(int(name))) is None:
            continue
        pid = int(name)
        facts[pid] = found
        below.setdefault(found[1], []).append(pid)
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            for entry in file.read().split(b"\0"):
                if entry in marks:
                    owner[pid] = marks[entry]
    waiting = list(owner)
    while waiting:
        pid = waiting.pop()
        for child in below.get(pid, ()):
            if child not in owner:
                owner[child] = owner[pid]
                waiting.append(child)
    held: Held = {}
    for pid, run in owner.items():
        state, _, started = facts[pid]
        if pid != runs[run] and wanted(state):
            held.setdefault(run, {})[pid] = started
    return held


class Leash:
    """The state of the process."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / f"leash-{os.getpid()}.json"
        self._written = False
        self._until_s: float | None = None
        self._runs: dict[str, tuple[int, str]] = {}  # run id -> pid and folder of its host
        self._held: Held = {}
        self._since_s: dict[str, float] = {}
        self._over = False
        self._told: set[str] = set()
        #: Number of the last line that was heard, and by run of the last before something of it was stopped.
        self._number = 0
        self._stopped_at: dict[str, int] = {}

    def run(self) -> None:
        """Until there is no agent any more, and nothing that would have to be stopped."""
        self._save()
        heard, pending = True, b""
        poll = select.poll()
        poll.register(0, select.POLLIN)
        while heard or any(_alive(pid) for pid, _ in self._runs.values()):
            if heard and poll.poll(self._pause_ms()):
                data = os.read(0, 1 << 16)
                heard = bool(data)
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    answer = self._hear(json.loads(line))
                    with contextlib.suppress(OSError):
                        os.write(1, json.dumps(answer).encode() + b"\n")
            elif not heard:
                time.sleep(LOOK_S)
            if self._until_s is not None and now_s() >= self._until_s:
                self._stop()
            else:
                self._over = False
                self._told.clear()
            if not self._written:
                self._save()
        self._remove()

    def _pause_ms(self) -> int | None:
        pauses_s = [] if self._written else [WRITE_AGAIN_S]
        if self._until_s is not None:
            pauses_s.append(LOOK_S if self._over else max(0.0, self._until_s - now_s()))
        return int(1000 * min(pauses_s)) + 1 if pauses_s else None

    def _hear(self, line: dict[str, Any]) -> dict[str, Any]:
        self._number = line["number"]
        if "runs" in line:
            self._runs = {run: (pid, folder) for run, (pid, folder) in line["runs"].items()}
            for run in self._held.keys() - self._runs.keys():
                del self._held[run]
        if "until_s" in line:
            self._until_s = line["until_s"]
        for run, (since_s, processes) in line.get("take", {}).items():
            self._since_s[run] = min(since_s, self._since_s.get(run, since_s))
            self._held.setdefault(run, {}).update(map(tuple, processes))
            self._stopped_at[run] = self._number
        for run, known in line.get("let_go", {}).items():
            # By the answer to line ``known``. 1. It goes on.  2. The lease is over again.  3. This arrives, and is not
            # of what was stopped since, which nobody would ever let go on.
            if self._stopped_at.get(run, 0) < known:
                self._held.pop(run, None)
                self._since_s.pop(run, None)
        if line.keys() & {"take", "let_go"}:
            self._save()
        return {"number": line["number"], "held": self._in_words()}

    def _stop(self) -> None:
        """Stop whatever runs; what is started meanwhile is seen by the next look."""
        self._over = True
        for _ in range(LOOKS):
            found = running({run: pid for run, (pid, _) in self._runs.items()})
            if not found:
                break
            for run, processes in found.items():
                self._since_s.setdefault(run, now_s())
                self._held.setdefault(run, {}).update(processes)
                self._stopped_at[run] = self._number
            self._save()
            for processes in found.values():
                for pid, started in processes.items():
                    send(pid, started, signal.SIGSTOP)
            time.sleep(0.002)
        for run, (_, folder) in self._runs.items():
            if run not in self._told:
                # One of which nothing ran (it is suspended, or moves) may be another's by now, too.
                self._held.setdefault(run, {})
                self._since_s.setdefault(run, now_s())
                self._stopped_at[run] = self._number
                self._save()
                self._told.add(run)
                _tell(folder)

    def _in_words(self) -> dict[str, Any]:
        return {run: [self._since_s.get(run, 0.0), list(processes.items())] for run, processes in self._held.items()}

    def _save(self) -> None:
        draft = self._file.with_suffix(".new")
        words = {"pid": os.getpid(), "started": started(os.getpid()), "held": self._in_words()}
        try:
            draft.write_text(json.dumps(words))
            draft.replace(self._file)
            self._written = True
        except OSError:
            self._written = False
            self._remove()

    def _remove(self) -> None:
        for path in (self._file, self._file.with_suffix(".new")):
            with contextlib.suppress(OSError):
                path.unlink()


def started(pid: int) -> int:
    """Its start time; 0 when it is gone."""
    found = stat(pid)
    return 0 if found is None else found[2]


def _alive(pid: int) -> bool:
    found = stat(pid)
    return found is not None and found[0] not in "ZXx"


def _tell(folder: str) -> None:
    """Let a host know; it may hang, and then reads it when it goes on."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as control:
        control.settimeout(TELL_S)
        control.connect(os.path.join(folder, "control"))
        control.sendall(json.dumps({"op": "stopped", "at_s": now_s()}).encode() + b"\n")
        # A socket that is closed before its answers are read takes the line back: the host's report, then its answer.
        answers = b""
        while answers.count(b"\n") < 2 and (data := control.recv(1 << 16)):
            answers += data


if __name__ == "__main__":
    with contextlib.suppress(OSError):
        os.nice(-5)  # to be in time on a busy machine, where that is allowed
    # Of a terminal that its agent was started from.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Leash(Path(sys.argv[1])).run()
