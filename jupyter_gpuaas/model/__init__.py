"""Facts: nodes, devices, sessions, allocations, events. No behaviour, no I/O, no clock."""

from .event import Event
from .host import HostReport, HostSpec, HostState
from .node import CPU, CUDA, Device, DeviceSample, Node, NodeState, NodeView
from .service import NewToken, ServiceFile
from .session import (
    LIVE_STATES,
    Channel,
    ChannelInfo,
    GpuSession,
    Lease,
    ResourceRequest,
    SessionState,
    SessionView,
    check_name,
)

__all__ = [
    "CPU",
    "CUDA",
    "LIVE_STATES",
    "Channel",
    "ChannelInfo",
    "Device",
    "DeviceSample",
    "Event",
    "GpuSession",
    "HostReport",
    "HostSpec",
    "HostState",
    "Lease",
    "NewToken",
    "Node",
    "NodeState",
    "NodeView",
    "ResourceRequest",
    "ServiceFile",
    "SessionState",
    "SessionView",
    "check_name",
]
