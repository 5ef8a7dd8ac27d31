"""What a hostile or unlucky notebook may hold: none of it may break a checkpoint, or come back otherwise unsaid."""

from __future__ import annotations

import builtins
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpuaas.state import Checkpointer, NameLost
from jupyter_gpuaas.store import FolderStore, MemoryStore

#: Set where a test runs in a process of its own.
ALONE = "GPUAAS_TEST_ALONE"
KEY = b"a key that nobody else has"


def notebook(source: str = "", name: str | None = "__main__") -> dict[str, Any]:
    namespace: dict[str, Any] = {"__builtins__": builtins.__dict__}
    if name is not None:
        namespace["__name__"] = name
    exec(compile(source, "<cell>", "exec", dont_inherit=True), namespace)  # without the future of this file
    return namespace


def make() -> Checkpointer:
    return Checkpointer(MemoryStore(), key=KEY, hidden=False)


def again(source: str, name: str | None = "__main__") -> tuple[dict[str, Any], dict[str, Any]]:
    """The namespace that comes back, and its report."""
    checkpointer = make()
    restored = checkpointer.restore(checkpointer.capture(notebook(source, name)).id)
    return restored.namespace, restored.report


# -- what a manifest cannot hold: a checkpoint that was committed must be readable ----------------


@pytest.mark.parametrize("key", [5, ("a", 1), "", "\ud800", "x" * 5000, "<cwd>"], ids=repr)
def test_key_that_no_manifest_holds_is_reported_and_harms_nobody(key: Any) -> None:
    space = notebook("good = [1]")
    space[key] = "value"
    checkpointer = make()
    restored = checkpointer.restore(checkpointer.capture(space).id)
    assert restored.namespace["good"] == [1]
    (lost,) = [name for name, verdict in restored.report.items() if verdict.outcome == "lost"]
    with pytest.raises(NameLost, match="cannot be stored"):
        restored.namespace[lost].anything  # noqa: B018


def test_name_of_a_subclass_of_str_is_kept() -> None:
    space = notebook()
    space[type("S", (str,), {})("abc")] = 4
    checkpointer = make()
    assert checkpointer.restore(checkpointer.capture(space).id).namespace["abc"] == 4


@pytest.mark.parametrize(
    "hostile",
    [
        "class E(Exception):\n    def __str__(self): raise RuntimeError\ndef fail(): raise E",
        "def fail(): raise ValueError('x' * 100_000 + '\\ud800')",
        "def fail(): raise ValueError('\\ud800')",
        "def fail(): raise SystemExit(3)",
        "def fail(): raise type('B', (BaseException,), {})",
    ],
)
@pytest.mark.parametrize("method", ["__reduce__(self)", "__setstate__(self, state)"])
def test_whatever_a_method_raises_is_a_reason_to_report(hostile: str, method: str) -> None:
    space, report = again(f"{hostile}\nclass A:\n    def {method}: fail()\na = A(); a.x = 1; good = [1]")
    assert space["good"] == [1] and report["a"].outcome == "lost" and report["good"].outcome == "stored"


@pytest.mark.parametrize("wrong", [{"label": 5}, {"label": "x" * 5000}, {"cell": -1}, {"epoch": "one"}])
def test_nothing_is_committed_that_cannot_be_read(wrong: dict[str, Any]) -> None:
    checkpointer = make()
    with pytest.raises(Exception):  # noqa: B017
        checkpointer.capture(notebook("a = 1"), **wrong)
    assert checkpointer.store.manifests() == []
    assert checkpointer.restore(checkpointer.capture(notebook("a = 1")).id).namespace["a"] == 1


# -- names ----------------------------------------------------------------------------------------


def test_restored_functions_find_the_name_of_their_module() -> None:
    space, _ = again("def f(): return __name__")
    assert space["f"]() == "__main__"


def test_annotations_of_variables_are_kept() -> None:
    space, _ = again("x: int = 3\ny: 'later'")
    assert space["__annotations__"] == {"x": int, "y": "later"}


def test_exception_of_a_namespace_without_a_name() -> None:
    source = "class My(Exception):\n    def __init__(self, a, *, b): super().__init__('m'); self.b = b\nm = My(1, b=2)"
    space, _ = again(source, None)
    assert (space["m"].b, space["m"].args) == (2, ("m",))


# -- classes --------------------------------------------------------------------------------------


def test_qualified_names_of_inner_classes_are_kept() -> None:
    space, _ = again("class A:\n    class B:\n        class C: pass\nb = A.B()")
    assert space["A"].B.C.__qualname__ == "A.B.C" and type(space["b"]) is space["A"].B


def test_enums_whose_members_were_made_by_code_of_their_own() -> None:
    space, _ = again(
        "import enum\n"
        "class Coordinate(bytes, enum.Enum):\n"
        "    def __new__(cls, value, label):\n"
        "        made = bytes.__new__(cls, [value]); made._value_ = value; made.label = label\n"
        "        return made\n"
        "    X = 0, 'x'\n    Y = 1, 'y'\n"
        "class Kept(enum.Flag, boundary=enum.KEEP):\n    A = 1\n"
        "class Plain(enum.Enum):\n    R = [1]\n"
        "Plain.R.note = Plain.R.value; Plain.extra = 'set later'; x = Coordinate.X; kept = Kept(9)"
    )
    kind = space["Coordinate"]
    assert space["x"] is kind.X is kind(0) and (kind.Y.label, bytes(kind.Y)) == ("y", b"\1")
    assert space["kept"] == space["Kept"](9)
    assert space["Plain"].R.note is space["Plain"].R.value and space["Plain"].extra == "set later"


def test_typed_dicts_keep_what_is_required() -> None:
    space, _ = again(
        "import typing\nclass A(typing.TypedDict, total=False):\n    'doc'\n    a: int\n    b: typing.Required[str]\n"
        "class B(A):\n    c: int"
    )
    assert space["A"].__required_keys__ == {"b"} and space["B"].__required_keys__ == {"b", "c"}
    assert space["A"].__doc__ == "doc"


def test_what_typing_names_is_kept() -> None:
    space, _ = again(
        "import typing\nP = typing.ParamSpec('P'); V = typing.TypeVarTuple('V'); N = typing.NewType('N', int)\n"
        "T = typing.TypeVar('T'); call = typing.Callable[P, T]"
    )
    assert space["call"].__args__ == (space["P"], space["T"]) and space["N"].__supertype__ is int


# -- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("key", lambda c, done: Checkpointer(c.store, key=20)),  # type: ignore[arg-type]  # bytes(20) is a key of zeros
        ("key", lambda c, done: Checkpointer(c.store, key=None)),  # type: ignore[arg-type]
        ("namespace", lambda c, done: c.capture([1])),
        ("parent", lambda c, done: c.capture({}, parent=5)),
        ("touched", lambda c, done: c.capture({}, touched="a")),
        ("label", lambda c, done: c.capture({}, label=None)),
        ("cell", lambda c, done: c.capture({}, cell="1")),
        ("checkpoint", lambda c, done: c.restore(None)),
        ("names", lambda c, done: c.restore(done, names="a")),
        ("device_map", lambda c, done: c.restore(done, device_map={"cpu": 5})),
        ("into", lambda c, done: c.restore(done, into=[])),
        ("replay", lambda c, done: c.restore(done, replay="perhaps")),
    ],
)
def test_wrong_argument_is_named(name: str, call: Any) -> None:
    checkpointer = make()
    with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
        call(checkpointer, checkpointer.capture(notebook("a = 1")))


# -- library objects ------------------------------------------------------------------------------


def test_class_of_a_part_of_a_library_that_nobody_imported_is_the_librarys() -> None:
    script = """
import sys; sys.path.insert(0, {root!r})
import numpy as np
from jupyter_gpuaas.state import Checkpointer
from jupyter_gpuaas.store import FolderStore, MemoryStore
assert "numpy.rec" not in sys.modules
space = {{"records": np.zeros(3, [("x", "i4")]).view(np.recarray)}}
space["one"] = space["records"][1]
c = Checkpointer(MemoryStore(), key="0123456789abcdef")
back = c.restore(c.capture(space).id).namespace
assert type(back["records"]) is np.recarray
back["one"].x = 5
assert back["records"].x[1] == 5
"""
    root = str(Path(__file__).resolve().parents[2])
    subprocess.run([sys.executable, "-c", script.format(root=root)], check=True, timeout=60)


# -- point in time, and all or nothing ------------------------------------------------------------


def test_thread_that_writes_meanwhile_cannot_damage_a_checkpoint() -> None:
    space = notebook("import numpy as np\na = np.zeros(1 << 20); d = {}")
    checkpointer, stop = make(), threading.Event()

    def write_on() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            space["a"][::4096] = number
            space["d"][number % 100] = space[f"new{number % 50}"] = number
            space.pop(f"new{number * 3 % 50}", None)

    thread = threading.Thread(target=write_on)
    thread.start()
    try:
        for _ in range(12):
            checkpointer.verify(checkpointer.capture(space))
    finally:
        stop.set()
        thread.join()


def test_restore_that_fails_leaves_the_namespace_as_it_was() -> None:
    space = notebook("a = [1]; gone = 2\ndef f(): return a")
    checkpointer = make()
    done = checkpointer.capture(space)
    exec("a = [3]; del gone; later = 4", space)
    before = dict(space)

    def give_up(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpointer.restore(done, into=space, progress=give_up)
    assert space == before and space["a"] is before["a"]
    assert checkpointer.restore(done, into=space).namespace["f"]() == [1] and "later" not in space


def test_restoring_some_names_touches_no_others() -> None:
    space = notebook("a = 1; lost = (n for n in [1, 2] for _ in [0]); next(lost)")
    checkpointer = make()
    done = checkpointer.capture(space)
    assert done.report["lost"].outcome == "lost"
    space["lost"] = "made again"
    checkpointer.restore(done, into=space, names=frozenset({"a"}))
    assert space["lost"] == "made again"


def test_many_names_are_no_square_of_names() -> None:
    spent = []
    for count in (500, 4000):
        space = notebook(f"for i in range({count}): globals()[f'v{{i}}'] = [i]")
        checkpointer = make()
        took = []
        for _ in range(4):
            started = time.process_time()
            checkpointer.capture(space)
            took.append(time.process_time() - started)
        spent.append(min(took[1:]))
    assert spent[1] < 8 * 4 * spent[0], spent  # a square would be 64 times as much


def test_restore_of_many_names_makes_few_journeys_to_the_store() -> None:
    space = notebook("for i in range(3000): globals()[f'v{i}'] = [i]")
    checkpointer = make()
    done = checkpointer.capture(space)
    calls = []
    fetch = checkpointer.store.fetch
    checkpointer.store.fetch = lambda wanted: calls.append(len(wanted)) or fetch(wanted)  # type: ignore[method-assign,func-returns-value]
    assert checkpointer.restore(done).namespace["v2999"] == [2999]
    checkpointer.verify(done)
    assert len(calls) < 20 < 3000 < sum(calls)


class _Interrupt:
    """Raises KeyboardInterrupt at one line of this package, or counts its lines."""

    def __init__(self, at: int = 0) -> None:
        self.lines, self._at = 0, at

    def __call__(self, frame: Any, event: str, _: Any) -> Any:
        if "/jupyter_gpuaas/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self._at:
                raise KeyboardInterrupt
        return self


@pytest.mark.parametrize("how", ["capture", "begin"])
def test_interrupt_at_any_line_leaves_everything_usable(how: str, tmp_path: Path) -> None:
    if not os.environ.get(ALONE):
        # In a process of its own: every line is traced, and a capture goes through all modules that there are.
        this = f"{__file__}::test_interrupt_at_any_line_leaves_everything_usable[{how}]"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", this]
        done = subprocess.run(command, env={**os.environ, ALONE: "1"}, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout
        return
    space = notebook("import numpy as np\na = np.zeros(4); b = a[1:]; x = [1]; y = [x]; d = {'number': 0}")
    store = FolderStore(tmp_path)
    checkpointer = Checkpointer(store, key=KEY, hidden=False)

    def take() -> Any:
        return checkpointer.capture(space) if how == "capture" else checkpointer.begin(space).write()

    newest = take()
    lines, chance = 0, random.Random(3)
    for number in range(60):
        space["a"][0] = space["d"]["number"] = number
        tracer = _Interrupt(chance.randint(1, lines) if lines else 0)
        sys.settrace(tracer)
        try:
            newest = take()
            lines = tracer.lines
        except KeyboardInterrupt:
            newest = take()
        finally:
            sys.settrace(None)
        back = Checkpointer(FolderStore(tmp_path), key=KEY, hidden=False).restore(newest).namespace
        assert back["d"]["number"] == back["a"][0] == number
        assert back["b"].base is back["a"] and back["y"][0] is back["x"]
    for one in checkpointer.checkpoints():
        checkpointer.verify(one)
    for one in checkpointer.checkpoints()[:-1]:
        checkpointer.forget(one)
    checkpointer.collect()
    checkpointer.verify(newest)
