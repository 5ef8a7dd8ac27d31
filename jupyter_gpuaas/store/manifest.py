"""The manifest: what a checkpoint is made of, sealed with the key of its owner (`docs/checkpoint-format.md`)."""

from __future__ import annotations

import msgspec

FORMAT = 1


class Blob(msgspec.Struct, frozen=True, array_like=True):
    """A run of bytes kept as chunks: all of ``CHUNK_BYTES`` but the last."""

    size: int
    #: Their digests, one after the other.
    digests: bytes


class Region(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of memory that out-of-band buffers of a group lie in; overlapping buffers share one."""

    content: Blob
    #: Where it lay: ``cpu``, ``cuda:0``.
    device: str
    #: What to allocate for it: ``["bytes"]``, ``["ndarray", dtype, shape, order]``, ``["storage"]``.
    maker: tuple[str | int | tuple[int, ...], ...]


class Span(msgspec.Struct, frozen=True, array_like=True):
    """One out-of-band buffer: index of its region, offset and length in bytes."""

    region: int
    offset: int
    length: int
    readonly: bool


class GroupRecord(msgspec.Struct, frozen=True):
    """One co-variable: names that share objects or memory, pickled together. Kept as a blob of its own."""

    names: tuple[str, ...]
    #: Pickle of a tuple of the names' values.
    stream: Blob
    regions: tuple[Region, ...]
    spans: tuple[Span, ...]
    #: Names of other groups that must be bound before this one is unpickled.
    references: tuple[str, ...]


class GroupEntry(msgspec.Struct, frozen=True, array_like=True):
    """Where a group's record lies. An unchanged group has the same entry in every checkpoint."""

    names: tuple[str, ...]
    record: Blob


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """What became of one name: ``stored``, ``rebuilt``, ``replayed`` or ``lost``, and how or why in words."""

    outcome: str
    note: str = ""


class World(msgspec.Struct, frozen=True):
    """What a checkpoint needs to be restored."""

    #: ``major.minor`` of the Python, as ``cpython-3.11``.
    python: str
    platform: str
    #: Packages whose objects are stored -> version.
    packages: dict[str, str]
    devices: tuple[str, ...] = ()
    #: The session's working folder on its node; what lies in it is somewhere else on another node.
    work: str = ""


class Costs(msgspec.Struct, frozen=True):
    """What a capture cost; times in seconds."""

    #: How long the next cell had to wait.
    stall_s: float = 0.0
    #: From begin to commit.
    capture_s: float = 0.0
    looked_bytes: int = 0
    copied_bytes: int = 0
    #: New bytes that went to the store, headers and manifest included.
    written_bytes: int = 0
    host_bytes: int = 0
    device_bytes: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint."""

    format: int = FORMAT
    id: str
    parent: str = ""
    created_s: float
    owner: str = ""
    session: str = ""
    #: Fencing token of the host that took it.
    epoch: int = 0
    #: Execution count of the cell after which it was taken; 0 outside notebooks.
    cell: int = 0
    #: The user's name for it; empty for automatic ones.
    label: str = ""
    world: World
    groups: tuple[GroupEntry, ...]
    #: State that has no name in the namespace (random states, environment, options …): kind -> its pickle.
    hidden: tuple[GroupEntry, ...] = ()
    names: dict[str, Verdict]
    costs: Costs = Costs()
