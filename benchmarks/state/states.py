"""The states that are saved: cells that make them, cells that change 1 %, and what must hold of what is restored.

``facts`` looks at a namespace before the save and after the restore; where two facts differ, the restore was wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Facts = dict[str, Any]


class State(NamedTuple):
    """One state of a notebook. ``{scale}`` in its cells is 1.0 for the sizes that are published."""

    words: str
    cell: str
    #: Changes about 1 % of the bytes or objects.
    change: str
    facts: Callable[[Mapping[str, Any]], Facts]
    #: Imported in each process before a clock starts; torch imports its compiler when an optimizer is first made.
    modules: tuple[str, ...]


ARRAYS = """
import numpy as np, pandas as pd
rng = np.random.default_rng(0)
rows = int(20_000_000 * {scale})
a = rng.standard_normal(rows)
b = a[1000:5000]
c = a.reshape(1000, -1).T
m = rng.standard_normal((rows // 10, 10))
over = pd.DataFrame(m, copy=False)
whole = rng.integers(0, 2**60, 2 * rows)
frame = pd.DataFrame({{
    'x': rng.standard_normal(rows), 'y': rng.integers(0, 2**50, rows), 's': rng.integers(0, 2**50, rows),
}})
names = ['a', 'b']
"""
ARRAYS_CHANGE = "a[5000 : 5000 + len(a) * 7 // 100] += 1"

MODEL = """
import torch
torch.manual_seed(0)
width = int(2500 * {scale} ** 0.5)
model = torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(17)])
model[16].weight = model[0].weight
optimizer = torch.optim.Adam(model.parameters())
for _ in range(2):
    optimizer.zero_grad()
    model(torch.randn(4, width)).square().sum().backward()
    optimizer.step()
tied = model[0].weight
view = tied.detach()[:10]
flat = torch.arange(1000.0)
half = flat[500:]
"""
MODEL_CHANGE = "model[3].weight.data[: width * 64 // 100] += 1"

OBJECTS = """
class Item:
    def __init__(self, number):
        self.number = number
        self.pair = (number, -number)
items = {{number: Item(number) for number in range(int(100_000 * {scale}))}}
texts = {{number: 'n%d' % number for number in range(int(900_000 * {scale}))}}
same = items[5]
"""
OBJECTS_CHANGE = """
for number in range(len(items) // 100):
    items[number].number += 7
for number in range(len(texts) // 100):
    texts[number] = 'm%d' % number
"""


def _digest(array: Any) -> str:
    import numpy
    import xxhash

    return xxhash.xxh3_128_hexdigest(numpy.ascontiguousarray(array).view("u1").reshape(-1))


def _arrays(names: Mapping[str, Any]) -> Facts:
    import numpy

    a, m, over, frame = names["a"], names["m"], names["over"], names["frame"]
    facts = {name: _digest(names[name]) for name in ("a", "b", "c", "m", "whole")}
    facts |= {f"frame.{name}": _digest(frame[name].to_numpy()) for name in frame.columns}
    facts["b is a view of a"] = bool(numpy.shares_memory(a, names["b"]))
    facts["c is a view of a"] = bool(numpy.shares_memory(a, names["c"]))
    before, m[3, 3] = m[3, 3], 77.0
    facts["over looks at m"] = bool(over.iloc[3, 3] == 77.0)
    m[3, 3] = before
    facts["names"] = names["names"]
    return facts


def _model(names: Mapping[str, Any]) -> Facts:
    import torch

    model, optimizer = names["model"], names["optimizer"]
    parameters = list(model.parameters())
    facts: Facts = {
        "weights": [_digest(parameter.detach().numpy()) for parameter in parameters],
        "gradients": [None if found.grad is None else _digest(found.grad.numpy()) for found in parameters],
        "tied": model[16].weight is model[0].weight and names["tied"] is model[0].weight,
        "view": names["view"].data_ptr() == model[0].weight.data_ptr(),
        "half": names["half"].data_ptr() == names["flat"].data_ptr() + 2000,
        "the optimizer owns the model's parameters": all(
            one is other for one, other in zip(optimizer.param_groups[0]["params"], parameters, strict=True)
        ),
        "random state": _digest(torch.random.get_rng_state().numpy()),
    }
    data = torch.linspace(-1, 1, 4 * names["width"]).reshape(4, -1)
    model(data).square().sum().backward()
    optimizer.step()
    facts["the next step"] = [_digest(parameter.detach().numpy()) for parameter in parameters]
    return facts


def _objects(names: Mapping[str, Any]) -> Facts:
    items, texts = names["items"], names["texts"]
    return {
        "items": [len(items), sum(found.number for found in items.values())],
        "pairs": sum(found.pair[0] for found in items.values()),
        "texts": [len(texts), sum(map(len, texts.values())), texts[3]],
        "same": names["same"] is items[5],
        "class": type(items[7]) is names["Item"],
    }


STATES = {
    "arrays": State("arrays and frames with views", ARRAYS, ARRAYS_CHANGE, _arrays, ("numpy", "pandas")),
    "model": State("100 M parameters with Adam", MODEL, MODEL_CHANGE, _model, ("numpy", "torch", "torch._dynamo")),
    "objects": State("a million small objects", OBJECTS, OBJECTS_CHANGE, _objects, ()),
}


def differing(before: Facts, after: Facts) -> list[str]:
    """Names of facts that do not hold any more."""
    return [name for name, fact in before.items() if after.get(name) != fact]


def run(cell: str, scale: float) -> dict[str, Any]:
    """Run a cell in ``__main__``, as a kernel does; gives the namespace."""
    namespace = sys.modules["__main__"].__dict__
    exec(compile(cell.format(scale=scale), "<cell>", "exec", dont_inherit=True), namespace)
    return namespace
