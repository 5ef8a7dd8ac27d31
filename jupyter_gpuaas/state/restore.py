"""From a manifest back to objects: memory first, then the pickles in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from ..errors import GpuaasError, StoreError
from ..store.base import Store
from ..store.blob import TOGETHER_BYTES, destinations, read_blobs
from ..store.manifest import GroupRecord, Manifest, Verdict
from ..store.seal import validate_record
from .ahead import Ahead
from .device.memory import CONTENTS, HostContent
from .groups import circles
from .lost import Lost, said
from .owners import allocate, buffers_of
from .pickler import load, under
from .rules.registry import NotRestorable, Restoring

#: Told how many of how many bytes are done; may raise to give up.
Progress = Callable[[int, int], None]
Restored = Callable[[GroupRecord, tuple[Any, ...], list[Any], Restoring], None]


def read_records(manifest: Manifest, store: Store) -> list[GroupRecord]:
    """The records of all groups, each after those that it refers to."""
    records = [validate_record(data) for data in read_blobs(store, [entry.record for entry in manifest.groups])]
    number_of = {name: number for number, record in enumerate(records) for name in record.names}
    references = [
        {number_of[name] for name in record.references if name in number_of} - {number}
        for number, record in enumerate(records)
    ]
    return [records[number] for circle in circles(references) for number in circle]


def restore_names(
    manifest: Manifest,
    store: Store,
    restoring: Restoring,
    *,
    records: list[GroupRecord],
    bind: Callable[[str, Any], None],
    progress: Progress = lambda done, total: None,
    restored: Restored = lambda record, values, owners, restoring: None,
    ahead: Ahead | None = None,
) -> dict[str, Verdict]:
    """Bring names back, group by group; one that fails leaves its names lost, with the reason, and the others alone.

    Parameters
    ----------
    bind
        Called with each name and its object as soon as it is there.
    restored
        Called with each group that is there, and the owners of its memory on the host.
    ahead
        Has memory that is filled already.
    """
    verdicts = dict(manifest.names)
    for name, verdict in manifest.names.items():
        if verdict.outcome == "lost":
            bind(name, Lost(name, verdict.note))
    total = sum(_size(record) for record in records)
    done = 0
    with under(restoring):
        for record, room in _read(records, store, ahead):
            remarks = len(restoring.remarks)
            try:
                values = _load(record, room, restoring)
            except (StoreError, MemoryError, KeyboardInterrupt):
                raise
            except BaseException as error:  # a __setstate__ of the user's may raise anything, SystemExit too
                reason = _reason(error)
                for name in record.names:
                    verdicts[name] = Verdict("lost", reason)
                    bind(name, Lost(name, reason))
            else:
                restored(record, values, room.hosts, restoring)
                for name, value in zip(record.names, values, strict=True):
                    bind(name, value)
                    new = restoring.remarks[remarks:]
                    if new:
                        verdicts[name] = Verdict("rebuilt", "; ".join(filter(None, [verdicts[name].note, *new])))
            done += _size(record)
            progress(done, total)
        for finish in restoring.finally_:
            try:
                finish()
            except Exception as error:  # of a group that failed half way, too
                restoring.remark(f"something could not be completed: {type(error).__name__}: {said(error)}")
    return verdicts


class _Room:
    """Memory for what a group needs from the store."""

    def __init__(self, record: GroupRecord, ahead: Ahead | None) -> None:
        self.hosts: list[Any] = []
        self.devices: list[HostContent] = []
        self.wanted: list[tuple[bytes, memoryview]] = []
        self.stream = bytearray(record.stream.size)
        #: Why there is none.
        self.error: Exception | None = None
        try:
            for region in record.regions:
                there = ahead.take(region) if ahead is not None else None
                owner, memory = there or allocate(region.content.size, region.maker)
                if there is None:
                    self.wanted.extend(destinations(region.content, memory))
                if region.maker == ("device",):
                    self.devices.append(HostContent(memory))
                else:
                    self.hosts.append(owner)
        except MemoryError:
            raise
        except Exception as error:
            self.error, self.wanted = error, []
        self.wanted.extend(destinations(record.stream, memoryview(self.stream)))


def _read(records: list[GroupRecord], store: Store, ahead: Ahead | None) -> Iterator[tuple[GroupRecord, _Room]]:
    """Each group with its memory; small ones are read together, as each call of a store may be a journey."""
    at = 0
    while at < len(records):
        batch = [records[at]]
        size = _size(batch[0])
        while at + len(batch) < len(records) and size + _size(records[at + len(batch)]) <= TOGETHER_BYTES:
            batch.append(records[at + len(batch)])
            size += _size(batch[-1])
        rooms = [_Room(record, ahead) for record in batch]
        _fetch(store, [pair for room in rooms for pair in room.wanted])
        yield from zip(batch, rooms, strict=True)
        at += len(batch)


def _load(record: GroupRecord, room: _Room, restoring: Restoring) -> tuple[Any, ...]:
    if room.error is not None:
        raise room.error
    restoring.memo = {CONTENTS: room.devices}
    values = load(room.stream, buffers_of(record.spans, room.hosts))
    assert isinstance(values, tuple) and len(values) == len(record.names)
    return values


def _fetch(store: Store, wanted: list[tuple[bytes, memoryview]]) -> None:
    """Read each chunk once, and copy it to wherever else it belongs: memory often repeats itself, zeros above all."""
    first: dict[bytes, memoryview] = {}
    again: list[tuple[memoryview, memoryview]] = []
    for digest, memory in wanted:
        there = first.setdefault(digest, memory)
        if there is not memory:
            again.append((memory, there))
    store.fetch(list(first.items()))
    for memory, there in again:
        memory[:] = there


def _size(record: GroupRecord) -> int:
    return record.stream.size + sum(region.content.size for region in record.regions)


def _reason(error: BaseException) -> str:
    """Why a group could not be restored, to follow its name."""
    if isinstance(error, NotRestorable):
        return str(error)
    if isinstance(error, KeyError) and error.args:
        return f"needs {error.args[0]!r}, which was not restored"
    if isinstance(error, (ImportError, AttributeError)):
        return f"needs what is not here: {said(error)}"
    if isinstance(error, GpuaasError):
        return f"cannot be read: {error}"
    return f"cannot be rebuilt: {type(error).__name__}: {said(error)}"


def only(records: list[GroupRecord], names: Collection[str]) -> list[GroupRecord]:
    """The records that are needed for some names: theirs, and those that they refer to."""
    by_name: Mapping[str, GroupRecord] = {name: record for record in records for name in record.names}
    wanted: set[str] = set()
    todo = [name for name in names if name in by_name]
    while todo:
        record = by_name[todo.pop()]
        if record.names[0] not in wanted:
            wanted |= set(record.names)
            todo += [name for name in record.references if name in by_name]
    return [record for record in records if record.names[0] in wanted]
