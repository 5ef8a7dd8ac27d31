"""A draft becomes a checkpoint: its chunks first, then the records of its groups, and with the manifest it exists."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from blake3 import blake3

from ..store.base import Store
from ..store.blob import blob
from ..store.manifest import Costs, GroupEntry, Manifest
from ..store.seal import seal, seal_record, validate, validate_record
from .capture import Draft, Group, record
from .fence import unless_stale
from .memory import ChunkRef, CopyPool
from .world import world_of

#: Chunks that are digested before they are handed to the store together.
BATCH = 32

#: Told how many of how many bytes are done; may raise to give up.
Progress = Callable[[int, int], None]


def no_progress(done: int, total: int) -> None:
    """For whom it does not interest."""


def write(
    draft: Draft,
    store: Store,
    key: bytes,
    head: dict[str, Any],
    *,
    stall_s: float | None,
    started_s: float,
    pool: CopyPool,
    progress: Progress = no_progress,
) -> Manifest:
    """Bring a draft into a store and commit it.

    Parameters
    ----------
    head
        Fields of the manifest that the caller knows: id, parent, created_s, label ...
    stall_s
        How long the namespace stood still; None when until the commit.
    started_s
        ``time.perf_counter()`` when the capture began.
    """
    # Of all groups, not of the changed ones alone: a capture before this one may not have come to its end.
    new = [ref for group in draft.groups if group.entry is None for ref in group.refs() if not ref.digest]
    total = sum(ref.nbytes for ref in new)
    stored = done = 0
    for batch, chunks in _digested(_batches(new), pool):
        done += sum(memory.nbytes for _, memory in chunks)
        stored += store.put(chunks).stored_bytes
        for ref, (digest, _) in zip(batch, chunks, strict=True):
            ref.digest = digest
            pool.give_back(ref)
        progress(done, total)
    for group in draft.groups:
        if group.entry is None and group.stream is not None:
            content, parts = blob(_readable(seal_record(record(group))))
            stored += store.put(parts).stored_bytes
            group.entry = GroupEntry(group.names, content)
    names = {name: group.verdict for group in draft.groups for name in group.names}
    device_bytes = sum(group.device_bytes for group in draft.groups)
    manifest = Manifest(
        **head,
        world=world_of({module for group in draft.groups for module in group.modules}, _devices(draft.groups)),
        groups=tuple(group.entry for group in draft.groups if group.entry is not None),
        names=names,
        costs=Costs(
            stall_s=stall_s or 0.0,
            capture_s=time.perf_counter() - started_s,
            looked_bytes=draft.looked_bytes,
            copied_bytes=draft.copied_bytes,
            written_bytes=stored,
            host_bytes=sum(group.nbytes for group in draft.groups) - device_bytes,
            device_bytes=device_bytes,
        ),
    )
    if stall_s is None:
        costs = msgspec.structs.replace(manifest.costs, stall_s=manifest.costs.capture_s)
        manifest = msgspec.structs.replace(manifest, costs=costs)
    sealed = seal(manifest, key)
    validate(sealed, key)  # no checkpoint is committed that could not be read
    store.commit(manifest.id, sealed, unless=unless_stale(manifest.session, manifest.epoch))
    return manifest


def _readable(data: bytes) -> bytes:
    """The record, or the error that its readers would get."""
    validate_record(data)
    return data


Chunks = list[tuple[bytes, memoryview]]


def _digested(batches: Iterator[list[ChunkRef]], pool: CopyPool) -> Iterator[tuple[list[ChunkRef], Chunks]]:
    """Each batch with the digests of its chunks, which are made while the batch before is written."""
    batch = next(batches, None)
    if batch is None:
        return
    chunks = _digests(batch, pool)
    with ThreadPoolExecutor(1, "gpuaas-digest") as ahead:
        for following in batches:
            coming = ahead.submit(_digests, following, pool)
            yield batch, chunks
            batch, chunks = following, coming.result()
    yield batch, chunks


def _digests(batch: list[ChunkRef], pool: CopyPool) -> Chunks:
    found: Chunks = []
    pool.fetch(batch)
    for ref in batch:
        # A thread of the user's may write to borrowed memory between this and the store: the digest would be wrong.
        if ref.is_borrowed:
            pool.copy(ref)
        if ref.memory is not None:
            found.append((blake3(ref.memory).digest(), ref.memory))
    return found


def _batches(refs: list[ChunkRef]) -> Iterator[list[ChunkRef]]:
    # One chunk may be in two groups' lists when groups were merged; the second time it has its digest.
    waiting: dict[int, ChunkRef] = {id(ref): ref for ref in refs}
    unique = list(waiting.values())
    for start in range(0, len(unique), BATCH):
        yield unique[start : start + BATCH]


def _devices(groups: list[Group]) -> tuple[str, ...]:
    return tuple(sorted({device for group in groups for device in group.devices if device != "cpu"}))
