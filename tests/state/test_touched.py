"""Which variables a cell may have changed: cells that try to hide it, and random programs that are really run."""

from __future__ import annotations

import builtins
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_gpuaas.state.capture import Tracker
from jupyter_gpuaas.state.touched import Known, Touch, facts, known_of, touched
from tests.state.touching import digest, everything_known, names_of

SETUP = """
import sys, gc, functools
x = [1]; y = x; other = [2]; third = {}; data = []; text = "hello"
big = [0] * 10
def f(): data.append(1)
def outer(): f()
def pure(a): return a + 1
def keep(item, into=third): into[item] = 1
def counter():
    count = [0]
    def step():
        count[0] += 1
        return count[0]
    return step
step = counter()
class C:
    made = []
    def __init__(self): C.made.append(self)
    def poke(self): other.append(3)
    @property
    def size(self): data.append(2); return 1
    def __repr__(self): big.append(1); return "C"
c = C()
table = {"go": f}
partial = functools.partial(keep, 5)
def produce():
    while True:
        other.append(1)
        yield 1
gen = produce()
def hidden(): exec("x.append(1)")
def wrapped_hidden(): hidden()
def frames(): return sys._getframe(1).f_globals["x"]
def decorate(function):
    data.append(function)
    return function
escape = eval
ns = globals()
system = sys
"""


def world(source: str = SETUP) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins.__dict__}
    exec(source, namespace)
    return namespace


WORLD = world()
KNOWN = [*everything_known(WORLD), known_of({"fig"}, escapes={"pyplot"})]
KNOWN += [known_of({"held"}, retained=True)]
WORLD["fig"] = WORLD["held"] = 1.5
OUTSIDE = {"fig", "held"}  # what any call may change
ALL = None


def look(cell: Any, **options: Any) -> Touch:
    return touched(cell, KNOWN, WORLD, background=False, **options)


#: cell -> what it must look at, what any call may change left out; it may look at no more than the last column says.
CELLS: list[tuple[str, set[str] | None]] = [
    # nothing, or nearly
    ("", set()),
    ("pass", set()),
    ("# x.append(1)", set()),
    ("1", set()),
    ("'x'", set()),
    ("'''x.append(1)'''", set()),
    ("import math", set()),
    ("from os import path", set()),
    ("new = 1", set()),
    ("new = [1, 2, 3]", set()),
    ("print('x')", set()),
    ("def helper(): x.append(1)", set()),
    ("helper = lambda: x.append(1)", set()),
    ("async def helper(): x.append(1)", set()),
    ("1 + 1", set()),
    ("[n for n in range(3)]", set()),
    # names
    ("x", {"x", "y"}),
    ("new = x", {"x", "y"}),
    ("x.append(1)", {"x", "y"}),
    ("y.append(1)", {"x", "y"}),
    ("x += [1]", {"x", "y"}),
    ("x[0] = 2", {"x", "y"}),
    ("del x[0]", {"x", "y"}),
    ("del x", {"x", "y"}),
    ("x = 1", {"x", "y"}),
    ("del nothing_of_this_name", set()),
    ("for text in []: pass", {"text"}),
    ("for x[0] in [1, 2]: pass", {"x", "y"}),
    ("with open('/dev/null') as text: pass", {"text"}),
    ("import math as text", {"text"}),
    ("[x.append(n) for n in range(3)]", {"x", "y"}),
    ("(x.append(n) for n in range(3))", {"x", "y"}),
    ("{x.append(n): 1 for n in range(3)}", {"x", "y"}),
    ("(lambda: x.append(1))()", {"x", "y"}),
    ("if (text := 3): pass", {"text"}),
    ("a, *b = x", {"x", "y"}),
    ("match x:\n    case [1, *text]: pass", {"x", "y", "text"}),
    ("print(f'{x.append(1)}')", {"x", "y"}),
    ("try:\n    1/0\nexcept Exception as text:\n    pass", {"text"}),
    ("raise ValueError(x.append(1))", {"x", "y"}),
    ("1/0\nx.append(1)", {"x", "y"}),
    ("assert x.pop()", {"x", "y"}),
    ("global text\ntext = 2", {"text"}),
    ("note: x = 3", {"x", "y"}),
    # through functions
    ("f()", {"f", "data"}),
    ("outer()", {"outer", "f", "data"}),
    ("def helper(): outer()\nhelper()", {"outer", "f", "data"}),
    ("pure(1)", {"pure"}),
    ("keep(1)", {"keep", "third"}),
    ("partial()", {"partial", "keep", "third"}),
    ("step()", {"step"}),
    ("table['go']()", {"table", "f", "data"}),
    ("list(map(f, []))", {"f", "data"}),
    ("next(gen)", {"gen", "other"}),
    ("for _unused in zip(range(2), gen): pass", {"gen", "other"}),
    ("sorted([1, 2], key=lambda n: x.append(n))", {"x", "y"}),
    ("@decorate\ndef helper(): pass", {"decorate", "data"}),
    ("def helper(a=x.append(1)): pass", {"x", "y"}),
    ("def helper() -> x.append(1): pass", {"x", "y"}),
    ("class D(C): pass\nD()", {"C", "other", "data", "big"}),
    ("class D:\n    x.append(1)", {"x", "y"}),
    ("class D:\n    x = x.append(1)", {"x", "y"}),
    ("class D:\n    global text\n    text = 1", {"text"}),
    ("def helper():\n    global text\n    text = 1\nhelper()", {"text"}),
    # through classes and their objects
    ("C()", {"C", "other", "data", "big"}),
    ("c.poke()", {"c", "C", "other"}),
    ("c.size", {"c", "C", "data"}),
    ("c", {"c", "C", "big"}),
    ("str(c)", {"c", "C", "big"}),
    ("c.new = x", {"c", "C", "x", "y"}),
    ("type(c).made.clear()", {"c", "C"}),
    # asynchronous
    ("await thing(x)", {"x", "y"}),
    ("async with thing(): x.append(1)", {"x", "y"}),
    ("async for text in thing(): pass", {"text"}),
    ("import asyncio\nasyncio.create_task(thing(x))", {"x", "y"}),
    # what escapes
    ("exec('x.append(1)')", ALL),
    ("eval('x')", ALL),
    ("compile('x', '', 'eval')", ALL),
    ("globals()['x'].append(1)", ALL),
    ("locals()['x'].append(1)", ALL),
    ("vars()['x'].append(1)", ALL),
    ("__import__('__main__').x.append(1)", ALL),
    ("import __main__", ALL),
    ("import __main__ as m\nm.x.append(1)", ALL),
    ("from __main__ import x as z\nz.append(1)", ALL),
    ("import sys\nsys.modules[__name__].x.append(1)", ALL),
    ("from sys import modules as m\nm['__main__'].x.append(1)", ALL),
    ("import sys as s\ns._getframe()", ALL),
    ("import gc\ngc.get_objects()", ALL),
    ("import gc as g\ng.get_referrers(1)", ALL),
    ("from gc import get_objects", ALL),
    ("import inspect\ninspect.stack()", ALL),
    ("from inspect import currentframe as cf\ncf().f_globals", ALL),
    ("import ctypes\nctypes.cast(1, ctypes.py_object)", ALL),
    ("import ctypes as k\nk.string_at(1)", ALL),
    ("def helper():\n    import ctypes as k\n    k.string_at(1)\nhelper()", ALL),
    ("import importlib\nimportlib.reload(sys)", ALL),
    ("import importlib as i\ni.import_module('__main__')", ALL),
    ("import pickle\npickle.loads(b'')", ALL),
    ("from pickle import loads", ALL),
    ("from os.path import *", ALL),
    ("import not_installed_and_not_pythons", ALL),
    ("f.__globals__['x'].append(1)", ALL),
    ("().__class__.__base__.__subclasses__()", ALL),
    ("try:\n    1/0\nexcept Exception as e:\n    e.__traceback__.tb_frame", ALL),
    ("gen.gi_frame", ALL),
    ("breakpoint()", ALL),
    ("get_ipython().user_ns['x'].append(1)", ALL),
    ("get_ipython().run_line_magic('run', 'script.py')", ALL),
    ("get_ipython().run_line_magic('reset', '-f')", ALL),
    ("get_ipython().run_line_magic(which, '')", ALL),
    ("get_ipython()", ALL),
    ("hidden()", ALL),
    ("wrapped_hidden()", ALL),
    ("[w() for w in [wrapped_hidden]]", ALL),
    ("frames()", ALL),
    ("escape('x.append(1)')", ALL),
    ("list(map(escape, ['x.append(1)']))", ALL),
    ("ns['x'].append(1)", ALL),
    ("system.modules", ALL),
    ("getattr(system, 'mod' + 'ules')", ALL),
    ("getattr(sys, 'mod' + 'ules')", ALL),
    ("frame.query('a > @f(1)')", ALL),
    ("frame.eval('b = @f(1)')", ALL),
    # what only looks as if it escaped
    ("sys.path", {"sys"}),
    ("import re\nre.compile('x')", set()),
    ("gc.collect()", {"gc"}),
    ("model.eval()", set()),
    ("list(model.modules())", set()),
    ("import inspect\ninspect.signature(pure)", {"pure"}),
    ("import pickle\npickle.dumps(x)", {"x", "y"}),
    ("np.stack([x])", {"x", "y"}),
    # magics, as the shell writes them
    ("get_ipython().system('ls')", set()),
    ("files = get_ipython().getoutput('ls $text')", {"text"}),
    ("get_ipython().system('echo {x.append(1)} {')", {"x", "y"}),
    ("get_ipython().system('echo {x!r:>10}')", {"x", "y"}),
    ("get_ipython().run_line_magic('time', 'x.append(1)')", {"x", "y"}),
    ("get_ipython().run_line_magic('timeit', '-n 1 -r1 f()')", {"f", "data"}),
    ("get_ipython().run_cell_magic('time', '', 'x.append(1)\\nf()\\n')", {"x", "y", "f", "data"}),
    ("get_ipython().run_cell_magic('capture', 'text', 'x.append(1)')", {"x", "y", "text"}),
    ("get_ipython().run_cell_magic('bash', '--out text', 'ls')", {"text"}),
    ("get_ipython().run_cell_magic('time', '', 'exec(\"x\")')", ALL),
    ("get_ipython().run_cell_magic('time', '', '%run x')", ALL),
    ("get_ipython().run_line_magic('pinfo', 'x')", {"x", "y"}),
    ("def helper():\n    get_ipython().system('ls')\nhelper()", set()),
    # never ran, or not all of it
    ("x.append(", set()),
    ("x.append(1)\n  y = 2", set()),
    ("x.append(1)\nreturn", {"x", "y"}),
    ("x.append(1)\nbreak\ntext = 1", {"x", "y"}),
    ("%time x.append(1)", ALL),
    ("!ls", ALL),
]


@pytest.mark.parametrize(("cell", "must"), CELLS, ids=[cell for cell, _ in CELLS])
def test_touched_of_a_cell(cell: str, must: set[str] | None) -> None:
    found = look(cell)
    if must is None:
        assert found.names is None
        assert found.why
    else:
        assert found.names is not None, found.why
        assert must <= found.names


MINIMAL = [
    *("pass", "x", "x.append(1)", "new = x", "import math", "new = 1", "del x", "pure(1)", "keep(1)", "step()"),
    *("def helper(): x.append(1)", "class D:\n    x.append(1)", "model.eval()", "partial()"),
]


@pytest.mark.parametrize("cell", MINIMAL)
def test_touched_is_no_more_than_needed(cell: str) -> None:
    must = dict(CELLS)[cell]
    found = look(cell).names
    assert must is not None and found is not None
    names = {name for name in found if name in {name for group in KNOWN for name in group.names}}
    assert names - OUTSIDE == {name for group in KNOWN if group.names & must for name in group.names}


@pytest.mark.parametrize("cell", ["print()", "x", "pure(1)", "x.n = 1", "text = 1", "1 + text", "for n in x: pass"])
def test_touched_by_code_of_others_includes_what_is_held_outside(cell: str) -> None:
    found = look(cell).names
    assert found is not None and found >= OUTSIDE


@pytest.mark.parametrize("cell", ["pass", "import math", "new = x", "def helper(): f()", "new = [x, 1]", "a, b = x, y"])
def test_touched_by_nothing_that_runs_leaves_what_is_held_outside(cell: str) -> None:
    found = look(cell).names
    assert found is not None and not found & OUTSIDE


def test_touched_with_something_in_the_background_is_everything() -> None:
    assert touched("pass", KNOWN, WORLD, background=True).names is None


@pytest.mark.parametrize("kind", ["finalizer", "hook"])
def test_touched_of_what_runs_by_itself_is_part_of_every_cell(kind: str) -> None:
    tidy = compile("def tidy(): log.append(1)", "", "exec").co_consts[0]
    groups = [known_of({"tidy"}, [tidy], escapes=[kind]), known_of({"log"}), known_of({"rest"})]
    assert touched("pass", groups, ["tidy", "log", "rest"], background=False).names == {"tidy", "log"}


def test_touched_of_a_definition_that_is_bound_anew_includes_what_referred_to_it() -> None:
    groups = [known_of({"C"}), known_of({"c"}, references={"C"}), known_of({"other"})]
    assert touched("class C: pass", groups, ["C", "c", "other"], background=False).names == {"C", "c"}
    assert touched("C.made", groups, ["C", "c", "other"], background=False).names == {"C"}
    redefine = compile("def redefine():\n    global C\n    C = 1", "", "exec").co_consts[0]
    groups.append(known_of({"redefine"}, [redefine]))
    found = touched("redefine()", groups, ["C", "c", "other", "redefine"], background=False).names
    assert found == {"redefine", "C", "c"}


def test_touched_by_garbage_whose_class_has_no_name_any_more() -> None:
    body = compile("def __del__(self): log.append(1)", "", "exec").co_consts[0]
    groups = [known_of((), [body], escapes=["finalizer"]), known_of({"log"}), known_of({"rest"})]
    assert touched("pass", groups, ["log", "rest"], background=False).names == {"log"}
    groups = [known_of((), [compile("exec('')", "", "exec")], escapes=["finalizer"])]
    assert touched("pass", groups, [], background=False).names is None


def test_touched_of_a_definition_that_a_destructor_finds_by_name() -> None:
    namespace = world("data = []\ndef g(): pass\nclass C:\n    def __del__(self): g()\nc = C()")
    cell = "def g(): data.append(1)\nc = None"
    before = everything_known(namespace)
    exec(cell, namespace)
    found = touched(cell, before, namespace, background=False).names
    assert namespace["data"] == [1]
    assert found is not None and "data" in found


def test_touched_of_a_name_that_nobody_has_looked_at_is_everything() -> None:
    assert touched("x.poke()", [], ["x"], background=False).names is None
    assert touched("x = 1", [], ["x"], background=False).names == {"x"}
    assert touched("_ + _12; Out[3]", [], ["_", "_12", "Out"], background=False).names == {"_", "_12", "Out"}


def test_touched_of_what_could_not_be_looked_into_is_everything() -> None:
    groups = [Known(frozenset({"lost"})), known_of({"data"})]
    assert touched("lost.go()", groups, ["lost", "data"], background=False).names is None
    assert touched("len(data)", groups, ["lost", "data"], background=False).names == {"data"}
    assert touched("new = lost", groups, ["lost", "data", "new"], background=False).names == {"lost", "new"}


def test_touched_of_several_cells_is_that_of_all() -> None:
    found = look(["new = lambda: x.append(1)", "new()"]).names
    assert found is not None and found >= {"x", "y"}
    assert touched(["x = 1", "x"], [], ["x"], background=False).names == {"x"}


def test_touched_of_names_that_are_gone_includes_their_group() -> None:
    groups = [known_of({"a", "b"})]
    assert touched("del a", groups, ["b"], background=False).names == {"a", "b"}


def test_touched_of_code_is_that_of_its_source() -> None:
    for mode in ("exec", "single"):
        assert look(compile("f()", "<cell>", mode)).names == look("f()").names
    assert look(compile("x", "<cell>", "single")).names == look("x").names


def test_touched_of_an_alias_needs_no_value_where_the_attribute_says_it() -> None:
    assert touched("s.modules", [], [], background=False).names is None
    assert touched("s.user_ns", [], [], background=False).names is None


def test_touched_of_a_variable_named_like_a_module_is_judged_by_its_value() -> None:
    groups = [known_of({"inspect"})]
    assert touched("inspect.go()", groups, {"inspect": [1]}, background=False).names is None  # by its name
    assert touched("len(inspect)", groups, {"inspect": [1]}, background=False).names == {"inspect"}
    assert touched("len(inspect)", groups, {"inspect": __import__("inspect")}, background=False).names is None


def test_touched_of_the_shell_under_another_name_is_everything() -> None:
    shell = type("InteractiveShell", (), {})()
    assert touched("ip.anything()", [known_of({"ip"})], {"ip": shell}, background=False).names is None


def test_touched_of_an_alias_of_a_module_within_a_function_is_everything() -> None:
    namespace = world("import ctypes as k\ndef g(): return k.string_at\nx = 1")
    assert touched("g()", everything_known(namespace), namespace, background=False).names is None


def test_touched_of_an_exception_with_its_frames_is_everything() -> None:
    namespace = world("x = []\ntry:\n    1/0\nexcept ZeroDivisionError as e:\n    error = e")
    assert touched("error.anything", [known_of({"error"})], namespace, background=False).names is None


def test_touched_of_objects_of_a_group_that_escape_is_everything() -> None:
    group = known_of({"box"}, objects=[1, "a", eval])
    assert group.opaque == "uses eval"
    assert touched("box[0]('x')", [group], ["box"], background=False).names is None
    assert touched("new = box", [group], ["box"], background=False).names == {"box"}


def test_touched_of_a_module_of_the_user_is_everything(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_tools.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_own_tools  # type: ignore[import-not-found]  # noqa: F401

    try:
        assert look("import my_own_tools").names is None
        assert look("import msgspec").names is not None
        assert look("import hypothesis.strategies as st").names is not None
    finally:
        del sys.modules["my_own_tools"]


def test_facts_are_cached_and_include_code_inside() -> None:
    code = compile("def a():\n    def b(): deep.x = 1\n    return b", "", "exec")
    assert facts(code) == facts(compile("def a():\n    def b(): deep.x = 1\n    return b", "", "exec"))
    assert facts(code).names == {"a", "deep"}
    assert facts(code).own == {"a"}
    assert facts(code).stores_attributes and not facts(code).calls
    assert facts(compile("print(f.__qualname__)\nx = 1", "", "exec")).binds == {"x"}


def test_touched_takes_far_less_than_a_millisecond() -> None:
    cell = "for i in range(3):\n    x.append(i)\n    total = [n + 1 for n in x]\nprint(len(x), outer())\n"
    groups = [*KNOWN, *(known_of({f"v{n}"}) for n in range(200))]
    look(cell)
    best = min(_timed(cell, groups) for _ in range(20))
    assert best < 0.001


def _timed(cell: str, groups: list[Known]) -> float:
    start = time.perf_counter()
    touched(cell, groups, WORLD, background=False)
    return time.perf_counter() - start


# -- random programs, really run -----------------------------------------------------------------

DATA = ["d0", "d1", "d2", "d3"]
CODE = ["k0", "k1", "k2", "k3"]
data_names = st.sampled_from(DATA)
code_names = st.sampled_from(CODE)

values = st.one_of(
    st.just("[0]"),
    st.just("{}"),
    st.integers(0, 9).map(str),
    data_names,
    data_names.map(lambda name: f"[{name}]"),
    data_names.map(lambda name: f"{{'a': {name}}}"),
    code_names.map(lambda name: f"[{name}]"),
)

bodies = st.one_of(
    data_names.map(lambda name: f"poke({name})"),
    code_names.map(lambda name: f"call({name})"),
    st.tuples(data_names, values).map(lambda pair: f"global {pair[0]}; {pair[0]} = {pair[1]}"),
    data_names.map(lambda name: f"exec_like = [poke(item) for item in [{name}]]"),
)

definitions: list[Any] = [
    lambda k, body: f"def {k}():\n    {body}",
    lambda k, body: f"def {k}(fallback=d0):\n    poke(fallback); (lambda: poke(fallback))()",
    lambda k, body: f"def make():\n    kept = d1\n    def inner():\n        poke(kept)\n    return inner\n{k} = make()",
    lambda k, body: f"def make(kept=[0]):\n    def inner():\n        kept[0] += 1\n    return inner\n{k} = make()",
    lambda k, body: f"class {k}:\n    store = d2\n    def __init__(self):\n        {body}",
    lambda k, body: f"class K:\n    def __call__(self):\n        {body}\n{k} = K()\ndel K",
    lambda k, body: f"def de(fn):\n    poke(d3)\n    def w():\n        fn()\n    return w\n@de\ndef {k}():\n    {body}",
    lambda k, body: f"def gen():\n    while True:\n        {body}\n        yield\nrun = gen()\n{k} = run.__next__",
    lambda k, body: f"{k} = lambda: poke(d1)",
    lambda k, body: f"def {k}():\n    def nested():\n        {body}\n    nested()",
    lambda k, body: f"class B:\n  @property\n  def p(self):\n    {body}\nclass {k}(B):\n  def go(self): self.p",
    lambda k, body: f"class Z:\n    def __del__(self):\n        {body}\n{k} = [Z()]\ndel Z",
    lambda k, body: f"class Z:\n    def __eq__(self, other):\n        {body}\n        return True\n{k} = Z()",
]

statements = st.one_of(
    st.tuples(data_names, values).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    data_names.map(lambda name: f"poke({name})"),
    code_names.map(lambda name: f"call({name})"),
    code_names.map(lambda name: f"{name} == 1"),
    code_names.map(lambda name: f"{name}"),
    st.tuples(code_names, code_names).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    st.tuples(data_names, data_names).map(lambda pair: f"add({pair[0]}, {pair[1]})"),
    code_names.map(lambda name: f"{name} = None"),
    data_names.map(lambda name: f"del {name}; {name} = 1"),
    st.just("pass"),
    st.tuples(st.sampled_from(definitions), code_names, bodies).map(lambda parts: parts[0](parts[1], parts[2])),
)

HELPERS = """
def poke(value):
    if isinstance(value, list): value.append(1)
    elif isinstance(value, dict): value[len(value)] = 1
def add(value, item):
    if isinstance(value, list): value.append(item)
    elif isinstance(value, dict): value['x'] = item
depth = [0]
def call(value):
    if depth[0] > 5: return
    depth[0] += 1
    try:
        made = value() if callable(value) else value
        if hasattr(made, 'go'): made.go()
        elif isinstance(made, list) and made and callable(made[0]): made[0]()
    except Exception: pass
    finally: depth[0] -= 1
d0 = [0]; d1 = {}; d2 = [1]; d3 = d0; k0 = k1 = k2 = k3 = None
"""


programs = st.lists(st.lists(statements, min_size=1, max_size=3).map("\n".join), min_size=1, max_size=8)


@settings(max_examples=400, deadline=None)
@given(programs)
def test_touched_includes_whatever_a_random_cell_changed(cells: list[str]) -> None:
    check_program(cells, everything_known, may_give_up=False)


@settings(max_examples=100, deadline=None)
@given(programs)
def test_touched_from_what_a_capture_knows_includes_whatever_a_random_cell_changed(cells: list[str]) -> None:
    def captured(namespace: dict[str, Any]) -> list[Known]:
        tracker = Tracker(namespace)
        tracker.look()
        return [group.known for group in tracker.groups]

    check_program(cells, captured, may_give_up=True)


def check_program(cells: list[str], look_at: Callable[[dict[str, Any]], list[Known]], *, may_give_up: bool) -> None:
    namespace = world(HELPERS)
    for cell in cells:
        groups = look_at(namespace)
        objects = {name: namespace[name] for name in names_of(namespace)}
        before = {name: digest(value, namespace, name) for name, value in objects.items()}
        try:
            exec(compile(cell, "<cell>", "exec"), namespace)
        except Exception as error:
            error.__traceback__ = None
        found = touched(cell, groups, namespace, background=False)
        if found.names is None:
            assert may_give_up and "could not be looked into" in found.why, found.why
            continue
        for name, value in objects.items():
            if digest(value, namespace, name) != before[name]:
                assert name in found.names, (cell, name)
        del objects, value  # What the cell freed ends now, not in the midst of the next.
        for group in groups:
            assert group.names <= found.names or group.names.isdisjoint(found.names)


def test_digest_sees_changes_deep_inside() -> None:
    namespace = world("inner = []\ndef f(): return inner\nbox = [f, {'a': inner}]")
    before = digest(namespace["box"], namespace)
    assert digest(namespace["box"], namespace) == before
    namespace["inner"].append(1)
    assert digest(namespace["box"], namespace) != before
    assert isinstance(namespace["f"], types.FunctionType)


MAGICS: list[tuple[str, set[str] | None]] = [
    ("%time x.append(1)", {"x", "y"}),
    ("%timeit -n 1 -r 1 f()", {"f", "data"}),
    ("%%time\nx.append(1)\n", {"x", "y"}),
    ("%%capture text\nf()\n", {"text", "f", "data"}),
    ("!ls", set()),
    ("!echo $text {x}", {"text", "x", "y"}),
    ("files = !ls", set()),
    ("!awk '{print $1}' x", set()),
    ("x?", {"x", "y"}),
    ("%matplotlib inline", set()),
    ("%pip install numpy", set()),
    ("%%bash\nls x\n", set()),
    ("%%html\n<b>x</b>\n", set()),
    ("%cd /tmp", set()),
    ("%load_ext autoreload", ALL),
    ("%run script.py", ALL),
    ("%%time\n!ls\n", ALL),
    ("%mine x", ALL),
]


@pytest.mark.parametrize(("cell", "must"), MAGICS, ids=[cell for cell, _ in MAGICS])
def test_touched_of_a_cell_with_magics_as_the_shell_transforms_it(cell: str, must: set[str] | None) -> None:
    manager = pytest.importorskip("IPython.core.inputtransformer2").TransformerManager()
    found = look(manager.transform_cell(cell))
    if must is None:
        assert found.names is None
    else:
        assert found.names is not None, found.why
        assert must <= found.names
        assert must or "x" not in found.names
