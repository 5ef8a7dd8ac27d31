"""Nodes of the pool and their devices."""

from __future__ import annotations

import msgspec

from ._compat import StrEnum
from .migration import DrainView

CPU = "cpu"
CUDA = "cuda"


class NodeState(StrEnum):
    """Whether a node takes sessions."""

    UP = "up"
    #: Keeps what it has, takes nothing new.
    CORDONED = "cordoned"
    #: Its agent does not answer.
    LOST = "lost"


class Device(msgspec.Struct, frozen=True):
    """One accelerator of a node; on a node without one, the ``cpu`` device with a memory cap."""

    #: Unique in its node: ``cuda:0``, ``cpu:0``.
    id: str
    kind: str
    #: What a person calls it: ``NVIDIA H200``, ``CPU (8 GiB)``.
    label: str
    memory_bytes: int
    #: The driver's UUID; empty for a cpu device.
    uuid: str = ""


class DeviceSample(msgspec.Struct, frozen=True):
    """What one device does at this moment."""

    device_id: str
    used_bytes: int
    #: 0 to 1; -1 where it cannot be read.
    utilisation: float


class Node(msgspec.Struct, frozen=True):
    """One host of the pool, as its agent describes it."""

    id: str
    state: NodeState
    devices: tuple[Device, ...]
    #: Base address of the agent, ``http://127.0.0.1:34567``; empty while it is not known.
    url: str = ""
    python: str = ""
    #: Equal on two processes of one running machine; tells whether a path means the same file.
    machine: str = ""
    #: Why sessions cannot come or go in the middle of a cell here; empty where they can.
    no_images: str = "process images are switched off (setting `images`)"
    #: What its owner says of it: ``zone``, ``ray.io/accelerator-type``.
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    #: Of the software that its agent runs; empty where that is too old to say so.
    version: str = ""


class NodeView(Node, frozen=True):
    """A node as the service answers with it: with what its devices do now."""

    samples: tuple[DeviceSample, ...] = ()
    #: Ids of the devices that sessions hold,
    leased: tuple[str, ...] = ()
    #: and how much of each of these; 1 is all, less leaves room for sessions that ask for a part.
    used: dict[str, float] = msgspec.field(default_factory=dict)
    #: How far its clock is ahead of the service's, give or take a second; None where that is not known.
    clock_ahead_s: float | None = None
    #: How far it is with being emptied; None where it is not. Which sessions are left, only an admin is told.
    drain: DrainView | None = None
