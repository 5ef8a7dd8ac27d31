"""What a look at all hidden state costs: ``python -m tests.state.cost_of_hidden``. Prints milliseconds, medians."""

from __future__ import annotations

import statistics
import time

from jupyter_gpuaas.state.hidden import Hidden, kinds, mark_baseline
from jupyter_gpuaas.state.pickler import dump
from jupyter_gpuaas.state.rules.registry import Context

_CELL = """
import numpy as np, pandas as pd, torch, matplotlib, logging, decimal
matplotlib.use("agg")
import matplotlib.pyplot as plt
def train(model, data):
    for x in data:
        loss = torch.nn.functional.mse_loss(model(x), x)
        loss.backward()
"""


def main() -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False
    space = shell.user_ns
    mark_baseline(space)
    shell.run_cell(_CELL, store_history=True).raise_error()
    _look(space, shell, _CELL, full=False)
    for n in range(300):
        shell.run_cell(f"x{n} = {n}  # a cell\nx{n}", store_history=True, silent=False)
    shell.run_cell("y = 1", store_history=True)
    cells = {
        "pass": "pass",
        "calls": "train(None, []); np.linalg.norm(np.ones(3)); pd.DataFrame({'a': [1]}).describe()",
        "attributes": "class Net(torch.nn.Module):\n    def f(self, o):\n        o.x = 1\nplt.show",
    }
    for name, cell in cells.items():
        took: dict[str, list[float]] = {}
        for _ in range(30):
            whole = 0.0
            world = Hidden(space, shell, cell)
            values = []
            for kind in kinds():
                begun = time.perf_counter()
                values.append(kind.capture(world))
                spent = (time.perf_counter() - begun) * 1e3
                took.setdefault(kind.kind, []).append(spent)
                whole += spent
            begun = time.perf_counter()
            for value in values:
                if value is not None:
                    dump((value,), Context(space))
            took.setdefault("(pickling)", []).append((time.perf_counter() - begun) * 1e3)
            took.setdefault("(all looks)", []).append(whole)
        medians = {kind: statistics.median(times) for kind, times in took.items()}
        print(f"{name}: " + ", ".join(f"{kind} {ms:.3f}" for kind, ms in medians.items() if ms >= 0.01))
    begun = time.perf_counter()
    _look(space, shell, None, full=True)
    print(f"full look: {(time.perf_counter() - begun) * 1e3:.0f}")


def _look(space: dict[str, object], shell: object, cell: str | None, full: bool) -> None:
    world = Hidden(space, shell, cell, full)
    for kind in kinds():
        kind.capture(world)


if __name__ == "__main__":
    main()
