"""From a manifest back to objects: memory first, then the pickles in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..errors import GpuaasError, StoreError
from ..store.base import Store
from ..store.blob import destinations, read_blob
from ..store.manifest import GroupRecord, Manifest, Verdict
from ..store.seal import validate_record
from .device.memory import CONTENTS, HostContent
from .groups import circles
from .lost import Lost, said
from .owners import allocate, buffers_of
from .pickler import load, under
from .rules.registry import NotRestorable, Restoring

#: Told how many of how many bytes are done; may raise to give up.
Progress = Callable[[int, int], None]


def read_records(manifest: Manifest, store: Store) -> list[GroupRecord]:
    """The records of all groups, each after those that it refers to."""
    records = [validate_record(read_blob(store, entry.record)) for entry in manifest.groups]
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
) -> dict[str, Verdict]:
    """Bring names back, group by group; one that fails leaves its names lost, with the reason, and the others alone.

    Parameters
    ----------
    bind
        Called with each name and its object as soon as it is there.
    """
    verdicts = dict(manifest.names)
    for name, verdict in manifest.names.items():
        if verdict.outcome == "lost":
            bind(name, Lost(name, verdict.note))
    total = sum(_size(record) for record in records)
    done = 0
    with under(restoring):
        for record in records:
            remarks = len(restoring.remarks)
            try:
                values = _restore_group(record, store, restoring)
            except (StoreError, MemoryError, KeyboardInterrupt):
                raise
            except BaseException as error:  # a __setstate__ of the user's may raise anything, SystemExit too
                reason = _reason(error)
                for name in record.names:
                    verdicts[name] = Verdict("lost", reason)
                    bind(name, Lost(name, reason))
            else:
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


def _restore_group(record: GroupRecord, store: Store, restoring: Restoring) -> tuple[Any, ...]:
    hosts: list[Any] = []
    devices: list[HostContent] = []
    wanted: list[tuple[bytes, memoryview]] = []
    for region in record.regions:
        owner, memory = allocate(region.content.size, region.maker)
        wanted.extend(destinations(region.content, memory))
        if region.maker == ("device",):
            devices.append(HostContent(memory))
        else:
            hosts.append(owner)
    stream = bytearray(record.stream.size)
    wanted.extend(destinations(record.stream, memoryview(stream)))
    _fetch(store, wanted)
    restoring.memo = {CONTENTS: devices}
    values = load(stream, buffers_of(record.spans, hosts))
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
