"""Facts: nodes, devices, sessions, allocations, events. No behaviour, no I/O, no clock."""

from .event import Event
from .host import HostReport, HostSpec, HostState
from .node import CPU, CUDA, Device, DeviceSample, Node, NodeState
from .session import (
    LIVE_STATES,
    Channel,
    GpuSession,
    Lease,
    ResourceRequest,
    SessionState,
    check_name,
)

__all__ = [
    "CPU",
    "CUDA",
    "LIVE_STATES",
    "Channel",
    "Device",
    "DeviceSample",
    "Event",
    "GpuSession",
    "HostReport",
    "HostSpec",
    "HostState",
    "Lease",
    "Node",
    "NodeState",
    "ResourceRequest",
    "SessionState",
    "check_name",
]
