"""Random notebooks: random objects with random aliases, changed at random through any of them between checkpoints.

The same cells run in a twin that is never captured. Every checkpoint, restored, must be what the twin was then.
"""

from __future__ import annotations

import builtins
import os
import random
from typing import Any

import pytest

from jupyter_gpuaas.state import Checkpointer, NameLost
from jupyter_gpuaas.store import MemoryStore

from .canonical import canonical

KEY = b"the key of the twin tests"
SEEDS = range(int(os.environ.get("GPUAAS_TWINS", "60")))
CELLS = 14

START = """
import numpy as np
import torch
import pandas as pd
class Thing:
    count = 0
    def __init__(self, value): self.value = value
    def grow(self, by): self.value.append(by); Thing.count += 1
def put(name, value): globals_holder[name] = value
globals_holder = {}
"""
MAKE = [
    "{new} = [{small}, {old}]",
    "{new} = {{'a': {old}, 'b': [{small}]}}",
    "{new} = ({old}, {small})",
    "{new} = {old}",
    "{new} = Thing([{small}, {old}])",
    "{new} = np.arange({count}.0)",
    "{new} = np.arange({count}.0).reshape(2, -1)",
    "{new} = np.zeros({count}, dtype='i4')",
    "{new} = np.array([{old}, None, {small}], dtype=object)",
    "{new} = torch.arange({count}.0)",
    "{new} = torch.ones({count}, requires_grad=True); ({new}.sum() * {small}).backward()",
    "{new} = pd.DataFrame({{'x': np.arange({count}.0), 'y': {small}}})",
    "{new} = lambda x={small}: [x, {old}]",
    "def {new}(a=[{small}]):\n    a.append(1)\n    return a",
    "def maker(n):\n    def bump():\n        nonlocal n\n        n += 1\n    return bump, bump\n{new} = maker({small})",
]
VIEW = [
    "{new} = {old}[1:]",
    "{new} = {old}[::-1] if isinstance({old}, np.ndarray) else {old}[:2]",
    "{new} = {old}.T if hasattr({old}, 'T') else {old}[0]",
    "{new} = {old}.reshape(-1)",
    "{new} = {old}.numpy() if hasattr({old}, 'numpy') else torch.from_numpy({old})",
    "{new} = pd.DataFrame({old}, copy=False)",
    "{new} = {old}['x'].to_numpy()",
    "{new} = {old}.values",
    "{new} = {old}.value",
    "{new} = {old}[0]",
    "{new} = {old}['a']",
]
CHANGE = [
    "{old}.append({small})",
    "{old}['b'].append({small})",
    "{old}['c'] = {other}",
    "{old}[0] = {small}",
    "{old}[:1] += {small}",
    "{old} += {small}",
    "{old}.grow({small})",
    "{old}.value = {other}",
    "{old}.data.mul_({small})",
    "{old}.grad.add_({small})",
    "{old}.loc[0, 'x'] = {small}",
    "{old}['z'] = {small}",
    "{old}()",
    "{old}[0]()",
    "put('k{small}', {old})",
    "globals_holder['k1'].append({small})",
    "Thing.count += 1",
    "{old}.extra = {other}",
    "{old}.flags.writeable = False",
    "del {old}",
    "{old} = {other}",
    "pass",
]


@pytest.fixture(autouse=True)
def no_modules_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """This suite's modules would count as such, and are searched at each look; none of them holds a variable."""
    monkeypatch.setattr("jupyter_gpuaas.state.capture.held_by_modules", lambda namespace: frozenset())


def random_cells(seed: int) -> list[str]:
    """A notebook; cells that do not work on what they get fail, as cells do."""
    chance = random.Random(seed)
    cells = [START]
    names: list[str] = ["globals_holder"]
    for number in range(CELLS):
        lines = []
        for _ in range(chance.randint(1, 2)):
            pattern = chance.choice(chance.choice([MAKE, VIEW, CHANGE, CHANGE]))
            new = f"v{number}"
            lines.append(
                pattern.format(
                    new=new,
                    old=chance.choice(names[-6:]),
                    other=chance.choice(names),
                    small=chance.randint(1, 9),
                    count=chance.choice([4, 6, 10]),
                )
            )
            if "{new}" in pattern:
                names.append(new)
        cells.append("\n".join(lines))
    return cells


def empty() -> dict[str, Any]:
    return {"__name__": "__main__", "__builtins__": builtins.__dict__}


def run(source: str, namespace: dict[str, Any]) -> None:
    try:
        exec(compile(source, "<cell>", "exec"), namespace)
    except Exception as error:  # as in a notebook: what it did before it failed stays
        error.__traceback__ = None


@pytest.mark.trials
@pytest.mark.filterwarnings("ignore")  # some libraries warn once a process, and the twin comes second
@pytest.mark.parametrize("seed", SEEDS)
def test_every_checkpoint_is_what_the_twin_was(seed: int) -> None:
    mine, twin = empty(), empty()
    checkpointer = Checkpointer(MemoryStore(), key=KEY, hidden=False)
    taken: list[tuple[str, Any]] = []
    parent = None
    for source in random_cells(seed):
        run(source, mine)
        run(source, twin)
        which = checkpointer.touched_by(source, mine).names
        parent = checkpointer.capture(mine, parent=parent, touched=which)
        lost = {name: verdict.note for name, verdict in parent.report.items() if verdict.outcome == "lost"}
        assert all("autograd" in note for note in lost.values()), lost
        assert canonical(mine) == canonical(twin), "the cells themselves are not the same in both"
        taken.append((parent.id, canonical(twin, lost)))
    other = Checkpointer(checkpointer.store, key=KEY, hidden=False)
    for number, (checkpoint_id, wanted) in enumerate(taken):
        restored = other.restore(checkpoint_id)
        for name, verdict in restored.report.items():
            if verdict.outcome == "lost":
                with pytest.raises(NameLost, match=name):
                    restored.namespace[name].anything  # noqa: B018
                del restored.namespace[name]
        found = canonical(restored.namespace)
        differing = [name for name, _ in wanted if dict(found).get(name) != dict(wanted)[name]]
        assert found == wanted, f"cell {number}: {differing}: {random_cells(seed)[: number + 1]}"


def test_the_comparison_sees_what_matters() -> None:
    """Each pair differs in one thing only; a comparison that missed it would let any capture pass."""
    pairs = [
        ("a = [1]; b = a", "a = [1]; b = [1]"),
        ("import numpy as np\na = np.zeros(4); b = a[1:]", "import numpy as np\na = np.zeros(4); b = a[1:].copy()"),
        ("import numpy as np\na = np.zeros(4)", "import numpy as np\na = np.zeros(4); a.flags.writeable = False"),
        ("import torch\na = torch.ones(3); b = a[1:]", "import torch\na = torch.ones(3); b = a[1:].clone()"),
        ("class A: pass\na = A()", "class A: pass\na = A()\nclass A: pass"),
    ]
    for one, other in pairs:
        first, second = empty(), empty()
        run(one, first)
        run(other, second)
        assert canonical(first) != canonical(second), (one, other)
