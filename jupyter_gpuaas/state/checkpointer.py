"""Checkpoints of a namespace: capture, restore, compare, verify. Usable without Jupyter."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ..errors import CheckpointError, NoSuchCheckpoint
from ..model import Replay, short_id
from ..store.base import Store
from ..store.manifest import Costs
from ..store.seal import seal
from .ahead import Ahead
from .archive import Archive, Checkpoint, Diff
from .arguments import check_number, check_replay, check_text, devices_of, names_of, namespace_of
from .capture import NOT_STATE, Draft, Tracker
from .cell_log import CellLog
from .device.training import compiler_names
from .fence import new_id, unless_stale
from .hidden import Hidden, called, kinds, shell_names
from .memory import CopyPool
from .recipes import CellRecord
from .restoration import Restoration, RestoreResult
from .touched import Touch, touched
from .writing import Progress, no_progress, write

__all__ = ["BaseGone", "Checkpoint", "Checkpointer", "Diff", "Pending", "RestoreResult"]

#: Warm memory that is kept for the copies of the next capture.
POOL_BYTES = 256 * 1024**2

#: The cells of the session until now, in order; or what gives them from the names that have changed since the last
#: capture.
Cells = Sequence[CellRecord] | Callable[[frozenset[str]], Sequence[CellRecord]]


class BaseGone(CheckpointError):
    """The checkpoint that a capture builds on was removed before it was written."""

    retryable = True


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

    def write(self, progress: Progress = no_progress) -> Checkpoint:
        """Write and commit; in any thread, once, in the order of the captures."""
        return self._finish(progress)


class Checkpointer(Archive):
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
        super().__init__(store, key=key, session=session)
        self._owner = owner
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
        progress: Progress = no_progress,
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
        stands: bool = False,
    ) -> Pending:
        """Capture into memory; the namespace may change as soon as this returns.

        Parameters
        ----------
        stop
            Called often; what it raises gives the capture up, and nothing is kept of it.
        stands
            The namespace does not change before it is written, so nothing is copied: the caller waits for that, or for
            its failure, before anything else of the user's runs.
        """
        started = time.perf_counter()
        draft, head = self._look(namespace, parent, label, cell, epoch, touched, source, cells)
        if not stands:
            try:
                draft.detach(self._pool, stop)
            except BaseException:
                self.forget_changes()
                raise
        stall_s = None if stands else time.perf_counter() - started

        def finish(progress: Progress) -> Checkpoint:
            with self._writing:
                return self._write(draft, head, started, stall_s, progress)

        return Pending(finish, head["id"], time.perf_counter() - started, draft.waiting_bytes)

    def claim(self, checkpoint: Checkpoint, *, epoch: int) -> Checkpoint:
        """Commit a checkpoint once more, as the session's own, of a host of this epoch, which begins with it.

        From then on what a former host commits is refused, and one that was another session's may be forgotten there.
        Nothing of what the checkpoint holds is read or written.

        Raises
        ------
        StaleEpoch
            A later host has committed already.
        NoSuchCheckpoint, StoreError
            It is not there any more, or cannot be written.
        """
        with self._writing:
            self.store.missing(())  # from here to the commit, nothing that a manifest names is collected
            manifest = self._manifest(checkpoint)
            before = manifest.costs
            claimed = msgspec.structs.replace(
                manifest,
                id=new_id(self._session, epoch),
                parent=manifest.id,
                created_s=time.time(),
                owner=self._owner,
                session=self._session,
                epoch=epoch,
                label="",
                costs=Costs(host_bytes=before.host_bytes, device_bytes=before.device_bytes),
            )
            self.store.commit(claimed.id, seal(claimed, self._key), unless=unless_stale(self._session, epoch))
            if self._base == manifest.id:
                self._base = claimed.id
            return Checkpoint(claimed)

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
        try:
            if callable(cells):
                changed = {name for group in draft.changed for name in group.names} | (before - namespace.keys())
                cells = cells(frozenset(name for name in changed if not name.startswith("<")))
            self._tracker.add(draft, self._cells.pack(cells))
        except BaseException:
            self.forget_changes()  # or what was looked at would count as copied
            raise
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
                extra[called(kind.kind)] = value
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
        progress: Progress = no_progress,
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
        restoration = Restoration(
            manifest,
            self.store,
            into=into,
            names=None if names is None else names_of("names", names),
            device_map=devices,
            shell=self._shell,
            exact=exact,
            ahead=ahead,
        )
        self._tracker, self._base = None, ""
        keep = self._not_the_users(restoration.namespace)
        result = restoration.run(keep=keep, replay=replay, running=running, progress=progress)
        if ahead is not None and into is not None and names is None:
            self._tracker, self._base = restoration.tracker(), manifest.id
        return result
