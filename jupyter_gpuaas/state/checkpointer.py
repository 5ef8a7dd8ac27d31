"""Checkpoints of a namespace: capture, restore, compare, verify. Usable without Jupyter."""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from ..errors import CheckpointError, NoSuchCheckpoint
from ..model import Replay, short_id
from ..store.base import Freed, Store
from ..store.blob import TOGETHER_BYTES, chunk_digests, chunk_sizes, read_blobs
from ..store.manifest import Blob, Costs, GroupEntry, GroupRecord, Manifest, Verdict
from ..store.seal import seal, validate, validate_record
from ..wire.unreadable import is_count
from .ahead import Ahead
from .arguments import check_number, check_replay, check_text, devices_of, key_of, names_of, namespace_of
from .capture import NOT_STATE, Draft, Tracker
from .cell_log import CellLog, is_block, is_whole, unpack
from .device.training import compiler_names
from .fence import new_id, of_session
from .hidden import BEFORE_NAMES, Hidden, kinds, shell_names
from .listing import is_users
from .lost import Lost
from .memory import CopyPool
from .recipes import CellRecord
from .remaking import definitions_of, make_again
from .remembered import Remembered
from .replay import ReplayFailed
from .restore import only, read_records, restore_names
from .rules.registry import NotRestorable, Restoring
from .touched import Touch, touched
from .world import check, relocated
from .writing import Progress, write

#: Warm memory that is kept for the copies of the next capture.
POOL_BYTES = 256 * 1024**2
#: How hidden state is called among the names: no name of Python's looks so.
HIDDEN = "<{}>"

#: The cells of the session until now, in order; or what gives them from the names that have changed since the last
#: capture.
Cells = Sequence[CellRecord] | Callable[[frozenset[str]], Sequence[CellRecord]]


def _no_progress(done: int, total: int) -> None:
    pass


class Checkpoint(msgspec.Struct, frozen=True):
    """One checkpoint that is committed."""

    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def parent(self) -> str:
        return self.manifest.parent

    @property
    def label(self) -> str:
        return self.manifest.label

    @property
    def costs(self) -> Costs:
        return self.manifest.costs

    @property
    def report(self) -> dict[str, Verdict]:
        """What became of each name at capture."""
        return dict(self.manifest.names)


class BaseGone(CheckpointError):
    """The checkpoint that a capture builds on was removed before it was written."""

    retryable = True


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


class Diff(msgspec.Struct, frozen=True):
    """What differs between two checkpoints, by name."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


class Pending:
    """A capture whose state is safe in memory, and that is still to be written."""

    def __init__(
        self, finish: Callable[[Progress], Checkpoint], checkpoint_id: str, stall_s: float, nbytes: int
    ) -> None:
        self.id = checkpoint_id
        #: How long the namespace had to stand still.
        self.stall_s = stall_s
        #: Memory of the host that its copies take until it is written.
        self.nbytes = nbytes
        self._finish = finish

    def write(self, progress: Progress = _no_progress) -> Checkpoint:
        """Write and commit; in any thread, once, in the order of the captures."""
        return self._finish(progress)


class Checkpointer:
    """Captures one namespace after another state of it into a store, and restores them.

    Parameters
    ----------
    store
        Where to; see ``jupyter_gpuaas.store``.
    key
        Secret of the owner, at least 16 bytes: who has it can make checkpoints that restore here, and restoring runs
        code. A text stands for its UTF-8 bytes.
    shell
        IPython's shell, whose own state is then captured too.
    skip
        Names that are not the user's.
    hidden
        Whether to capture what has no name: random states, environment, options, patches.
    """

    def __init__(
        self,
        store: Store,
        *,
        key: bytes | str,
        owner: str = "",
        session: str = "",
        shell: Any = None,
        skip: frozenset[str] = frozenset(),
        hidden: bool = True,
    ) -> None:
        self.store = store
        self._key = key_of(key)
        self._owner, self._session = owner, session
        self._shell, self._skip, self._hidden = shell, skip, hidden
        self._tracker: Tracker | None = None
        self._pool = CopyPool(POOL_BYTES)
        self._cells = CellLog()
        self._writing = threading.Lock()
        #: A write was interrupted: what later captures take for written may not be.
        self._doubtful = False
        #: The last checkpoint of this tracker: what has not changed is in it, so it must still be there.
        self._base = ""

    # -- capture -----------------------------------------------------------------------------------------------

    def capture(
        self,
        namespace: dict[str, Any],
        *,
        parent: Checkpoint | Pending | str | None = None,
        label: str = "",
        cell: int = 0,
        epoch: int = 0,
        touched: frozenset[str] | None = None,
        source: str | None = None,
        cells: Cells = (),
        progress: Progress = _no_progress,
    ) -> Checkpoint:
        """Capture, write and commit; returns when the checkpoint is durable.

        Parameters
        ----------
        parent
            The checkpoint that this one follows. What has not changed since is not written again in any case.
        touched
            Names that may have changed since the last capture of this namespace; None for all.
        source
            The cell that ran since; helps to find what it changed outside the namespace.
        cells
            Of the session until now; from these, a restore makes again what could not be stored.
        """
        started = time.perf_counter()
        draft, head = self._look(namespace, parent, label, cell, epoch, touched, source, cells)
        with self._writing:
            try:
                return self._write(draft, head, started, None, progress)
            except BaseGone:
                draft, head = self._look(namespace, parent, label, cell, epoch, None, source, cells)
                return self._write(draft, head, started, None, progress)

    def begin(
        self,
        namespace: dict[str, Any],
        *,
        parent: Checkpoint | Pending | str | None = None,
        label: str = "",
        cell: int = 0,
        epoch: int = 0,
        touched: frozenset[str] | None = None,
        source: str | None = None,
        cells: Cells = (),
        stop: Callable[[], None] = lambda: None,
    ) -> Pending:
        """Capture into memory; the namespace may change as soon as this returns.

        Parameters
        ----------
        stop
            Called often; what it raises gives the capture up, and nothing is kept of it.
        """
        started = time.perf_counter()
        draft, head = self._look(namespace, parent, label, cell, epoch, touched, source, cells)
        try:
            draft.detach(self._pool, stop)
        except BaseException:
            self.forget_changes()
            raise
        stall_s = time.perf_counter() - started

        def finish(progress: Progress) -> Checkpoint:
            with self._writing:
                return self._write(draft, head, started, stall_s, progress)

        return Pending(finish, head["id"], stall_s, draft.waiting_bytes)

    def forget_changes(self) -> None:
        """Take nothing for written: the next capture looks at everything."""
        if self._tracker is not None:
            self._tracker.forget()

    def touched_by(self, source: str | Sequence[str], namespace: dict[str, Any], *, background: bool = False) -> Touch:
        """Which names the cells that ran since the last capture may have changed; see ``touched``."""
        if self._tracker is None or self._tracker.namespace is not namespace or self._tracker.restored:
            return Touch(None, "nothing was captured yet")
        return touched(source, [group.known for group in self._tracker.groups], namespace, background=background)

    @property
    def tracker(self) -> Tracker | None:
        """What is known of the namespace from its last capture."""
        return self._tracker

    def _look(
        self,
        namespace: dict[str, Any],
        parent: Checkpoint | Pending | str | None,
        label: str,
        cell: int,
        epoch: int,
        touched: frozenset[str] | None,
        source: str | None,
        cells: Cells,
    ) -> tuple[Draft, dict[str, Any]]:
        namespace_of("namespace", namespace)
        check_text("label", label)
        check_number("cell", cell)
        check_number("epoch", epoch)
        if not isinstance(parent, (Checkpoint, Pending, str, type(None))):
            raise TypeError(f"parent: is of type {type(parent).__name__}; it must be a Checkpoint or its id")
        if isinstance(parent, str) and parent:
            self.store.manifest(parent)  # raises NoSuchCheckpoint
        touched = None if touched is None else names_of("touched", touched)
        parent_id = parent if isinstance(parent, str) else "" if parent is None else parent.id
        if self._tracker is None or self._tracker.namespace is not namespace:
            self._tracker, self._base = Tracker(namespace), ""
        extra = self._capture_hidden(namespace, source, full=touched is None)
        head = {
            "id": new_id(self._session, epoch),
            "parent": parent_id,
            "created_s": time.time(),
            "owner": self._owner,
            "session": self._session,
            "epoch": epoch,
            "cell": cell,
            "label": label,
        }
        before = {name for group in self._tracker.groups for name in group.names}
        draft = self._tracker.look(touched, extra, skip=self._not_the_users(namespace))
        if callable(cells):
            changed = {name for group in draft.changed for name in group.names} | (before - namespace.keys())
            cells = cells(frozenset(name for name in changed if not name.startswith("<")))
        self._tracker.add(draft, self._cells.pack(cells))
        return draft, head

    def _not_the_users(self, namespace: dict[str, Any]) -> frozenset[str]:
        """Names that belong to the interpreter, to the shell and to torch's compiler."""
        return self._skip | NOT_STATE | shell_names(namespace, self._shell) | compiler_names(namespace)

    def _capture_hidden(self, namespace: dict[str, Any], source: str | None, *, full: bool) -> dict[str, Any]:
        if not self._hidden:
            return {}
        world = Hidden(namespace=namespace, shell=self._shell, cell=source, full=full)
        extra = {}
        for kind in kinds():
            value = kind.capture(world)
            if value is not None:
                extra[HIDDEN.format(kind.kind)] = value
        return extra

    def _write(
        self,
        draft: Draft,
        head: dict[str, Any],
        started_s: float,
        stall_s: float | None,
        progress: Progress,
    ) -> Checkpoint:
        try:
            self._check_base(draft)
            manifest = write(
                draft,
                self.store,
                self._key,
                head,
                stall_s=stall_s,
                started_s=started_s,
                pool=self._pool,
                progress=progress,
            )
        except BaseException as error:
            self.forget_changes()  # what was to be written may not be there
            self._doubtful = self._doubtful or not isinstance(error, Exception)
            raise
        self._base = manifest.id
        return Checkpoint(manifest)

    def _check_base(self, draft: Draft) -> None:
        if self._doubtful:
            if self.store.missing(draft.written_digests()):
                raise BaseGone(
                    "the checkpoint before this one was interrupted, and something of it is not there.",
                    hint="The next one is taken whole.",
                )
            self._doubtful = False
        if self._base and any(group.entry is not None for group in draft.groups):
            self.store.missing(())  # from here to the commit, nothing that a manifest names is collected
            try:
                self.store.manifest(self._base)
            except NoSuchCheckpoint:
                raise BaseGone(
                    f"checkpoint {short_id(self._base)}, which this one builds on, was removed meanwhile.",
                    hint="The next one is taken whole.",
                ) from None

    # -- restore -----------------------------------------------------------------------------------------------

    def restore(
        self,
        checkpoint: Checkpoint | str,
        *,
        device_map: Mapping[str, str] | None = None,
        into: dict[str, Any] | None = None,
        names: frozenset[str] | None = None,
        exact: bool = True,
        replay: Replay = "safe",
        running: Callable[[CellRecord], None] = lambda cell: None,
        progress: Progress = _no_progress,
        ahead: Ahead | None = None,
    ) -> RestoreResult:
        """Bring back the state of a checkpoint.

        Parameters
        ----------
        device_map
            Where memory of a device goes: ``{"cuda:0": "cuda:1"}``, ``{"cuda": "cpu"}``.
        into
            The namespace to fill; a new dict by default. Names of it that the checkpoint does not have are removed.
        names
            Only these, with what they need; hidden state is then left alone.
        exact
            Whether a package of another major version is an error; it is a remark otherwise.
        replay
            Whether names that are lost are made again by running the cells that made them, when all is restored:
            ``safe`` runs only cells that are known to have no visible side effects, ``all`` is the user's word that
            others may run, too. Names that share parts with restored ones stay lost. Not with ``names``.
        running
            Called before each cell that runs again; may raise to give up.
        ahead
            What is there already; its cache is the store of this object. With it, all of ``into`` being restored, the
            next capture writes only what has changed since.

        Raises
        ------
        NoSuchCheckpoint, ManifestError, WorldMismatch, StoreError
            The namespace is what it was; of hidden state, what names need may have been restored.
        """
        check_replay(replay)
        devices = devices_of(device_map)
        if into is not None:
            namespace_of("into", into)
        manifest = self._manifest(checkpoint)
        remarks = check(manifest.world, exact=exact)
        records = read_records(manifest, self.store)
        if names is not None:
            names = names_of("names", names)
            unknown = sorted(names - manifest.names.keys())
            if unknown:
                raise CheckpointError(f"names: {', '.join(unknown)} not in checkpoint {manifest.id}.")
            records = only(records, names)
        # As in a notebook: restored functions import by way of their globals, and may ask for their name.
        target: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins} if into is None else into
        restoring = Restoring(target, devices, relocated(manifest.world))
        restoring.remarks = remarks
        world = Hidden(namespace=target, shell=self._shell, cell=None, full=True, here=restoring.here)
        hidden: dict[str, Any] = {}
        wanted = None if names is None else names.union(*(record.names for record in records))

        def bind(name: str, value: Any) -> None:
            if name.startswith("<"):
                hidden[name] = value
            elif wanted is None or name in wanted:
                target[name] = value

        self._tracker, self._base = None, ""
        remembered = Remembered(manifest, {} if ahead is None else ahead.cache.fast)
        with _unless_it_fails(target):
            if into is not None and names is None:
                keep = manifest.names.keys() | self._not_the_users(target)
                for name in [name for name in target if name not in keep]:
                    del target[name]
            early = {HIDDEN.format(kind) for kind in BEFORE_NAMES}
            first = [record for record in records if early.issuperset(record.names)]
            restored = _not_remembered if ahead is None else remembered.group
            verdicts = restore_names(manifest, self.store, restoring, records=first, bind=bind, restored=restored)
            self._restore_hidden(hidden, early, world, verdicts)
            rest = [record for record in records if record not in first]
            verdicts |= {
                name: verdict
                for name, verdict in restore_names(
                    manifest,
                    self.store,
                    restoring,
                    records=rest,
                    bind=bind,
                    progress=progress,
                    restored=restored,
                    ahead=ahead,
                ).items()
                if name not in early
            }
            if names is None:
                self._restore_hidden(hidden, set(hidden) - early, world, verdicts)
                lost = {
                    name: found.note for name, found in verdicts.items() if found.outcome == "lost" and name[:1] != "<"
                }
                if lost and replay != "never" and is_whole(verdicts):
                    stored = {name for name in verdicts if name not in lost and name[:1] != "<"}
                    load = self._copies(manifest, records, restoring)
                    made = make_again(lost, unpack(hidden), stored, target, load, how=replay, running=running)
                    target.update(
                        {name: Lost(name, found.note) for name, found in made.items() if found.outcome == "lost"}
                    )
                    verdicts |= made
            else:
                verdicts = {name: verdicts[name] for name in names}
        if ahead is not None and into is not None and names is None:
            self._tracker, self._base = remembered.tracker(target), manifest.id
        return RestoreResult(target, verdicts, restoring.remarks)

    def _copies(
        self, manifest: Manifest, records: list[GroupRecord], restoring: Restoring
    ) -> Callable[[Collection[str], Mapping[str, Any]], dict[str, Any]]:
        """What gives copies of stored variables, made of the store anew each time; see ``replay.Load``."""
        namespace = restoring.namespace

        def load(names: Collection[str], aside: Mapping[str, Any]) -> dict[str, Any]:
            live = definitions_of(aside, manifest.names)
            wanted = only([each for each in records if not set(each.names) <= live.keys()], set(names) - live.keys())
            needed = {name for each in wanted for name in each.names}
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
                    manifest,
                    self.store,
                    Restoring(namespace, restoring.device_map, restoring.here),
                    records=wanted,
                    bind=bind,
                )
            finally:
                namespace.clear()
                namespace.update(before)
            for name in names:
                if name not in live and verdicts[name].outcome == "lost":
                    raise ReplayFailed(f"it starts from {name}, which {verdicts[name].note}")
            return {name: found[name] for name in names}

        return load

    def _restore_hidden(
        self, values: Mapping[str, Any], which: set[str], world: Hidden, verdicts: dict[str, Verdict]
    ) -> None:
        for kind in kinds():
            name = HIDDEN.format(kind.kind)
            if name not in which or name not in values or verdicts[name].outcome == "lost":
                continue
            try:
                kind.restore(values[name], world)
            except NotRestorable as error:
                verdicts[name] = Verdict("lost", str(error))
            except Exception as error:
                verdicts[name] = Verdict("lost", f"cannot be restored: {type(error).__name__}: {error}")

    # -- what there is -----------------------------------------------------------------------------------------

    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoints of this owner's key in the store, oldest first; those of others are passed over."""
        found = []
        for checkpoint_id in self.store.manifests():
            try:
                found.append(Checkpoint(validate(self.store.manifest(checkpoint_id), self._key)))
            except CheckpointError:
                continue
        if self._session:
            found = [checkpoint for checkpoint in found if checkpoint.manifest.session == self._session]
        return found

    def newest(self) -> Checkpoint | None:
        """The last of ``checkpoints``; only that one is read, where ids tell their sessions."""
        ids = self.store.manifests()
        for checkpoint_id in reversed(of_session(self._session, ids) if self._session else ids):
            try:
                found = Checkpoint(validate(self.store.manifest(checkpoint_id), self._key))
            except CheckpointError:
                continue
            if self._session in ("", found.manifest.session):
                return found
        return None

    def find(self, name: str) -> Checkpoint:
        """A checkpoint by id, by the end or beginning of its id, by label (the newest of it), or as ``-1``, ``-2`` ….

        Raises NoSuchCheckpoint.
        """
        known = self.checkpoints()
        if name.startswith("-") and is_count(name[1:]) and 0 < int(name[1:]) <= len(known):
            return known[-int(name[1:])]
        for matches in (
            [checkpoint for checkpoint in known if checkpoint.id == name],
            [checkpoint for checkpoint in known if name and checkpoint.label == name][-1:],
            # The end tells two of them apart; the beginning is the time.
            [checkpoint for checkpoint in known if len(name) >= 4 and checkpoint.id.endswith(name)],
            [checkpoint for checkpoint in known if len(name) >= 4 and checkpoint.id.startswith(name)],
        ):
            if len(matches) == 1:
                return matches[0]
        raise NoSuchCheckpoint(f"there is no checkpoint {name!r}.", hint="`checkpoints` lists them.")

    def cells(self, checkpoint: Checkpoint | str) -> list[CellRecord]:
        """The cells that were given with a checkpoint."""
        manifest = self._manifest(checkpoint)
        found: dict[str, Any] = {}
        blocks = tuple(entry for entry in manifest.groups if is_block(entry.names[0]))
        records = read_records(msgspec.structs.replace(manifest, groups=blocks), self.store)
        restore_names(manifest, self.store, Restoring({}), records=records, bind=found.__setitem__)
        return unpack(found)

    def load(self, checkpoint_id: str) -> Checkpoint:
        """A checkpoint by its id, its seal checked."""
        return Checkpoint(self._manifest(checkpoint_id))

    def diff(self, one: Checkpoint | str, other: Checkpoint | str) -> Diff:
        """Names that differ from one checkpoint to the other."""
        before, after = self._manifest(one), self._manifest(other)
        old, new = _by_name(before), _by_name(after)
        return Diff(
            tuple(name for name in new if name not in old),
            tuple(name for name in old if name not in new),
            tuple(name for name in new if name in old and new[name] != old[name]),
        )

    def verify(self, checkpoint: Checkpoint | str, *, progress: Progress = _no_progress) -> int:
        """Read everything that a checkpoint needs and check every digest; returns the bytes read.

        Raises ManifestError, ChunkMissing or ChunkCorrupt.
        """
        manifest = self._manifest(checkpoint)
        done = 0
        blobs = [blob for record in self._records(manifest.groups) for blob in _blobs(record)]
        total = sum(blob.size for blob in blobs)
        memory = memoryview(bytearray(TOGETHER_BYTES))
        wanted: list[tuple[bytes, memoryview]] = []
        room = memory
        for digest, size in (chunk for blob in blobs for chunk in chunk_sizes(blob)):
            if size > len(room):
                self.store.fetch(wanted)
                progress(done, total)
                wanted, room = [], memory
            wanted.append((digest, room[:size]))
            room = room[size:]
            done += size
        self.store.fetch(wanted)
        progress(done, total)
        return done

    def name(self, checkpoint: Checkpoint | str, label: str) -> Checkpoint:
        """Call a checkpoint so from now on; an empty label takes its name away.

        Raises CheckpointError where another one is called so.
        """
        manifest = self._manifest(checkpoint)
        for other in self.checkpoints() if label else ():
            if other.label == label and other.id != manifest.id:
                raise CheckpointError(f"name: {label!r} is the name of {short_id(other.id)} already.")
        named = msgspec.structs.replace(manifest, label=label)
        self.store.rewrite(named.id, seal(named, self._key))
        return Checkpoint(named)

    def forget(self, checkpoint: Checkpoint | str) -> None:
        """Remove a checkpoint; ``collect`` then frees what nobody needs any more."""
        self.store.forget(self._manifest(checkpoint).id)

    def collect(self) -> Freed:
        """Free the chunks that no checkpoint needs."""
        return self.store.collect(self._references)

    def _references(self, data: bytes) -> Iterator[bytes]:
        manifest = validate(data, self._key)
        entries = (*manifest.groups, *manifest.hidden)
        for entry, record in zip(entries, self._records(entries), strict=True):
            for blob in (entry.record, *_blobs(record)):
                yield from chunk_digests(blob)

    def _records(self, entries: Sequence[GroupEntry]) -> Iterator[GroupRecord]:
        return map(validate_record, read_blobs(self.store, [entry.record for entry in entries]))

    def _manifest(self, checkpoint: Checkpoint | str) -> Manifest:
        if isinstance(checkpoint, Checkpoint):
            checkpoint = checkpoint.id
        if not isinstance(checkpoint, str):
            raise TypeError(f"checkpoint: is of type {type(checkpoint).__name__}; it must be a Checkpoint or its id")
        return validate(self.store.manifest(checkpoint), self._key, expected_id=checkpoint)


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


def _by_name(manifest: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(sorted(filter(is_users, manifest.names)))
    for entry in manifest.groups:
        for name in entry.names:
            if name in found:
                found[name] = entry
    return found


def _blobs(record: GroupRecord) -> list[Blob]:
    return [record.stream, *(region.content for region in record.regions)]
