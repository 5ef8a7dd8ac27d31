"""Names through one pickle and back, within this process: the quickest way to try a rule."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

from jupyter_gpuaas.state.device.memory import CONTENTS, contents_of
from jupyter_gpuaas.state.memory import lay_out
from jupyter_gpuaas.state.pickler import dump, load, under
from jupyter_gpuaas.state.rules.registry import Context, Restoring


def cell(source: str) -> dict[str, Any]:
    """The namespace that a cell leaves."""
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins.__dict__}
    exec(compile(source, "<cell>", "exec"), namespace)
    return namespace


def names(namespace: Mapping[str, Any]) -> list[str]:
    return [name for name in namespace if not name.startswith("__")]


def roundtrip(
    namespace: dict[str, Any], *, device_map: dict[str, str] | None = None
) -> tuple[dict[str, Any], Context, Restoring]:
    """Dump all names together and load them into a fresh namespace. NotRestorable comes through."""
    context = Context(namespace)
    own = names(namespace)
    pickled = dump(tuple(namespace[name] for name in own), context, own=frozenset(own))
    fresh: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins.__dict__}
    restoring = Restoring(fresh, device_map)
    restoring.memo[CONTENTS] = contents_of(context)
    layout = lay_out(pickled.buffers, context.owners)
    regions = [memoryview(bytearray(content)) for content in layout.contents]
    buffers = [regions[span.region][span.offset : span.offset + span.length] for span in layout.spans]
    with under(restoring):
        values = load(bytes(pickled.stream), buffers)
        fresh.update(zip(own, values, strict=True))
        for finish in restoring.finally_:
            finish()
    return fresh, context, restoring
