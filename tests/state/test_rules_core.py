"""Definitions, modules and arrays."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from jupyter_gpuaas.state.rules.registry import NotRestorable

from .roundtrip import cell, roundtrip


def test_functions_share_cells_and_run_in_the_restored_namespace() -> None:
    new, _, _ = roundtrip(
        cell(
            """
k = 5
def f(x, *, y=[1]): return g(x) + k
def g(x): return x * 2
def make():
    n = 0
    def inc():
        nonlocal n
        n += 1
    return inc, lambda: n
inc, get = make()
f.note = f
"""
        )
    )
    new["inc"]()
    assert new["get"]() == 1
    assert new["f"](3) == 11
    new["k"] = 0
    assert new["f"](3) == 6
    assert new["f"].__globals__ is new and new["f"].note is new["f"] and new["f"].__kwdefaults__ == {"y": [1]}


def test_old_instance_keeps_its_class() -> None:
    new, _, _ = roundtrip(cell("class A:\n    v = 1\nold = A()\nclass A:\n    v = 2\nnew = A()"))
    assert (new["old"].v, new["new"].v) == (1, 2)
    assert type(new["new"]) is new["A"] is not type(new["old"])


def test_views_are_views_of_the_same_base() -> None:
    made = cell(
        """
import numpy as np
base = np.arange(24.0).reshape(2, 3, 4)
parts = [base[:, 1], base.T, base[::-1, :, ::-2], base.ravel()[5:9], base.view("i8"), base[0, 0, 0:0]]
frozen = base[0]; frozen.flags.writeable = False
wild = np.zeros((2, 3, 4)).transpose(1, 0, 2).copy(order="K")
dates = np.array(["2020", "2021"], "M8[D]"); back = dates[::-1]
table = np.zeros(3, [("a", "i4"), ("b", "f8")]); column = table["b"]
items = np.array([1, None], object); items[1] = items
zero = np.array(3.0); alias = zero[()] if False else zero.reshape(1)
"""
    )
    new, _, _ = roundtrip(made)
    for was, part in zip(made["parts"], new["parts"], strict=True):
        assert part.strides == was.strides or not part.size
        assert np.array_equal(part, was) and part.dtype == was.dtype
        assert not was.size or (was.base is made["base"].base or was.base is made["base"])
        assert not was.size or np.shares_memory(part, new["base"])
    assert new["parts"][0].base is new["base"].base
    assert not new["frozen"].flags.writeable and new["base"].flags.writeable
    new["base"][:] = 7
    assert (new["frozen"] == 7).all() and (new["parts"][2] == 7).all()
    assert new["wild"].strides == made["wild"].strides
    assert new["back"].base is new["dates"] and np.array_equal(new["back"], made["back"])
    assert new["column"].base is new["table"]
    assert new["items"][1] is new["items"]
    assert new["alias"].base is new["zero"]


def test_namespace_itself_and_modules() -> None:
    new, context, _ = roundtrip(
        cell(
            """
import math as m, types, sys
everything = globals()
made = types.ModuleType("made_here"); made.x = 1; made.f = lambda: made.x
sys.modules["made_here"] = made
out = sys.stdout
"""
        )
    )
    assert new["everything"] is new
    assert new["m"] is sys.modules["math"]
    assert new["made"].f() == 1 and sys.modules.pop("made_here") is new["made"]
    assert new["out"] is sys.stdout
    assert context.rebuilds


def test_what_cannot_be_pickled_says_why() -> None:
    with pytest.raises(NotRestorable, match="pickle"):
        roundtrip(cell("import sys\nx = sys._getframe()"))


def test_records_share_with_their_array_and_strings_of_any_width_come_back() -> None:
    new, _, _ = roundtrip(
        cell(
            """
import numpy as np
table = np.zeros(3, [("a", "i4"), ("b", "f8")]); record = table[1]
words = np.array(["a", "longer than sixteen bytes"], np.dtypes.StringDType())
"""
        )
    )
    new["record"]["a"] = 7
    assert new["table"]["a"].tolist() == [0, 7, 0]
    assert new["words"].tolist() == ["a", "longer than sixteen bytes"] and new["words"].dtype.kind == "T"


def test_type_variable_and_what_is_generic_over_it() -> None:
    source = "import typing\nT = typing.TypeVar('T', bound=int)\nclass Box(typing.Generic[T]):\n    one: list[T]"
    fresh, _, _ = roundtrip(cell(source))
    assert fresh["Box"].__parameters__ == (fresh["T"],)
    assert fresh["Box"][int].__args__ == (int,)
