"""What ran in this kernel, as a checkpoint keeps it: cells with the names that they read and wrote, and their effects.

A cell is looked at before it runs, for what the variables are that it reads; it is watched while it runs; and it
becomes a record when a capture has found which variables have changed since the last one.
"""

from __future__ import annotations

import ast
import builtins
import gc
import sys
import time
import types
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ..state.code_facts import CodeFacts, facts, merged
from ..state.doubles import reach, shared
from ..state.effects import Definition, definitions, effects
from ..state.names import CellNames, analyse
from ..state.recipes import CellRecord
from ..state.replay import settings
from ..state.touched import Known, known_of, touched
from ..state.watch import EffectWatch

#: Cells that wait for a capture; what more ran than that is said by one record without source.
MOST_WAITING = 300
#: Of these, how many are told apart in what they may have touched.
MOST_TOLD_APART = 20
MOST_SOURCE = 65536
#: Objects that are compared to find out whether two variables share some.
MOST_REACHED = 20_000
#: Objects of a variable that are looked into for code.
MOST_OBJECTS = 300
_PLAIN = (int, float, complex, bool, str, bytes, bytearray, list, dict, tuple, set, frozenset, range, slice, type(None))


class Run:
    """One cell, from before it runs until its record."""

    def __init__(self, source: str, names: CellNames, reads: Iterable[str], kinds: dict[str, str]) -> None:
        self.source, self.names, self.reads, self.kinds = source, names, frozenset(reads), kinds
        self.known: dict[str, Definition] = {}
        self.watch = EffectWatch()
        self.began_s = time.monotonic()
        self.seconds = 0.0
        #: Execution count; 0 for none.
        self.number = 0
        #: Why it is not a cell like others, in the words of effects.
        self.aside = ""
        self.silent = False
        self.settings = ""
        #: Names of which it cannot be told whether they change, and that share something with what it mentions.
        self.near: frozenset[str] = frozenset()


class CellsRun:
    """Records the cells of one kernel.

    Parameters
    ----------
    shell
        IPython's shell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.records: list[CellRecord] = []
        self._waiting: list[Run] = []
        self._gap = False
        #: What could not be captured the last time.
        self._lost: frozenset[str] = frozenset()
        #: Definitions of the notebook's functions and classes, each with what it defined and the names in it.
        self._defined: dict[str, tuple[Definition, weakref.ref[Any], frozenset[str]]] = {}

    # -- a cell runs -------------------------------------------------------------------------------------------

    def begin(self, code: str, reads_of: Mapping[str, Collection[str]]) -> Run | None:
        """Look at a cell that is about to run in this thread; None if it will not run.

        Parameters
        ----------
        reads_of
            Names that the code of a variable reads, where that is known.
        """
        try:
            source = self._shell.transform_cell(code)
            names = analyse(source)
        except SyntaxError:
            return None
        except Exception:  # an input transformer of the user's may raise anything
            source, names = "", CellNames()
        space = self._shell.user_ns
        reads = self._closure(names.reads, space, reads_of) if names.reads else frozenset[str]()
        run = Run(source, names, reads, {})
        if not source or len(source) > MOST_SOURCE:
            run.source, run.aside = "", "was made by a cell that cannot be read"
        known = self._known(names.reads, space) if names.reads else {}
        hidden = self._shell.user_ns_hidden  # where IPython's own ``open`` stands for Python's
        run.kinds = {
            name: _kind(space[name])
            for name in names.reads
            if name in space and name not in known and hidden.get(name, run) is not space[name]
        }
        run.known = known
        if self._lost and run.reads:
            run.near = self._near(run.reads, space)
        run.settings = settings()
        run.watch.__enter__()
        return run

    def ended(self, run: Run, *, number: int, silent: bool, shipped: bool, aside: str) -> None:
        """The cell has run, to its end or not: ``aside`` says why it is not to be run again, in words of effects."""
        run.watch.__exit__()
        run.seconds = time.monotonic() - run.began_s
        run.number, run.silent = number, silent
        run.aside = run.aside or aside
        self._define(run.source)
        if shipped:  # what it started from came from elsewhere
            run.source, run.aside = "", run.aside or "came with %%remote_gpu"
        self._waiting.append(run)
        if len(self._waiting) > MOST_WAITING:
            self._waiting.clear()
            self._gap = True

    def missed(self) -> None:
        """Something ran that is not recorded."""
        self._gap = True

    def _define(self, source: str) -> None:
        if "def " not in source and "class " not in source:
            return
        for name, node in definitions([source]).items():
            value = self._shell.user_ns.get(name)
            if _is_of(value, name, node):
                mentioned = frozenset(part.id for part in ast.walk(node) if isinstance(part, ast.Name))
                self._defined[name] = node, weakref.ref(value), mentioned

    def _known(self, names: Iterable[str], space: Mapping[str, Any]) -> dict[str, Definition]:
        """Definitions of what these names reach, and of all classes, as operators and methods may run their code."""
        live = {name: found for name, found in self._defined.items() if space.get(name) is found[1]()}
        known: dict[str, Definition] = {
            name: node for name, (node, _, _) in live.items() if isinstance(node, ast.ClassDef)
        }
        waiting = [*names, *(part for name in known for part in live[name][2])]
        while waiting:
            name = waiting.pop()
            if name in live and name not in known:
                known[name] = live[name][0]
                waiting += live[name][2]
        return known

    def _closure(
        self, names: Iterable[str], space: Mapping[str, Any], reads_of: Mapping[str, Collection[str]]
    ) -> frozenset[str]:
        """The names, and those that the code of their values reads."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            found.add(name)
            if name in space:
                known = reads_of.get(name)
                waiting += facts_of(_codes(space[name], space)[0]).names if known is None else known
        return frozenset(found)

    # -- a capture ---------------------------------------------------------------------------------------------

    def settle(
        self,
        changed: frozenset[str] | None,
        lost: frozenset[str],
        known: Sequence[Known],
        *,
        beside: bool,
        names: Collection[str],
    ) -> list[CellRecord]:
        """Turn what ran since the last capture into records; returns all records.

        Parameters
        ----------
        changed
            Names that are other than at the last capture; None if there is nothing to compare with.
        lost
            Names of which it cannot be told whether they are.
        known
            What is known of all groups of names.
        beside
            Whether something may have run that was not a cell.
        names
            All names.
        """
        runs, self._waiting = self._waiting, []
        self._lost = lost
        if changed is None and not self.records:
            changed = frozenset(names)
        if self._gap:
            self._record(0, "", (), names, 0.0, ("was made by what is not recorded",))
        elif beside:
            beside_it = frozenset(names) if changed is None else changed | lost
            self._record(0, "", (), beside_it, 0.0, ("may have been changed by what runs beside cells",))
        elif changed and not runs:
            self._record(0, "", (), changed, 0.0, ("was changed by what is not recorded",))
        self._gap = False
        for run in runs:
            writes = run.names.assigns | run.names.deletes | (changed or set())
            if unsure := lost if changed is not None else lost.union(names):
                may = self._may(run.source, lost, known) if len(runs) <= MOST_TOLD_APART else None
                writes |= unsure if may is None else unsure & (may | run.near | run.reads)
            if run.silent and not writes:
                continue
            self._record(run.number, run.source, run.reads, writes, run.seconds, _effects(run), run.settings)
        return self.records

    def _near(self, reads: Iterable[str], space: Mapping[str, Any]) -> frozenset[str]:
        """Which of what could not be captured shares something with these names."""
        try:
            mentioned = reach([space[name] for name in reads if name in space], space, most=MOST_REACHED)
            parts = {name: reach([space[name]], space, most=MOST_REACHED) for name in self._lost if name in space}
        except OverflowError:
            return self._lost
        return frozenset(name for name, part in parts.items() if shared(part, mentioned))

    def _may(self, source: str, lost: frozenset[str], known: Sequence[Known]) -> frozenset[str] | None:
        """Names that a cell may have changed, as ``touched`` tells; also what could not be captured has code."""
        if not source:
            return None
        space = self._shell.user_ns
        groups = [group for group in known if not group.names & lost]
        for name in lost:
            codes, is_all = _codes(space.get(name), space)
            groups.append(known_of([name], codes) if is_all else Known(frozenset([name])))
        return touched(source, groups, space, background=False).names

    def follow(self, records: Sequence[CellRecord], number: int, names: Collection[str], lost: frozenset[str]) -> None:
        """The variables were restored: what made them are these cells, if the checkpoint has them."""
        self._lost = lost
        self.records = list(records)
        self._waiting.clear()
        self._gap = False
        if not records:
            self._record(number, "", (), names, 0.0, ("came from a checkpoint without cells",))
        self._defined = {}
        for record in self.records:
            self._define(record.source)

    def _record(
        self,
        number: int,
        source: str,
        reads: Iterable[str],
        writes: Iterable[str],
        seconds: float,
        effects: tuple[str, ...],
        settings: str = "",
    ) -> None:
        last = self.records[-1].number if self.records else 0
        record = CellRecord(
            max(last + 1, number), source, tuple(sorted(reads)), tuple(sorted(writes)), seconds, effects, settings
        )
        self.records.append(record)


def _effects(run: Run) -> tuple[str, ...]:
    if not run.source:
        return (run.aside,)
    found = effects(run.source, types=run.kinds, known=run.known, seen=run.watch.seen)
    return (*found, run.aside) if run.aside else found


def _is_of(value: Any, name: str, node: Definition) -> bool:
    """Whether a value is what a definition at the top of a cell gave, and not what a decorator made of it."""
    if getattr(node, "decorator_list", ()):
        return False
    if isinstance(value, types.FunctionType):
        code = value.__code__
        return value.__qualname__ == name == code.co_name and code.co_firstlineno == node.lineno
    return isinstance(value, type) and value.__qualname__ == name and value.__module__ == "__main__"


def facts_of(codes: Iterable[types.CodeType]) -> CodeFacts:
    return merged(facts(code) for code in codes)


def _kind(value: Any) -> str:
    """What ``effects`` is to know of a variable."""
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        home, name = getattr(value, "__module__", None), value.__qualname__
        is_there = home in sys.modules and home != "__main__" and getattr(sys.modules[home], name, None) is value
        return f"module {home}.{name}" if is_there else "something"
    kind = type(value)
    if kind.__module__ == builtins.__name__ and kind not in _PLAIN:
        return "something"  # methods, iterators and the like run anything
    return f"{kind.__module__}.{kind.__qualname__}"


def _codes(value: Any, space: Mapping[str, Any]) -> tuple[list[types.CodeType], bool]:
    """Code of the notebook in an object, and whether all of the object was looked into."""
    found: list[types.CodeType] = []
    seen: set[int] = {id(space)}
    waiting = [value]
    while waiting and len(seen) < MOST_OBJECTS:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, types.ModuleType):
            continue
        seen.add(id(part))
        if isinstance(part, types.FunctionType):
            if part.__globals__ is space:
                found.append(part.__code__)
            waiting += [part.__closure__, part.__defaults__, part.__kwdefaults__]
        elif isinstance(part, types.CodeType):
            found.append(part)
        elif not isinstance(part, type) or part.__module__ == "__main__":
            waiting += gc.get_referents(part)
            if isinstance(part, types.GeneratorType):
                waiting.append(part.gi_code)
            elif isinstance(part, types.CoroutineType):
                waiting.append(part.cr_code)
    return found, not waiting
