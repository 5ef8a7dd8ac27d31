"""Which variables go with a cell: what it reads, what its functions and classes read, and so on; each packed once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import CellError, NotShippable
from jupyter_gpuaas.state import pickling
from jupyter_gpuaas.state.bundle import Group, group_names, in_order, pack_group
from jupyter_gpuaas.state.names import CellNames, is_builtin, of_code
from jupyter_gpuaas.state.pickling import Pickled, Refused

ADVICE = "Nothing was run."


class Packed(msgspec.Struct):
    """The variables of a cell, in the order in which they must be unpacked."""

    groups: list[Group]
    #: Names that the cell and the code that it uses read, assign, delete and import.
    names: CellNames
    #: Modules that the packed objects need where they are unpacked.
    modules: set[str]

    @property
    def inputs(self) -> list[str]:
        """The names that the groups bind."""
        return [name for group in self.groups for name in group.names]


def pack(
    names: CellNames,
    space: Mapping[str, Any],
    *,
    session_id: str,
    settings: Settings,
    forced: Iterable[str] = (),
    hidden: Mapping[str, Any] | None = None,
) -> Packed:
    """Pack what a cell reads.

    Parameters
    ----------
    names
        As `names.analyse` found them; what its functions read is added.
    forced
        Names that go along though the cell does not visibly read them.
    hidden
        Names that the shell itself put into the namespace; they are not sent unless the user changed them.

    Raises
    ------
    NotShippable
        Some names cannot be sent; each with its reason.
    CellError
        A forced name does not exist, or all together are more than the setting ``bundle_bytes``.
    """
    hidden = hidden or {}
    reasons: dict[str, str] = {}
    pickled: dict[str, Pickled] = {}
    values: dict[str, Any] = {}
    modules: set[str] = set()
    forced = list(forced)
    missing = [name for name in forced if name not in space]
    if missing:
        raise CellError(f"-i {', '.join(missing)}: no such name here.")
    todo = [*forced, *sorted(names.reads)]
    while todo:
        name = todo.pop(0)
        if name in values or name in reasons or name not in space:
            continue  # What is not here is the remote session's own, or its NameError.
        value = space[name]
        if (name in hidden and value is hidden[name]) or (
            is_builtin(name) and name not in forced and _same(name, value)
        ):
            continue
        try:
            found = pickling.dump((value,), own={name})
        except Refused as refused:
            reasons[name] = str(refused)
            continue
        strangers = [handle for handle in found.trace.handles if handle.session_id != session_id]
        if strangers:
            reasons[name] = f"{strangers[0].name} is held by another session; bring it here first with .get()"
            continue
        values[name], pickled[name] = value, found
        modules |= found.trace.modules
        todo += sorted(found.trace.references)
        for code in found.trace.codes:
            used = of_code(code)
            names.add(used)
            todo += sorted(used.reads)
    groups: list[Group] = []
    for together in group_names(pickled, values):
        ready = pickled[together[0]] if len(together) == 1 else None
        try:
            groups.append(pack_group(together, [values[name] for name in together], ready))
        except Refused as refused:
            reasons |= {name: str(refused) for name in together}
    if reasons:
        raise NotShippable(reasons, hint=ADVICE)
    total = sum(group.nbytes for group in groups)
    if total > settings.bundle_bytes:
        largest = max(groups, key=lambda group: group.nbytes)
        raise CellError(
            f"the variables of this cell have {total} bytes ({', '.join(largest.names)}: {largest.nbytes}), "
            f"and the setting bundle_bytes allows {settings.bundle_bytes}.",
            hint=ADVICE,
        )
    return Packed(in_order(groups), names, modules)


def _same(name: str, value: Any) -> bool:
    import builtins

    return getattr(builtins, name, None) is value
