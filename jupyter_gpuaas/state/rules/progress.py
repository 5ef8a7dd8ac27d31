"""Progress bars of tqdm: where they stood, with a clock that did not run meanwhile."""

from __future__ import annotations

import importlib
import time
from typing import Any

from .registry import Context, rule

_CLOCKS = ("start_t", "last_print_t")


@rule("tqdm.std.tqdm")
def reduce_bar(bar: Any, context: Context) -> Any:
    state = {name: value for name, value in vars(bar).items() if name not in ("sp", "_lock")}
    now = bar._time() if hasattr(bar, "_time") else time.time()
    ages = {name: now - state.pop(name) for name in _CLOCKS if name in state}
    if type(state.get("fp")).__name__ == "DisableOnWriteError":
        state["fp"] = state["fp"]._wrapped
    context.rebuilt("a progress bar where it stood; its clock goes on from there")
    return empty_bar, (type(bar),), (state, ages, "sp" in vars(bar)), None, None, fill_bar


def empty_bar(kind: Any) -> Any:
    kind.get_lock()  # makes the lock of all bars, if this is the first one here
    return object.__new__(kind)


def fill_bar(bar: Any, state: tuple[dict[str, Any], dict[str, float], bool]) -> None:
    attributes, ages, printed = state
    vars(bar).update(attributes)
    now = bar._time() if hasattr(bar, "_time") else time.time()
    vars(bar).update({name: now - age for name, age in ages.items()})
    if printed:
        bar.fp = importlib.import_module("tqdm.utils").DisableOnWriteError(bar.fp, tqdm_instance=bar)
        bar.sp = bar.status_printer(bar.fp)
    if not bar.disable:
        bar._instances.add(bar)


@rule("tqdm.std.TqdmDefaultWriteLock")
def reduce_lock(lock: Any, context: Context) -> Any:
    return write_lock, ()


def write_lock() -> Any:
    return importlib.import_module("tqdm.std").tqdm.get_lock()
