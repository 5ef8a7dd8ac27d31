"""Objects to bundles and back: aliases, memory, definitions, digests, and what cannot be sent."""

from __future__ import annotations

import mmap
import sys
import threading
from typing import Any

import numpy as np
import pytest

from jupyter_gpuaas.errors import RemoteProtocolError
from jupyter_gpuaas.state.bundle import (
    PREFIX,
    Group,
    Head,
    assemble,
    count_buffers,
    prefix,
    read_head,
    read_sizes,
)
from jupyter_gpuaas.state.packing import Unit, look, pack, pack_group, together, unpack_group
from jupyter_gpuaas.state.pickler import TooLarge
from jupyter_gpuaas.state.pickling import dump
from jupyter_gpuaas.state.rules.registry import NotRestorable
from tests.unit.notebook import as_main, notebook


def copied(buffers: Any) -> list[bytearray]:
    """The buffers as another process gets them."""
    return [bytearray(buffer) for buffer in buffers]


def units_of(values: dict[str, Any], space: dict[str, Any] | None = None) -> list[Unit]:
    space = values if space is None else space
    return together([look([name], [value], space) for name, value in values.items()], space)


def groups_of(values: dict[str, Any]) -> list[tuple[str, ...]]:
    return [unit.names for unit in units_of(values)]


def packed(*values: Any) -> Group:
    return pack_group([f"v{number}" for number in range(len(values))], values, {})


def received(buffers: Any, **options: Any) -> list[Any]:
    """The values of a bundle, as another process gets them."""
    (group,) = read_head(buffers).groups
    return list(unpack_group(group, buffers, {}, **options).values())


def travel(source: str, *names: str) -> dict[str, Any]:
    """Run a cell in one notebook and bring names of it to another one."""
    here, there = notebook(source), notebook()
    with as_main(here) as space:
        groups = [pack(unit, space) for unit in units_of({name: space[name] for name in names}, space)]
        buffers = copied(assemble(groups))
    with as_main(there) as space:
        for group in read_head(buffers).groups:
            space.update(unpack_group(group, buffers, space))
    return space


# -- aliases -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "check"),
    [
        ("a = [1]; b = a", "b is a"),
        ("a = [1]; b = {'k': a}", "b['k'] is a"),
        ("a = np.arange(8.); b = a", "b is a"),
        ("a = np.arange(1e5); b = a[10:20]", "np.shares_memory(a, b)"),
        ("a = np.arange(1e5); b = a[::2]", "np.shares_memory(a, b) and b[1] == 2"),
        ("a = np.arange(1e4).reshape(100, 100); b = a.T", "np.shares_memory(a, b) and (b == a.T).all()"),
        (
            "a = np.arange(1e4).reshape(100, 100); b = a[::-1, 3:50:7]",
            "np.shares_memory(a, b) and (b == a[::-1, 3:50:7]).all()",
        ),
        ("c = np.arange(100); a = c[:60]; b = c[40:]; del c", "np.shares_memory(a, b) and a[40] == b[0] == 40"),
        ("class P:\n    pass\nb = P(); a = P(); a.b = b; b.a = a", "a.b is b and b.a is a"),
    ],
)
def test_alias_stays_alias(source: str, check: str) -> None:
    source = "import numpy as np\n" + source
    names = ["P", "a", "b"] if "class P" in source else ["a", "b"]
    space = travel(source, *names)
    assert eval(check, {"np": np}, space)


def test_names_that_share_nothing_are_packed_apart() -> None:
    values = {
        "a": [np.float64(1), np.zeros(3), "text", 10**20],
        "b": [np.float64(1), np.zeros(3), "text", 10**20],
        "c": {"dtype": np.zeros(3).dtype},
    }
    values["b"][2:] = values["a"][2:]  # Strings and numbers may be shared without being aliases.
    assert groups_of(values) == [("a",), ("b",), ("c",)]


def test_many_names_that_share_are_one_group() -> None:
    base = np.zeros(1000)
    shared: list[int] = []
    assert groups_of({"a": base[:10], "x": 1, "b": base[5:], "c": [shared], "d": (shared, base[900:])}) == [
        ("a", "b", "c", "d"),
        ("x",),
    ]


def test_column_of_a_large_matrix_is_sent_without_the_matrix() -> None:
    matrix = np.zeros((1000, 1000))
    matrix[:, 3] = 7
    group = packed(matrix[:, 3])
    assert group.nbytes < 20_000
    buffers = copied(assemble([group]))
    assert (received(buffers)[0] == 7).all()


def test_torch_views_of_one_storage_stay_views() -> None:
    pytest.importorskip("torch")
    space = travel(
        "import torch\nt = torch.arange(10.)\nv = t[2:5]\nn = t.numpy()\nm = torch.nn.Linear(3, 2)\nw = m.weight",
        *"tvnmw",
    )
    space["t"][2] = 100
    assert space["v"][0] == 100
    assert space["n"][2] == 100
    assert space["w"] is space["m"].weight
    assert space["w"].requires_grad


def test_buffers_are_used_in_place_and_writable() -> None:
    array = np.arange(1e5)
    buffers = copied(assemble([packed(array)]))
    (there,) = received(buffers)
    there[0] = 42
    assert np.frombuffer(buffers[-1], float)[0] == 42
    assert array[0] == 0


def test_read_only_array_stays_read_only() -> None:
    array = np.arange(1e5)
    array.flags.writeable = False
    buffers = copied(assemble([packed(array)]))
    assert not received(buffers)[0].flags.writeable


# -- definitions of the notebook -----------------------------------------------------------------

DEFINITIONS = """
import dataclasses, enum, functools
k = 3
def f(x): return x * k
@dataclasses.dataclass
class Point:
    x: int
    def scaled(self): return f(self.x)
class Colour(enum.Enum):
    RED = 1
class Base:
    def who(self): return 'base'
class Child(Base):
    def who(self): return 'child of ' + super().who()
p = Point(2)
c = Child()
r = Colour.RED
part = functools.partial(f, 5)
lam = lambda x: f(x) + 1
g = f
@functools.lru_cache
def cached(x): return x + k
def outer():
    n = 10
    def inner(x): return x + n + k
    return inner
inner = outer()
def fact(n): return 1 if n < 2 else n * fact(n - 1)
"""


def test_definitions_work_in_the_other_notebook() -> None:
    names = "k f Point Colour Base Child p c r part lam g inner fact".split()
    space = travel(DEFINITIONS, *names)
    assert space["p"].scaled() == 6
    assert space["c"].who() == "child of base"
    assert space["r"] is space["Colour"].RED
    assert space["part"]() == 15
    assert space["lam"](1) == 4
    assert space["g"] is space["f"]
    assert space["inner"](1) == 14
    assert space["fact"](5) == 120
    assert type(space["p"]) is space["Point"]


def test_functions_see_the_globals_of_the_other_notebook() -> None:
    space = travel("k = 3\ndef f(): return k", "k", "f")
    space["k"] = 4
    assert space["f"]() == 4


def test_classes_that_hold_each_other_and_themselves() -> None:
    space = travel("class A:\n    pass\nclass B:\n    a = A\nA.b = B\nA.one = A()\nB.me = B\na = A()", "A", "B", "a")
    assert space["A"].b is space["B"] and space["B"].a is space["A"]
    assert type(space["A"].one) is space["A"] is type(space["a"])
    assert space["B"].me is space["B"]


KINDS = """
import abc, dataclasses, typing
from collections import namedtuple
T = typing.TypeVar("T", bound=int)
class Slots:
    __slots__ = ("a", "b")
    def __init__(self): self.a = 1
class Box(typing.Generic[T]):
    def __init__(self, item: T): self.item = item
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
    @property
    def twice(self): return 2 * self.area()
class Square(Shape):
    def __init__(self, a): self.a = a
    def area(self): return self.a ** 2
    @classmethod
    def unit(cls): return cls(1)
    @staticmethod
    def name(): return "square"
@dataclasses.dataclass(frozen=True, order=True)
class D:
    x: int
    y: list = dataclasses.field(default_factory=list)
    kind: typing.ClassVar[str] = "d"
P = namedtuple("P", "x y", defaults=[5])
class Q(typing.NamedTuple):
    x: int
    y: int = 2
    def total(self): return self.x + self.y
class Meta(type):
    def __call__(cls, *a): return ("made", super().__call__(*a))
class WithMeta(metaclass=Meta): pass
class TD(typing.TypedDict):
    a: int
class Err(ValueError):
    def __init__(self, code): super().__init__(code); self.code = code
class Counted:
    made = 0
    def __init_subclass__(cls, **options): cls.options = options
class Sub(Counted, flavour=1): pass
"""


def test_kinds_of_classes() -> None:
    names = "T Slots Box Shape Square D P Q Meta WithMeta TD Err Counted Sub".split()
    space = travel(KINDS, *names)
    assert space["Slots"]().a == 1
    assert not hasattr(space["Slots"](), "__dict__")
    assert space["Box"][int](3).item == 3
    assert space["Box"].__parameters__ == (space["T"],)
    assert space["Square"](3).twice == 18
    assert space["Square"].unit().area() == 1 and space["Square"].name() == "square"
    with pytest.raises(TypeError, match="abstract"):
        space["Shape"]()
    import dataclasses

    made = space["D"](1)
    assert dataclasses.asdict(made) == {"x": 1, "y": []}
    assert dataclasses.replace(made, x=0) < made
    assert space["D"].kind == "d"
    assert space["P"](1) == (1, 5)
    assert space["P"](1)._replace(y=0).y == 0
    assert space["Q"](1).total() == 3
    assert space["WithMeta"]()[0] == "made"
    assert space["TD"](a=1) == {"a": 1}
    with pytest.raises(space["Err"]) as raised:
        raise space["Err"](7)
    assert raised.value.code == 7
    assert space["Sub"].options == {"flavour": 1}


def test_instance_is_sent_without_its_class() -> None:
    here = notebook("class P:\n    def m(self): return q\np = P()\nq = 1")
    with as_main(here) as space:
        found = dump((space["p"],), space, own={"p"}).context
        assert found.references == {"P"}
        whole = dump((space["P"],), space, own={"P"}).context
    assert any("q" in code.co_names for code in whole.codes)


def test_modules_that_must_be_there_are_told() -> None:
    assert "collections.abc" in dump((sys.modules["collections.abc"],), {}).context.modules
    assert "fractions" in dump(([__import__("fractions").Fraction(1)],), {}).context.modules


# -- versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list", "array", "view", "function"])
def test_digest_is_equal_until_something_changes(kind: str) -> None:
    here = notebook("import numpy as np\nl = [1, {'a': {2}}]\na = np.zeros(1000)\ndef f(): return 1")
    with as_main(here) as space:
        values = {"list": space["l"], "array": space["a"], "view": space["a"][::3], "function": space["f"]}
        value, name = values[kind], "f" if kind == "function" else "x"
        first = pack_group([name], [value], space).digest()
        assert pack_group([name], [value], space).digest() == first
        if kind == "list":
            value[1]["a"].add(3)
        elif kind == "function":
            value.__defaults__ = (1,)
        else:
            space["a"][3] = 1
        assert pack_group([name], [value], space).digest() != first


# -- what cannot be sent -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (threading.Lock(), "lock"),
        ((i for i in [1]), "is a generator"),
        ({"k": [threading.RLock()]}, "holds a RLock"),
        (open(__file__, encoding="utf-8"), "open file"),
        (threading.Thread(), "Thread"),
        (sys._getframe(), "frame"),
        (mmap.mmap(-1, 10), "mmap"),
        ([memoryview(mmap.mmap(-1, 10))], "holds a mmap"),
    ],
)
def test_what_belongs_to_the_process_is_refused_with_a_reason(value: Any, reason: str) -> None:
    with pytest.raises(NotRestorable, match=reason):
        dump((value,), {})
    if hasattr(value, "close"):
        value.close()


def test_nesting_without_end_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(NotRestorable, match="nested too deeply"):
        dump((deep,), {})
    while deep:  # Freed level by level, as the interpreter would recurse too.
        deep = deep[0]


@pytest.mark.parametrize("value", [np.zeros(10_000), list(range(100_000)), "x" * 100_000])
def test_limit_stops_the_pickling(value: Any) -> None:
    with pytest.raises(TooLarge):
        dump((value,), {}, limit_bytes=50_000)
    assert dump((value,), {}, limit_bytes=10_000_000).stream


# -- the wire ------------------------------------------------------------------------------------


def test_prefix_announces_the_buffers() -> None:
    start = prefix([b"abc", b"", bytearray(5)])
    assert count_buffers(start[: PREFIX.size]) == 3
    assert read_sizes(start[PREFIX.size :], length=8) == [3, 0, 5]


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (lambda: count_buffers(b"GPX1" + bytes(4)), "GPB2"),
        (lambda: count_buffers(b"GPB2\xff\xff\xff\xff"), "at most"),
        (lambda: read_sizes(prefix([b"abc"])[PREFIX.size :], length=2), "3 bytes"),
        (lambda: read_head([]), "no head"),
        (lambda: read_head([b"\xc1"]), "not readable"),
    ],
)
def test_broken_bundle_is_refused(broken: Any, word: str) -> None:
    with pytest.raises(RemoteProtocolError, match=word):
        broken()


def test_head_that_points_outside_is_refused() -> None:
    buffers = copied(assemble([pack_group(["a"], [np.arange(1e5)], {})]))
    with pytest.raises(RemoteProtocolError, match="does not exist"):
        read_head(buffers[:-1])
    buffers[-1] = buffers[-1][:-1]
    with pytest.raises(RemoteProtocolError, match="ends behind its buffer"):
        read_head(buffers)


def test_empty_bundle_has_an_empty_head() -> None:
    assert read_head(assemble([])) == Head()
