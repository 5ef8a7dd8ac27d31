"""Runs the phases of a case in fresh processes.

Importing torch and pandas takes seconds, so each phase is a fork of a *zygote*: a process that has imported libraries
and done nothing else. Set-up and restore come from two different zygotes, with different addresses and different
seeds of ``str`` hashes, as in two kernels. What is restored lands in a process that knows nothing of the case.

A zygote reads requests as JSON lines, forks, and answers with JSON lines.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import linecache
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from tests.state.cases import Case

ROOT = Path(__file__).resolve().parents[2]
#: The zygote's program. Libraries keep hold of `__main__` when they are imported, so it must be the one that cases use.
PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from tests.state.fresh import zygote; zygote(sys.argv[1:])"

PHASE_TIMEOUT_S = 30.0
#: Not polars: its threads do not survive a fork once they run.
PRELOADED = (
    "numpy",
    "pandas",
    "torch",
    "scipy.sparse",
    "sklearn.pipeline",
    "sklearn.linear_model",
    "matplotlib.pyplot",
    "numba",
    "ipywidgets",
    "dill",
    "cloudpickle",
    "jupyter_gpuaas.state",
    "jupyter_gpuaas.store",
)
KEY = b"0123456789abcdef0123456789abcdef"

#: Bound in every case: one thing that cannot be kept must not take others with it.
WITNESS_CELL = "witness = [['a', 1]]\nwitness.append(witness[0])\n"
WITNESS_CHECK = "assert witness == [['a', 1], ['a', 1]] and witness[0] is witness[1], 'a bystander was harmed'\n"


# -- what is tested: systems ---------------------------------------------------------------------


@dataclass
class Restored:
    """What a system gave back: the namespace, and for each name what it says of it (where it says anything)."""

    namespace: dict[str, Any]
    report: Mapping[str, tuple[str, str]]


class System(Protocol):
    """One way to save a notebook's variables. Both methods run in a process of their own."""

    def run_and_save(self, cells: list[str], folder: Path) -> dict[str, Any]:
        """Run the cells as a kernel would, save into the folder, return the namespace."""

    def load(self, folder: Path) -> Restored: ...


def run_cells(cells: list[str], after_each: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Run cells in ``__main__``, as a kernel does."""
    namespace = sys.modules["__main__"].__dict__
    for number, cell in enumerate(cells):
        run_source(cell, f"<cell {number}>", namespace)
        if after_each:
            after_each(cell)
    return namespace


def run_source(source: str, file: str, namespace: dict[str, Any]) -> None:
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    # Not the future statements of this file.
    exec(compile(source, file, "exec", dont_inherit=True), namespace)


class Twin:
    """Saves nothing and restores nothing; shows that a check holds where nothing happened."""

    _namespace: dict[str, Any]

    def run_and_save(self, cells: list[str], folder: Path) -> dict[str, Any]:
        self._namespace = run_cells(cells)
        return self._namespace

    def load(self, folder: Path) -> Restored:
        return Restored(self._namespace, {})


class Ours:
    """`jupyter_gpuaas.state`, captured once behind the last cell, or behind each with its source, as a kernel does."""

    def __init__(self, each_cell: bool) -> None:
        self._each_cell = each_cell

    def run_and_save(self, cells: list[str], folder: Path) -> dict[str, Any]:
        checkpointer = self._checkpointer(folder)
        namespace = sys.modules["__main__"].__dict__
        newest = None

        def capture(source: str | None) -> None:
            nonlocal newest
            newest = checkpointer.capture(namespace, parent=newest, source=source)

        run_cells(cells, capture if self._each_cell else None)
        if not self._each_cell:
            capture(None)
        assert newest is not None
        (folder / "id").write_text(newest.id)
        return namespace

    def load(self, folder: Path) -> Restored:
        # Into `__main__`, as in a kernel: what the notebook imported as `__main__` is its namespace again.
        main = sys.modules["__main__"].__dict__
        result = self._checkpointer(folder).restore((folder / "id").read_text(), into=main)
        report = {
            name: (str(getattr(item.outcome, "value", item.outcome)), item.note) for name, item in result.report.items()
        }
        return Restored(result.namespace, report)

    def _checkpointer(self, folder: Path) -> Any:
        from jupyter_gpuaas.state import Checkpointer
        from jupyter_gpuaas.store import FolderStore

        return Checkpointer(FolderStore(folder / "store"), key=KEY)


class Naive:
    """One pickle a name, and what refuses is left out: what a good share of the checks must find out."""

    def run_and_save(self, cells: list[str], folder: Path) -> dict[str, Any]:
        import cloudpickle

        namespace = run_cells(cells)
        kept = {}
        for name, value in namespace.items():
            if not name.startswith("__"):
                try:
                    kept[name] = cloudpickle.dumps(value)
                except Exception:
                    continue
        (folder / "naive").write_bytes(cloudpickle.dumps(kept))
        return namespace

    def load(self, folder: Path) -> Restored:
        import cloudpickle

        namespace = sys.modules["__main__"].__dict__
        for name, stream in cloudpickle.loads((folder / "naive").read_bytes()).items():
            namespace[name] = cloudpickle.loads(stream)
        return Restored(namespace, {})


SYSTEMS: dict[str, System] = {
    "twin": Twin(),
    "ours": Ours(each_cell=False),
    "ours, each cell": Ours(each_cell=True),
    "naive": Naive(),
}


# -- one phase, in a process of its own ----------------------------------------------------------


def _phase_save(system: System, case: Case, folder: Path) -> dict[str, Any]:
    cells = [WITNESS_CELL, *case.setup]
    try:
        namespace = system.run_and_save(cells, folder)
    except BaseException as error:
        return {"error": _said(error), "in_setup": _is_of_the_case(error)}
    if case.between:
        run_source(case.between, "<between>", namespace)
    return {}


def _phase_load(system: System, case: Case, folder: Path) -> dict[str, Any]:
    try:
        restored = system.load(folder)
    except BaseException as error:
        return {"error": _said(error)}
    answer: dict[str, Any] = {"report": dict(restored.report), "untold": _untold(restored)}
    for part, source in (("check", case.check), ("witness", WITNESS_CHECK), ("strict", case.strict)):
        try:
            run_source(source, f"<{part}>", restored.namespace)
            answer[part] = None
        except BaseException as error:
            answer[part] = {"kind": type(error).__name__, "said": _said(error)}
    return answer


def _untold(restored: Restored) -> list[str]:
    """Names that are reported as lost and do not say why when they are touched."""
    untold = []
    for name, (outcome, note) in restored.report.items():
        if outcome == "lost" and name.isidentifier():
            try:
                _ = restored.namespace[name].anything
            except Exception as error:
                if note and note in str(error):
                    continue
            untold.append(name)
    return untold


def _said(error: BaseException) -> str:
    """The error, and the last line of the case or of the system that it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = next((f" [{frame.line}]" for frame in reversed(frames) if frame.filename.startswith("<")), "")
    if not where and frames:
        where = f" [{Path(frames[-1].filename).name}:{frames[-1].lineno}]"
    return f"{type(error).__name__}: {error}"[:400] + where


def _is_of_the_case(error: BaseException) -> bool:
    """Whether a cell raised it, not the system that was to save what the cells made."""
    frames = traceback.extract_tb(error.__traceback__)
    own = {"fresh.py", "peers.py"}
    for frame in frames:
        if frame.filename.startswith("<cell"):
            return True
        if Path(frame.filename).name not in own:
            return False
    return False


def _phase_whole(system: System, case: Case, folder: Path) -> dict[str, Any]:
    # What happens between capture and restore must not be seen behind it, so an undisturbed twin does without.
    case = replace(case, between="")
    return _phase_save(system, case, folder) or _phase_load(system, case, folder)


PHASES = {"save": _phase_save, "load": _phase_load, "whole": _phase_whole}


def _child(request: dict[str, Any], answer_fd: int) -> None:
    """Be the process of one phase; never returns."""
    # A group of its own: what the case starts ends with it.
    os.setpgid(0, 0)
    folder = Path(request["folder"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(folder / f"{request['phase']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder / "work")
    _reseed()
    system = SYSTEMS[request["system"]]
    main = sys.modules["__main__"].__dict__
    for name in [name for name in main if not name.startswith("__")]:
        del main[name]
    case = Case(**{**request["case"], "allowed": frozenset(), "needs": (), "loses": ()})
    try:
        answer = PHASES[request["phase"]](system, case, folder)
    except BaseException:
        answer = {"error": traceback.format_exc(), "in_harness": True}
    sys.stdout.flush()
    # By the encoder itself: a case patches `json.dumps`.
    os.write(answer_fd, json.JSONEncoder().encode(answer).encode())
    # No finalisers: a kernel that is lost does not run them either.
    os._exit(0)


def _reseed() -> None:
    """Global random states that a fork would otherwise share with its siblings."""
    import random

    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()


# -- the zygote ----------------------------------------------------------------------------------


def zygote(system_files: list[str]) -> None:
    """Import libraries, then fork a child for each line of standard input until it ends."""
    wanted = list(PRELOADED)
    for file in system_files:
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        SYSTEMS.update(module.SYSTEMS)
        wanted += module.PRELOADED
    for name in wanted:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    if "jupyter_gpuaas.state" in sys.modules:
        _warm_up()
    # A collection in a child would write to, and so copy, what all of them share.
    gc.collect()
    gc.freeze()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            out.close()
            _child(request, writing)
        os.close(writing)
        answer = _await(pid, reading, request["timeout_s"])
        print(json.dumps(answer), file=out, flush=True)


def _warm_up() -> None:
    """Load what a first capture loads, and say that all this is not the notebook's, as a kernel does at its start."""
    from jupyter_gpuaas.state import Checkpointer
    from jupyter_gpuaas.state.hidden import mark_baseline
    from jupyter_gpuaas.store import MemoryStore

    checkpointer = Checkpointer(MemoryStore(), key=KEY)
    # Of an installed module whose distribution has another name, which takes a search through all of them.
    checkpointer.capture({"__name__": "__main__", "some": sys.modules.get("sklearn.pipeline", sys)})
    mark_baseline(sys.modules["__main__"].__dict__)


def _await(pid: int, reading: int, timeout_s: float) -> dict[str, Any]:
    """The answer of a child; ends it, and what it started, in any case."""
    end = time.monotonic() + timeout_s
    # An answer may be larger than a pipe holds, and grandchildren may hold the pipe open: read, and watch the child.
    process = os.pidfd_open(pid)
    content = b""
    timed_out = False
    try:
        while True:
            ready, _, _ = select.select([reading, process], [], [], max(0.0, end - time.monotonic()))
            if reading in ready and (part := os.read(reading, 65536)):
                content += part
            elif ready:
                break
            else:
                timed_out = True
                break
    finally:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended before it had a group of its own
        _, status = os.waitpid(pid, 0)
        os.close(process)
        os.close(reading)
    if content and not timed_out:
        return json.loads(content)
    if timed_out:
        return {"error": f"did not end within {timeout_s:g} s", "hung": True}
    return {"error": f"ended with status {status}", "died": True}


# -- the side of the tests -----------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """How a case ended.

    Attributes
    ----------
    outcome
        ``exact``, ``rebuilt``, ``replayed`` or ``reported``; or ``refused`` (an error instead of a checkpoint or of a
        restored state), ``wrong`` (restored without a word, but not what it was), ``gone`` (a name is missing without
        a word), ``hung``, ``died``.
    """

    outcome: str
    detail: str = ""


class HarnessError(Exception):
    """The case or the harness is broken, not what it tests."""


class Zygote:
    """A process that has only imported libraries; each phase is a fork of it."""

    def __init__(self, python: str, hash_seed: int, system_files: list[Path]) -> None:
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("GPUAAS_", "JPY_"))}
        environ |= {
            "PYTHONHASHSEED": str(hash_seed),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MPLBACKEND": "agg",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._one_at_a_time = threading.Lock()
        self._process = subprocess.Popen(
            [python, "-c", PROGRAM, str(ROOT), *map(str, system_files)],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    def run(self, phase: str, system: str, case: Case, folder: Path, timeout_s: float) -> dict[str, Any]:
        request = {
            "phase": phase,
            "system": system,
            "case": asdict(case) | {"allowed": [], "needs": [], "loses": []},
            "folder": str(folder),
            "timeout_s": timeout_s,
        }
        assert self._process.stdin and self._process.stdout
        with self._one_at_a_time:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise HarnessError("the zygote is gone")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(PHASE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Processes:
    """The two zygotes, and what they say of a case. Two threads keep both busy.

    Parameters
    ----------
    python
        The interpreter; another one for a system that lives in an environment of its own.
    system_files
        Python files with a dict ``SYSTEMS`` of more systems, and ``PRELOADED``, what to import before the forks.
    """

    def __init__(self, python: str = sys.executable, system_files: list[Path] | None = None) -> None:
        self._saving = Zygote(python, 1, system_files or [])
        self._loading = Zygote(python, 2, system_files or [])

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *exception: object) -> None:
        self._saving.close()
        self._loading.close()

    def run(self, system: str, case: Case, timeout_s: float = PHASE_TIMEOUT_S) -> Verdict:
        """Set up and save in one fresh process, restore and check in another."""
        folder = Path(tempfile.mkdtemp(prefix="gpuaas-case-"))
        (folder / "work").mkdir()
        try:
            if system == "twin":
                return _judge(self._saving.run("whole", system, case, folder, timeout_s), case)
            saved = self._saving.run("save", system, case, folder, timeout_s)
            if saved.get("in_setup") or saved.get("in_harness"):
                raise HarnessError(f"{case.id}: {saved['error']}")
            if saved:
                return Verdict("hung" if "hung" in saved else "died" if "died" in saved else "refused", saved["error"])
            return _judge(self._loading.run("load", system, case, folder, timeout_s), case)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _judge(loaded: dict[str, Any], case: Case) -> Verdict:
    if "error" in loaded:
        if loaded.get("in_setup") or loaded.get("in_harness"):
            raise HarnessError(f"{case.id}: {loaded['error']}")
        return Verdict("hung" if "hung" in loaded else "died" if "died" in loaded else "refused", loaded["error"])
    report: dict[str, list[str]] = loaded["report"]
    notes = "; ".join(f"{name} {outcome}: {note}" for name, (outcome, note) in report.items() if outcome != "stored")
    if loaded["witness"]:
        return Verdict("wrong", f"{loaded['witness']['said']} ({notes})")
    if loaded["untold"]:
        return Verdict("wrong", f"lost, but touched without a reason: {', '.join(loaded['untold'])} ({notes})")
    said = {outcome for outcome, _ in report.values()}
    lost = [name for name, (outcome, _) in report.items() if outcome == "lost"]
    names = {name for name in lost if name.isidentifier()}
    beside = {name.strip("<>") for name in lost} - names
    if beside - set(case.loses):
        return Verdict("wrong", f"reports something that the case does not have ({notes})")
    if lost:
        failed = loaded["check"]
        if failed and not beside and not _is_because_of(failed, names):
            return Verdict("wrong", f"{failed['said']} (which is not because of {', '.join(names)}; {notes})")
        return Verdict("reported", notes + (f" (check: {failed['said']})" if failed else ""))
    if loaded["check"]:
        kind = "gone" if loaded["check"]["kind"] == "NameError" else "wrong"
        return Verdict(kind, loaded["check"]["said"] + (f" ({notes})" if notes else ""))
    for outcome in ("replayed", "rebuilt"):
        if outcome in said:
            return Verdict(outcome, notes)
    if loaded["strict"]:
        return Verdict("wrong", f"{loaded['strict']['said']} (without a word)")
    return Verdict("exact")


def _is_because_of(failed: dict[str, str], lost: set[str]) -> bool:
    """Whether a check failed where it touched what is lost: by its own error, or in a line that speaks of it."""
    _, _, line = failed["said"].rpartition(" [")
    return failed["kind"] in ("NameLost", "NameError") or not lost.isdisjoint(re.findall(r"\w+", line))
