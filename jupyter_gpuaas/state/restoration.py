"""One restore: the state of a checkpoint comes into a namespace, or nothing of the namespace is changed."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from ..errors import CheckpointError
from ..model import Replay
from ..store.base import Store
from ..store.manifest import GroupRecord, Manifest, Verdict
from .ahead import Ahead
from .capture import Tracker
from .cell_log import is_whole, unpack
from .hidden import BEFORE_NAMES, Hidden, called, kinds
from .lost import Lost
from .recipes import CellRecord
from .remaking import definitions_of, make_again
from .remembered import Remembered
from .replay import ReplayFailed
from .restore import only, read_records, restore_names
from .rules.registry import NotRestorable, Restoring
from .world import check, relocated
from .writing import Progress, no_progress


class RestoreResult(msgspec.Struct, frozen=True):
    """What a restore gave.

    Attributes
    ----------
    namespace
        The names and their objects. A name that could not be restored is bound to an object that raises the reason
        when it is touched.
    report
        For each name, ``outcome`` (``stored``, ``rebuilt``, ``replayed``, ``lost``) and ``note``: how, or why not.
    """

    namespace: dict[str, Any]
    report: dict[str, Verdict]
    remarks: list[str]


class Restoration:
    """Of one checkpoint, into one namespace, once.

    Parameters
    ----------
    into
        None for a new namespace.
    names
        Only these; None for all, and hidden state.
    device_map, exact, ahead
        See ``Checkpointer.restore``.

    Raises
    ------
    CheckpointError, WorldMismatch, StoreError
        It cannot be restored here.
    """

    def __init__(
        self,
        manifest: Manifest,
        store: Store,
        *,
        into: dict[str, Any] | None,
        names: frozenset[str] | None,
        device_map: dict[str, str],
        shell: Any,
        exact: bool,
        ahead: Ahead | None,
    ) -> None:
        remarks = check(manifest.world, exact=exact)
        records = read_records(manifest, store)
        if names is not None:
            unknown = sorted(names - manifest.names.keys())
            if unknown:
                raise CheckpointError(f"names: {', '.join(unknown)} not in checkpoint {manifest.id}.")
            records = only(records, names)
        self._manifest = manifest
        self._store = store
        self._records = records
        self._names = names
        #: Names that are bound: those that are asked for, and what they share objects with.
        self._wanted = None if names is None else names.union(*(record.names for record in records))
        # As in a notebook: restored functions import by way of their globals, and may ask for their name.
        self.namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins} if into is None else into
        self._restoring = Restoring(self.namespace, device_map, relocated(manifest.world))
        self._restoring.remarks = remarks
        self._world = Hidden(namespace=self.namespace, shell=shell, cell=None, full=True, here=self._restoring.here)
        self._hidden: dict[str, Any] = {}
        self._verdicts = dict(manifest.names)
        self._ahead = ahead
        self._remembered = Remembered(manifest, {} if ahead is None else ahead.cache.fast)

    def run(
        self,
        *,
        keep: frozenset[str],
        replay: Replay,
        running: Callable[[CellRecord], None],
        progress: Progress,
    ) -> RestoreResult:
        """Do it; what fails leaves the namespace as it was.

        Parameters
        ----------
        keep
            Names that stay, though the checkpoint does not have them.
        """
        target, names = self.namespace, self._names
        with _unless_it_fails(target):
            if names is None:
                keep |= self._manifest.names.keys()
                for name in [name for name in target if name not in keep]:
                    del target[name]
            early = frozenset(map(called, BEFORE_NAMES))
            first = [record for record in self._records if early.issuperset(record.names)]
            self._restore(first)
            self._restore_hidden(early)
            rest = [record for record in self._records if record not in first]
            self._restore(rest, progress=progress, ahead=self._ahead)
            if names is None:
                self._restore_hidden(self._hidden.keys() - early)
                self._make_again(replay, running)
        verdicts = self._verdicts if names is None else {name: self._verdicts[name] for name in names}
        return RestoreResult(target, verdicts, self._restoring.remarks)

    def tracker(self) -> Tracker:
        """What tracks the namespace from here on, if all of it was made of what was ``ahead``."""
        return self._remembered.tracker(self.namespace)

    def _bind(self, name: str, value: Any) -> None:
        if name.startswith("<"):
            self._hidden[name] = value
        elif self._wanted is None or name in self._wanted:
            self.namespace[name] = value

    def _restore(
        self, records: list[GroupRecord], *, progress: Progress = no_progress, ahead: Ahead | None = None
    ) -> None:
        found = restore_names(
            self._manifest,
            self._store,
            self._restoring,
            records=records,
            bind=self._bind,
            progress=progress,
            restored=_not_remembered if self._ahead is None else self._remembered.group,
            ahead=ahead,
        )
        self._verdicts |= {name: found[name] for record in records for name in record.names}

    def _restore_hidden(self, which: Collection[str]) -> None:
        for kind in kinds():
            name = called(kind.kind)
            if name not in which or name not in self._hidden or self._verdicts[name].outcome == "lost":
                continue
            try:
                kind.restore(self._hidden[name], self._world)
            except NotRestorable as error:
                self._verdicts[name] = Verdict("lost", str(error))
            except Exception as error:
                self._verdicts[name] = Verdict("lost", f"cannot be restored: {type(error).__name__}: {error}")

    def _make_again(self, replay: Replay, running: Callable[[CellRecord], None]) -> None:
        """Run cells again for what could not be restored, if that may be."""
        lost = {
            name: found.note for name, found in self._verdicts.items() if found.outcome == "lost" and name[:1] != "<"
        }
        if not lost or replay == "never" or not is_whole(self._verdicts):
            return
        stored = {name for name in self._verdicts if name not in lost and name[:1] != "<"}
        cells = unpack(self._hidden)
        made = make_again(lost, cells, stored, self.namespace, self._copies, how=replay, running=running)
        self.namespace.update({name: Lost(name, found.note) for name, found in made.items() if found.outcome == "lost"})
        self._verdicts |= made

    def _copies(self, names: Collection[str], aside: Mapping[str, Any]) -> dict[str, Any]:
        """Copies of stored variables, made of the store anew each time; see ``replay.Load``."""
        namespace = self.namespace
        live = definitions_of(aside, self._manifest.names)
        lacking = [each for each in self._records if not set(each.names) <= live.keys()]
        records = only(lacking, set(names) - live.keys())
        needed = {name for each in records for name in each.names}
        found = dict(live)

        def bind(name: str, value: Any) -> None:
            if name in needed:
                found.setdefault(name, value)
                namespace[name] = found[name]

        # Functions refer to the namespace that they are restored into, so that is what they are restored into.
        before = dict(namespace)
        namespace.update(live)
        try:
            verdicts = restore_names(
                self._manifest,
                self._store,
                Restoring(namespace, self._restoring.device_map, self._restoring.here),
                records=records,
                bind=bind,
            )
        finally:
            namespace.clear()
            namespace.update(before)
        for name in names:
            if name not in live and verdicts[name].outcome == "lost":
                raise ReplayFailed(f"it starts from {name}, which {verdicts[name].note}")
        return {name: found[name] for name in names}


@contextmanager
def _unless_it_fails(namespace: dict[str, Any]) -> Iterator[None]:
    """Names that are deleted or bound inside are as they were if that ends with an error, of the store for one."""
    before = dict(namespace)
    try:
        yield
    except BaseException:
        namespace.clear()
        namespace.update(before)
        raise


def _not_remembered(record: GroupRecord, values: Any, owners: Any, restoring: Restoring) -> None:
    pass
