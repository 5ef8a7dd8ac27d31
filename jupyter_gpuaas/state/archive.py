"""The checkpoints that a store keeps of one owner: found, compared, verified, named and removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ..errors import CheckpointError, NoSuchCheckpoint, StoreError
from ..model import short_id
from ..store.base import Freed, Store
from ..store.blob import TOGETHER_BYTES, chunk_digests, chunk_sizes, read_blobs
from ..store.manifest import Blob, Costs, GroupEntry, GroupRecord, Manifest, Verdict
from ..store.seal import seal, validate, validate_record
from ..wire.unreadable import is_count
from .arguments import key_of
from .cell_log import is_block, unpack
from .fence import of_session
from .listing import is_users
from .recipes import CellRecord
from .restore import read_records, restore_names
from .rules.registry import Restoring
from .writing import Progress, no_progress


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


class Diff(msgspec.Struct, frozen=True):
    """What differs between two checkpoints, by name."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


class Archive:
    """What ``key`` opens in ``store``; of one session, if it is given.

    Parameters
    ----------
    key
        Secret of the owner, at least 16 bytes; a text stands for its UTF-8 bytes.
    """

    def __init__(self, store: Store, *, key: bytes | str, session: str = "") -> None:
        self.store = store
        self._key = key_of(key)
        self._session = session

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
        """The last of ``checkpoints``; only that one is read, where ids tell their sessions.

        Raises
        ------
        StoreError
            It cannot be read now: an older one is not the newest.
        """
        ids = self.store.manifests()
        for checkpoint_id in reversed(of_session(self._session, ids) if self._session else ids):
            try:
                found = Checkpoint(validate(self.store.manifest(checkpoint_id), self._key))
            except StoreError:
                raise
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

    def verify(self, checkpoint: Checkpoint | str, *, progress: Progress = no_progress) -> int:
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


def _by_name(manifest: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(sorted(filter(is_users, manifest.names)))
    for entry in manifest.groups:
        for name in entry.names:
            if name in found:
                found[name] = entry
    return found


def _blobs(record: GroupRecord) -> list[Blob]:
    return [record.stream, *(region.content for region in record.regions)]
