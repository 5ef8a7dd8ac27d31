"""Weak references, callables, mappings, exceptions, archives."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from jupyter_gpuaas.state.rules.registry import NotRestorable

from .roundtrip import cell, roundtrip


def test_weak_references_refer_to_what_was_restored() -> None:
    new, _, restoring = roundtrip(
        cell(
            """
import weakref
class A:
    def m(self): return 5
a, b = A(), A(); r = weakref.ref(a); again = weakref.ref(a); p = weakref.proxy(a); dead = weakref.ref(A())
gone = []; called = weakref.ref(b, gone.append); wm = weakref.WeakMethod(a.m)
try: lost = weakref.proxy(A())
except ReferenceError: pass
values = weakref.WeakValueDictionary(k=a, l=b); keys = weakref.WeakKeyDictionary({a: 1})
members = weakref.WeakSet([a, b])
class V(weakref.WeakValueDictionary): pass
v = V(x=a); v.note = 1
f = weakref.finalize(b, gone.append, "end"); f.atexit = False; over = weakref.finalize(b, print); over.detach()
a.me = weakref.ref(a); a.registry = weakref.WeakSet([a])
"""
        )
    )
    a = new["a"]
    assert new["r"]() is a and new["p"].m() == 5 and new["dead"]() is None and new["wm"]()() == 5
    with pytest.raises(ReferenceError):
        new["lost"].m()
    assert dict(new["values"]) == {"k": a, "l": new["b"]} and new["keys"][a] == 1
    assert set(new["members"]) == {a, new["b"]} and new["v"]["x"] is a and new["v"].note == 1
    assert a.me() is a and list(a.registry) == [a] and not new["over"].alive and new["f"].alive
    assert not restoring.remarks
    del new["b"]
    assert len(new["gone"]) == 2 and "end" in new["gone"] and set(new["members"]) == {a} and "l" not in new["values"]
    assert new["called"]() is None


def test_target_that_only_the_reference_holds_is_said_to_be_gone() -> None:
    made = cell("import weakref\nclass A: pass\na = A(); r = weakref.ref(a)")
    held = made.pop("a")
    new, _, restoring = roundtrip(made)
    assert new["r"]() is None and "gone" in restoring.remarks[0] and held


def test_callables() -> None:
    new, context, _ = roundtrip(
        cell(
            """
import functools, operator, random, numpy as np, struct
@functools.lru_cache(maxsize=7, typed=True)
def cached(x): return [x]
cached(1); cached.note = 1
@functools.cache
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
@functools.singledispatch
def kind(x): return "object"
@kind.register
def _(x: int): return "int"
kind(1)
class A:
    @functools.cached_property
    def p(self): return []
    @functools.lru_cache
    def m(self): return 3
    def n(self, k): return k
    q = functools.partialmethod(n, 4)
    @functools.singledispatchmethod
    def s(self, x): return "o"
    @s.register
    def _(self, x: int): return "i"
    @property
    def r(self): "doc"; return 6
    __slots__ = ("__dict__", "slot")
a = A(); a.p; bound = a.n; a.own = a.n
xs = []; add = xs.append; later = functools.partial(xs.append, 3)
choice, uniform, rand, own = random.choice, random.random, np.random.rand, random.Random(3).random
system = random.SystemRandom(); layout = struct.Struct("<i")
key = functools.cmp_to_key(lambda one, other: other - one); wrapped = key(3)
getters = operator.itemgetter(1), operator.attrgetter("a.b")
"""
        )
    )
    assert new["cached"].cache_info()[2:] == (7, 0) and new["cached"].note == 1 and new["cached"](2) == [2]
    assert new["fib"](30) == 832040 and (new["kind"](1), new["kind"]("")) == ("int", "object")
    a = new["a"]
    assert vars(a)["p"] is a.p and new["A"]().p == [] and a.m() == 3 and a.q() == 4 and (a.s(1), a.s("")) == ("i", "o")
    assert a.r == 6 and new["A"].r.__doc__ == "doc" and new["bound"].__self__ is a and a.own.__self__ is a
    new["add"](1)
    new["later"]()
    assert new["xs"] == [1, 3]
    assert new["choice"] is random.choice and new["uniform"] is random.random and new["rand"] is np.random.rand
    assert new["own"]() == random.Random(3).random() and 0 <= new["system"].random() < 1
    assert sorted([1, 3, 2], key=new["key"]) == [3, 2, 1] and new["wrapped"] < new["key"](1)
    assert new["layout"].pack(1) == b"\1\0\0\0" and new["getters"][0]("ab") == "b"
    assert context.rebuilds == ["a function with an empty cache (functools.lru_cache)"]


def test_mappings_and_views_are_of_the_same_dict() -> None:
    new, _, _ = roundtrip(
        cell(
            """
import types, collections
d = {"a": 1}; proxy = types.MappingProxyType(d); keys, values, items = d.keys(), d.values(), d.items()
class A: v = 1
space = vars(A); od = collections.OrderedDict(a=1); od_keys = od.keys()
chain = collections.ChainMap(d, od); counter = collections.Counter("aab"); user = collections.UserDict(a=1)
ns = types.SimpleNamespace(); ns.me = ns
"""
        )
    )
    new["d"]["b"] = 2
    new["od"]["c"] = 3
    new["A"].w = 2
    assert dict(new["proxy"]) == {"a": 1, "b": 2} and list(new["keys"]) == ["a", "b"] and list(new["values"]) == [1, 2]
    assert list(new["items"])[1] == ("b", 2) and new["space"]["w"] == 2 and list(new["od_keys"]) == ["a", "c"]
    assert new["chain"].maps[0] is new["d"] and new["ns"].me is new["ns"]


def test_exceptions_keep_arguments_and_causes() -> None:
    made = cell(
        """
class Mine(Exception):
    def __init__(self, code): super().__init__(f"code {code}"); self.code = code
class Os(OSError):
    def __init__(self, a, b): super().__init__(2, a, "file"); self.b = b
class Own(Exception):
    def __init__(self, x): self.x = x
    def __reduce__(self): return Own, (self.x,)
mine, os_error, own = Mine(5), Os("m", 7), Own(3)
try:
    try: 1 / 0
    except ZeroDivisionError as error: raise KeyError("k") from error
except KeyError as error: caught = error
try: undefined
except NameError as error: name = error
group = [OSError(2, "x", "f"), UnicodeDecodeError("utf-8", b"x", 0, 1, "why"), StopIteration(5), SystemExit(3)]
"""
    )
    new, context, _ = roundtrip(made)
    assert new["mine"].args == ("code 5",) and new["mine"].code == 5
    assert (new["os_error"].errno, new["os_error"].filename, new["os_error"].b) == (2, "file", 7)
    assert new["own"].x == 3 and isinstance(new["caught"].__cause__, ZeroDivisionError)
    assert new["caught"].__suppress_context__ and new["caught"].__context__ is new["caught"].__cause__
    assert new["name"].name == "undefined" and list(map(repr, new["group"])) == list(map(repr, made["group"]))
    assert new["group"][0].filename == "f" and new["group"][2].value == 5 and new["group"][3].code == 3
    assert context.rebuilds == ["an exception without its traceback"]


def test_archives(tmp_path: Path) -> None:
    made = cell(
        f"""
import bz2, gzip, lzma, zipfile, tarfile
folder = {str(tmp_path)!r}
def write(module, name):
    with module.open(folder + name, "wb") as f: f.write(b"abc" * 10)
write(gzip, "/g"); write(bz2, "/b"); write(lzma, "/x")
g = gzip.open(folder + "/g"); g.read(4); t = gzip.open(folder + "/g", "rt"); t.read(2)
b = bz2.open(folder + "/b"); b.read(4); x = lzma.open(folder + "/x"); x.read(4)
closed = gzip.open(folder + "/g"); closed.close()
with zipfile.ZipFile(folder + "/z", "w") as f: f.writestr("a", "b")
z = zipfile.ZipFile(folder + "/z")
with tarfile.open(folder + "/t", "w") as f: f.add(folder + "/g", "g")
tar = tarfile.open(folder + "/t"); del f
"""
    )
    new, _, _ = roundtrip(made)
    for name in ("g", "t", "b", "x"):
        assert new[name].read() == made[name].read()
    assert new["closed"].closed and new["z"].read("a") == b"b" and new["tar"].getnames() == ["g"]
    for namespace in (made, new):
        for name in ("g", "t", "b", "x", "z", "tar"):
            namespace[name].close()
    writing = cell(f"import gzip\nw = gzip.open({str(tmp_path / 'w')!r}, 'wb')")
    with pytest.raises(NotRestorable, match="written"):
        roundtrip(writing)
    writing["w"].close()


def test_argument_parser_knows_what_is_suppressed() -> None:
    source = """
import argparse
p = argparse.ArgumentParser(); p.add_argument("-n", type=int, default=2)
p.add_argument("--x", default=argparse.SUPPRESS)
group = p.add_mutually_exclusive_group(); group.add_argument("--a", action="store_true"); group.add_argument("--b")
sub = p.add_subparsers(dest="command").add_parser("run"); sub.set_defaults(k=[])
"""
    made = cell(source)
    new, _, _ = roundtrip(made)
    arguments = ["-n", "3", "--a", "run"]
    assert vars(new["p"].parse_args(arguments)) == vars(made["p"].parse_args(arguments))
    with pytest.raises(SystemExit):
        new["p"].parse_args(["--a", "--b", "1"])
