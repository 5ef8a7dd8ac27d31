"""Which variables go with a cell: what it reads, what its functions and classes read, and so on; each packed once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import CellError, NotShippable
from jupyter_gpuaas.state.bundle import Group
from jupyter_gpuaas.state.groups import Ids
from jupyter_gpuaas.state.memory import Place
from jupyter_gpuaas.state.names import CellNames, is_builtin, of_code
from jupyter_gpuaas.state.packing import Unit, look, sharing, together
from jupyter_gpuaas.state.packing import pack as pack_unit
from jupyter_gpuaas.state.rules.registry import NotRestorable

ADVICE = "Nothing was run."


class Shared(msgspec.Struct):
    """What another pickle may share with a group, as far as was known when it was packed."""

    ids: Ids
    places: list[Place]


class Packed(msgspec.Struct):
    """The variables of a cell, in the order in which they must be unpacked."""

    groups: list[Group]
    #: Names that the cell and the code that it uses read, assign, delete and import.
    names: CellNames
    #: Modules that the packed objects need where they are unpacked.
    modules: set[str]
    #: What another pickle may share with each group.
    shared: dict[tuple[str, ...], Shared]
    #: Names whose values are not sent as they are but made anew there, and how.
    notes: dict[str, str]

    @property
    def inputs(self) -> list[str]:
        """The names that the groups bind."""
        return [name for group in self.groups for name in group.names]


def pack(
    names: CellNames,
    space: dict[str, Any],
    *,
    session_id: str,
    settings: Settings,
    forced: Iterable[str] = (),
    hidden: Mapping[str, Any] | None = None,
    held: Mapping[tuple[str, ...], Shared] | None = None,
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
    held
        Groups that the session has. What shares objects or memory with the cell's variables goes along with them, so
        that it shares them there too.

    Raises
    ------
    NotShippable
        Some names cannot be sent; each with its reason.
    CellError
        A forced name does not exist, or all together are more than the setting ``bundle_bytes``.
    """
    forced = list(forced)
    missing = [name for name in forced if name not in space]
    if missing:
        raise CellError(f"-i {', '.join(missing)}: no such name here.")
    packer = _Packer(names, space, session_id, forced, hidden or {})
    packer.look([*forced, *sorted(names.reads)])
    others = dict(held or {})
    while others:
        seen = [group for group in others if not packer.units.keys().isdisjoint(group)]
        for group in seen:
            # What the session has in one piece may have come apart here; what is left of it is looked at as well.
            packer.look(group, optional=True)
            del others[group]
        met = sharing(list(packer.units.values()), [(shared.ids, shared.places) for shared in others.values()])
        for group in [list(others)[number] for number in met]:
            packer.look(group, optional=True)
            del others[group]
        if not met and not seen:
            break
    groups, shared = packer.groups()
    if packer.reasons:
        raise NotShippable(packer.reasons, hint=ADVICE)
    total = sum(group.nbytes for group in groups)
    if total > settings.bundle_bytes:
        largest = max(groups, key=lambda group: group.nbytes)
        raise CellError(
            f"the variables of this cell have {total} bytes ({', '.join(largest.names)}: {largest.nbytes}), "
            f"and the setting bundle_bytes allows {settings.bundle_bytes}.",
            hint=ADVICE,
        )
    return Packed(groups, names, packer.modules, shared, packer.notes)


class _Packer:
    """Looks at names, those that they need, and so on."""

    def __init__(
        self, names: CellNames, space: dict[str, Any], session_id: str, forced: list[str], hidden: Mapping[str, Any]
    ) -> None:
        self._names = names
        self._space = space
        self._session_id = session_id
        self._forced = forced
        self._hidden = hidden
        self.units: dict[str, Unit] = {}
        self.modules: set[str] = set()
        self.reasons: dict[str, str] = {}
        self.notes: dict[str, str] = {}

    def look(self, names: Iterable[str], *, optional: bool = False) -> None:
        """Pickle names, and those that their pickles need; ``optional`` ones that cannot be are passed over."""
        todo = list(names)
        may_fail = frozenset(todo) if optional else frozenset()
        while todo:
            name = todo.pop(0)
            if name in self.units or name in self.reasons or not self._is_variable(name):
                continue
            try:
                unit = look([name], [self._space[name]], self._space)
            except NotRestorable as refused:
                if name not in may_fail:
                    self.reasons[name] = str(refused)
                continue
            strangers = [handle for handle in unit.context.handles if handle.session_id != self._session_id]
            if strangers:
                if name not in may_fail:
                    held = f"{strangers[0].name} is held by another session"
                    self.reasons[name] = f"{held}; bring it here first with .get()"
                continue
            self.units[name] = unit
            self.modules |= unit.context.modules
            if unit.context.rebuilds:
                self.notes[name] = "; ".join(unit.context.rebuilds)
            todo += sorted(unit.context.references)
            for code in unit.context.codes:
                used = of_code(code)
                self._names.add(used)
                todo += sorted(used.reads)

    def _is_variable(self, name: str) -> bool:
        """Whether a name is the user's; what is not here is the remote session's own, or its NameError."""
        if name not in self._space:
            return False
        value = self._space[name]
        if name in self._hidden and value is self._hidden[name]:
            return False
        return not is_builtin(name) or name in self._forced or not _same(name, value)

    def groups(self) -> tuple[list[Group], dict[tuple[str, ...], Shared]]:
        """All of them, those that share together, in the order in which they can be unpacked."""
        groups: list[Group] = []
        shared: dict[tuple[str, ...], Shared] = {}
        try:
            for unit in together(list(self.units.values()), self._space):
                shared[unit.names] = Shared(unit.ids, unit.places)
                groups.append(pack_unit(unit, self._space))
        except NotRestorable as refused:
            self.reasons |= dict.fromkeys(self.units, str(refused))
        return groups, shared


def _same(name: str, value: Any) -> bool:
    import builtins

    return getattr(builtins, name, None) is value
