"""Checkpoints as the service sees them: read from the store with their owner's key, whatever the kernel does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.records import SessionRecord
from jupyter_gpuaas.errors import CheckpointError, ManifestError, NoSuchCheckpoint, StoreError
from jupyter_gpuaas.model import CheckpointDiff, CheckpointPlan, CheckpointView, short_id

if TYPE_CHECKING:
    from jupyter_gpuaas.state.checkpointer import Checkpointer
    from jupyter_gpuaas.store import Store


class CheckpointDesk:
    """Lists, compares and removes checkpoints. Methods that read the store are for threads.

    Nothing is unpickled here: manifests and records are data.
    """

    def __init__(self, database: Database, settings: Settings, quota_bytes: Callable[[str], int] | None = None) -> None:
        self._database = database
        #: Bytes of checkpoints that an owner may have; 0 means without bound.
        self._quota_bytes = quota_bytes or (lambda owner: settings.checkpoint_quota_bytes)
        self._settings = settings
        self._stores: dict[str, Store] = {}
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """Where the checkpoints of all owners are."""
        return self._settings.checkpoint_store or str(self._settings.folder / "checkpoints")

    def plan(self, record: SessionRecord) -> CheckpointPlan:
        """How the session's kernel takes checkpoints."""
        settings, owner = self._settings, record.session.owner
        return CheckpointPlan(
            store=self.address,
            key=self._database.checkpoint_key(owner),
            owner=owner,
            every=settings.checkpoint_every,
            share=settings.checkpoint_share,
            together_s=settings.checkpoint_together_s,
            keep=settings.checkpoint_keep,
            keep_s=settings.checkpoint_keep_s,
            quota_bytes=self._quota_bytes(owner),
            waiting_bytes=settings.checkpoint_waiting_bytes,
            restore=record.restore,
        )

    def listed(self, owner: str, session: str) -> list[CheckpointView]:
        """A session's checkpoints, oldest first."""
        from jupyter_gpuaas.state.listing import view_of

        return [view_of(each.manifest) for each in self._checkpointer(owner, session).checkpoints()]

    def newest_view(self, owner: str, session: str) -> CheckpointView | None:
        """A session's newest checkpoint, if it has one."""
        from jupyter_gpuaas.state.listing import view_of

        found = self._checkpointer(owner, session).newest()
        return view_of(found.manifest) if found is not None else None

    def way_back(self, record: SessionRecord) -> CheckpointView | None:
        """What a session comes back with after a loss: its newest checkpoint, or before it has one, its beginning.

        Raises
        ------
        StoreError
            That cannot be read now.
        """
        from jupyter_gpuaas.state.listing import view_of

        session = record.session
        newest = self.newest_view(session.owner, session.id)
        if newest is None and record.restore:
            with contextlib.suppress(NoSuchCheckpoint, ManifestError):
                return view_of(self._checkpointer(session.owner, "").load(record.restore).manifest)
        return newest

    def find(self, owner: str, session: str, name: str) -> CheckpointView:
        """One of a session's checkpoints by id, by an end of its id, by name, or as ``-1``; or raises."""
        from jupyter_gpuaas.state.listing import view_of

        return view_of(self._checkpointer(owner, session).find(name).manifest)

    def diff(self, owner: str, session: str, one: str, other: str) -> CheckpointDiff:
        """Names that differ between two of a session's checkpoints."""
        checkpointer = self._checkpointer(owner, session)
        found = checkpointer.diff(checkpointer.find(one), checkpointer.find(other))
        return CheckpointDiff(added=found.added, removed=found.removed, changed=found.changed)

    def name(self, owner: str, session: str, name: str, label: str) -> CheckpointView:
        """Call one of a session's checkpoints so; an empty label takes its name away.

        Raises
        ------
        CheckpointError
            Another one of the session is called so.
        """
        from jupyter_gpuaas.state.listing import view_of

        checkpointer = self._checkpointer(owner, session)
        return view_of(checkpointer.name(checkpointer.find(name), label).manifest)

    def forget(self, owner: str, session: str, name: str, *, lives: bool) -> CheckpointView:
        """Remove one of a session's checkpoints.

        Raises
        ------
        CheckpointError
            It is the newest of a session that lives: its kernel counts on it.
        """
        from jupyter_gpuaas.state.listing import view_of

        checkpointer = self._checkpointer(owner, session)
        found = checkpointer.find(name)
        newest = checkpointer.newest()
        if lives and newest is not None and newest.id == found.id:
            raise CheckpointError(f"{short_id(found.id)} is the newest checkpoint of a session that lives, and stays.")
        checkpointer.forget(found)
        # While a checkpoint is being written nothing can be freed: whoever tidies up next in this store does it.
        with contextlib.suppress(StoreError):
            checkpointer.collect()
        return view_of(found.manifest)

    def forget_owner(self, owner: str) -> int:
        """Remove all checkpoints of an owner, readable or not; returns how many there were.

        Raises
        ------
        StoreError
            Some may be left; it can be asked for again.
        """
        store = self._store(owner)
        found = store.manifests()
        for checkpoint_id in found:
            with contextlib.suppress(NoSuchCheckpoint):
                store.forget(checkpoint_id)
        store.collect(lambda manifest: ())
        with self._lock:
            self._stores.pop(owner, None)
        store.close()
        return len(found)

    def close(self) -> None:
        """Close what was opened."""
        for store in self._stores.values():
            store.close()

    def _checkpointer(self, owner: str, session: str) -> Checkpointer:
        from jupyter_gpuaas.state.checkpointer import Checkpointer

        key = bytes.fromhex(self._database.checkpoint_key(owner))
        return Checkpointer(self._store(owner), key=key, owner=owner, session=session)

    def _store(self, owner: str) -> Store:
        from jupyter_gpuaas.state.listing import owners_address
        from jupyter_gpuaas.store import open_store

        with self._lock:
            store = self._stores.get(owner)
            if store is None:
                store = self._stores[owner] = open_store(owners_address(self.address, owner))
        return store
