"""What IPython remembers of the cells that ran: ``In``, ``Out``, ``_``, ``_i``, the count, and where code came from."""

from __future__ import annotations

import contextlib
import linecache
import os
import re
from typing import Any

from ..rules.registry import NotRestorable
from .world import Hidden, Kind, Losses, Named, keep, kept

#: Names that IPython gives the namespace and that are kept here; ``_``, ``__``, ``___`` and ``_1`` are like others.
SHELL_NAMES = frozenset("In Out _ih _oh _dh _i _ii _iii get_ipython exit quit open".split())
_INPUT = re.compile(r"_i\d+")


def shell_names(namespace: dict[str, Any], shell: Any | None) -> frozenset[str]:
    """Names of the namespace that belong to IPython as long as the user has not bound them to something else."""
    if shell is None:
        return frozenset()
    history = shell.history_manager
    own = {"In": history.input_hist_parsed, "_ih": history.input_hist_parsed, "_dh": history.dir_hist}
    own |= {"Out": history.output_hist, "_oh": history.output_hist}
    own |= {"_i": history._i, "_ii": history._ii, "_iii": history._iii}
    hidden = shell.user_ns_hidden
    names = set()
    for name, value in namespace.items():
        if name in own:
            taken = value is own[name] or (isinstance(value, str) and value == own[name])
        elif name in SHELL_NAMES or _INPUT.fullmatch(name):
            taken = name in hidden and hidden[name] is value
        else:
            continue
        if taken:
            names.add(name)
    return frozenset(names)


class History(Kind):
    """Inputs and the execution count."""

    kind = "history"

    def look(self, world: Hidden) -> Any:
        if world.shell is None:
            return None
        history = world.shell.history_manager
        parsed, raw = list(history.input_hist_parsed), list(history.input_hist_raw)
        return {
            "parsed": parsed,
            # Mostly the same texts.
            "raw": {n: text for n, text in enumerate(raw) if n >= len(parsed) or text != parsed[n]},
            "length": len(raw),
            "last": (history._i00, history._i, history._ii, history._iii),
            "folders": [str(folder) for folder in history.dir_hist],
            # In older versions it is counted up after the cell, which may be the one that runs.
            "count": max(int(world.shell.execution_count), len(parsed)),
        }

    def put_back(self, value: Any, world: Hidden) -> None:
        shell = world.shell
        if shell is None:
            return
        history = shell.history_manager
        parsed, length = list(value["parsed"]), value["length"]
        raw = [value["raw"].get(n, parsed[n] if n < len(parsed) else "") for n in range(length)]
        # A cell that restores is the next one after those restored.
        running = shell.displayhook.exec_result is not None and len(history.input_hist_raw) > 1
        present = (history.input_hist_parsed[-1], history.input_hist_raw[-1]) if running else None
        goes_back = value["count"] < shell.execution_count
        last = value["last"]
        if present is not None:
            parsed.append(present[0])
            raw.append(present[1])
            last = (present[1], *last[:3])
        with history._input_lock if hasattr(history, "_input_lock") else contextlib.nullcontext():
            history.input_hist_parsed[:] = parsed
            history.input_hist_raw[:] = raw
        history._i00, history._i, history._ii, history._iii = last
        history.dir_hist[:] = map(world.here, value["folders"])
        names = {f"_i{n}": raw[n] for n in range(1, len(raw))}
        names |= {"_i": last[1], "_ii": last[2], "_iii": last[3]}
        for name in [name for name in world.namespace if _INPUT.fullmatch(name) and name not in names]:
            if shell.user_ns_hidden.get(name) is world.namespace[name]:
                del world.namespace[name]
        world.namespace.update(names)
        shell.user_ns_hidden.update(names)
        bound = {"In": history.input_hist_parsed, "_ih": history.input_hist_parsed, "_dh": history.dir_hist}
        for name, own in bound.items():
            if name not in world.namespace or name.startswith("_"):
                world.namespace[name] = own
        # In the database a line is known by session and number, and no number may come twice.
        if goes_back and history.enabled:
            with contextlib.suppress(Exception):
                history.writeout_cache()
                history.new_session()
        # IPython 9 has counted the running cell already, IPython 8 will do so after it.
        counted = present is not None and _counts_first(shell)
        shell.execution_count = value["count"] + (1 if counted else 0)


def _counts_first(shell: Any) -> bool:
    """Whether the count is ahead of the running cell."""
    running = shell.displayhook.exec_result.execution_count
    return running is not None and bool(shell.execution_count > running)


class Outputs(Kind):
    """``Out``: what cells displayed. Most of it is bound to ``_1``, ``_2``, … as well, and kept there."""

    kind = "outputs"

    def look(self, world: Hidden) -> Any:
        if world.shell is None:
            return None
        hook = world.shell.displayhook
        return {
            "out": {n: _by_number(n, value, world) for n, value in world.shell.history_manager.output_hist.items()},
            "last": [_by_under(name, getattr(hook, name, ""), world) for name in ("_", "__", "___")],
            "reprs": dict(world.shell.history_manager.output_hist_reprs),
        }

    def put_back(self, value: Any, world: Hidden) -> None:
        shell, space = world.shell, world.namespace
        if shell is None:
            return
        history, losses = shell.history_manager, Losses()
        found: dict[Any, Any] = {}
        for n, output in value["out"].items():
            try:
                found[n] = kept(output, space)
            except NotRestorable as error:
                losses.add(f"Out[{n}] {error}")
        history.output_hist.clear()
        history.output_hist.update(found)
        history.output_hist_reprs.clear()
        history.output_hist_reprs.update(value["reprs"])
        for name in ("Out", "_oh"):
            if name not in space or name == "_oh":
                space[name] = history.output_hist
        for name, output in zip(("_", "__", "___"), value["last"], strict=True):
            try:
                setattr(shell.displayhook, name, kept(output, space))
            except NotRestorable as error:
                losses.add(f"{name} {error}")
        # So that %who leaves them out, and that the display hook takes `_` for its own.
        for name in ("_", "__", "___", *(f"_{n}" for n in found)):
            if name in space:
                shell.user_ns_hidden[name] = space[name]
        losses.told()


def _by_number(n: Any, value: Any, world: Hidden) -> Any:
    return Named(f"_{n}") if world.namespace.get(f"_{n}", Kind) is value else keep(value, world)


def _by_under(name: str, value: Any, world: Hidden) -> Any:
    return Named(name) if world.namespace.get(name, Kind) is value else keep(value, world)


class Sources(Kind):
    """Texts of code that is in no file, for tracebacks and ``inspect.getsource``."""

    kind = "sources"

    def __init__(self) -> None:
        #: Name in linecache -> its lines there, and these as one text.
        self._known: dict[str, tuple[list[str], str]] = {}

    def look(self, world: Hidden) -> Any:
        known: dict[str, tuple[list[str], str]] = {}
        for name, entry in list(linecache.cache.items()):
            if len(entry) != 4 or entry[1] is not None:
                continue
            lines = entry[2]
            before = self._known.get(name)
            if before is not None and before[0] is lines:
                known[name] = before
            elif _is_of_cell(name):
                known[name] = lines, "".join(lines)
        self._known = known
        numbers = world.shell.compile._filename_map if world.shell is not None else {}
        return {
            "texts": {name: text for name, (_, text) in known.items()},
            "cells": {name: number for name, number in numbers.items() if name in known},
        }

    def put_back(self, value: Any, world: Hidden) -> None:
        for name, text in value["texts"].items():
            if name not in linecache.cache:
                linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        if world.shell is not None:
            for name, number in value["cells"].items():
                world.shell.compile._filename_map.setdefault(name, number)


def _is_of_cell(name: str) -> bool:
    """Not of a module that a loader gave the text of."""
    return name.startswith("<") or "ipython" in name or "ipykernel" in name or not os.path.exists(name)
