"""Which names a cell reads and assigns."""

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from jupyter_gpuaas.state.names import analyse, of_code


def reads(source: str) -> set[str]:
    return analyse(source, TransformerManager().transform_cell).reads - {"print", "range", "get_ipython"}


def assigns(source: str) -> set[str]:
    return analyse(source, TransformerManager().transform_cell).assigns


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x", {"x"}),
        ("x = 1\nx", set()),
        ("x = x + 1", {"x"}),
        ("x += y", {"x", "y"}),
        ("x.a = 1", {"x"}),
        ("x[i] = v", {"x", "i", "v"}),
        ("x: T = v", {"T", "v"}),
        ("del x", {"x"}),
        ("x = 1\ndel x\nx", {"x"}),
        ("if c:\n    x = 1\nx", {"c", "x"}),
        ("if c:\n    x = 1\nelse:\n    x = 2\nx", {"c"}),
        ("for i in xs:\n    y = i\ny", {"xs", "y"}),
        ("x = 1\nif c:\n    del x\nx", {"c", "x"}),
        ("while c:\n    n = 1\nn", {"c", "n"}),
        ("try:\n    x = f()\nexcept E as e:\n    print(e)\nx", {"f", "E", "x"}),
        ("try:\n    x = f()\nfinally:\n    x", {"f"}),
        ("with open(p) as f:\n    d = f.read()\nd", {"open", "p"}),
        ("with suppress(E):\n    d = 1\nd", {"suppress", "E", "d"}),
        ("[x for x in xs if x > k]", {"xs", "k"}),
        ("x = [x for x in x]", {"x"}),
        ("{k: v for k, v in d.items() for w in v}", {"d"}),
        ("[y := x for x in xs]\ny", {"xs", "y"}),
        ("sum(x for x in xs)", {"sum", "xs"}),
        ("f = lambda a, b=c: a + b + d", {"c", "d"}),
        ("def f(a, b=c):\n    z = a\n    return z + g(b)", {"c", "g"}),
        ("def f(n):\n    return f(n - 1)", set()),
        ("@deco\ndef f(): pass", {"deco"}),
        ("def f():\n    global n\n    n += step", {"n", "step"}),
        ("def f():\n    def g():\n        return outer_most\n    return g", {"outer_most"}),
        ("class A(B, metaclass=M):\n    x = y\n    z = x\n    def m(self):\n        return w", {"B", "M", "y", "w"}),
        ("import numpy as np\nnp.zeros(n)", {"n"}),
        ("from numpy import *\nzeros(n)", {"zeros", "n"}),
        ("a and (b := c)\nb", {"a", "b", "c"}),
        ("match v:\n    case {'k': q, **rest}: r = q\n    case [h, *t] if g: r = h", {"v", "g"}),
        ("await task", {"task"}),
        ("async for x in agen():\n    pass", {"agen"}),
        ("f'{x:>{w}}'", {"x", "w"}),
        ("%timeit -n 10 f(x)", {"f", "x"}),
        ("%%time\ny = f(x)\ny", {"f", "x"}),
        ("%%capture out\ny = f(x)\ny", {"f", "x"}),
        ("files = !ls {folder}/$name", {"folder", "name"}),
        ("!pip install thing", set()),
    ],
)
def test_reads(source: str, expected: set[str]) -> None:
    assert reads(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a = b, *c = d", {"a", "b", "c"}),
        ("(a, [b, *c]) = d", {"a", "b", "c"}),
        ("x.a = 1; y[0] = 2", set()),
        ("x: int", set()),
        ("for i, j in xs: k = 1", {"i", "j", "k"}),
        ("with a as (b, c): pass", {"b", "c"}),
        ("import os.path, numpy as np\nfrom a import b as c, d", {"os", "np", "c", "d"}),
        ("def f(): local = 1", {"f"}),
        ("class A:\n    x = 1", {"A"}),
        ("def f():\n    global g\n    g = 1", {"f", "g"}),
        ("[(y := x) for x in xs]", {"y"}),
        ("[x for x in xs]", set()),
        ("try: pass\nexcept E as e: z = 1", {"z"}),
        ("match v:\n    case [h, *t]: pass\n    case P(x=q) as w: pass", {"h", "t", "q", "w"}),
        ("%%time\ny = 1", {"y"}),
        ("%timeit y = 1", set()),
        ("%%capture out\ny = 1", {"out", "y"}),
        ("out = !ls", {"out"}),
    ],
)
def test_assigns(source: str, expected: set[str]) -> None:
    assert assigns(source) == expected


def test_deleted_and_assigned_again_is_not_deleted() -> None:
    assert analyse("del x").deletes == {"x"}
    assert analyse("del x\nx = 1").deletes == set()


def test_imports_are_found_in_functions_too() -> None:
    found = analyse("import a.b\nfrom c import d\ndef f():\n    from .e import g\n    import h").imports
    assert {"a.b", "c", "c.d", "e", "e.g", "h"} <= found


def test_existing_function_tells_its_globals() -> None:
    scope: dict[str, object] = {}
    exec("def f(a):\n    global w\n    w = r\n    return [helper(x) for x in a]", scope)
    names = of_code(scope["f"].__code__)  # type: ignore[attr-defined]
    assert names.reads == {"r", "helper"}
    assert names.assigns == {"w"}


def test_cell_that_is_no_python_raises() -> None:
    with pytest.raises(SyntaxError):
        analyse("x = = 1")
