"""Facts: nodes, devices, sessions, allocations, events. No behaviour, no I/O, no clock."""

from .checkpoint import (
    REPLAYS,
    CheckpointDiff,
    CheckpointPlan,
    CheckpointStatus,
    CheckpointView,
    Replay,
    RestoreReport,
    check_label,
    short_id,
)
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
    "REPLAYS",
    "Channel",
    "ChannelInfo",
    "CheckpointDiff",
    "CheckpointPlan",
    "CheckpointStatus",
    "CheckpointView",
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
    "Replay",
    "ResourceRequest",
    "RestoreReport",
    "ServiceFile",
    "SessionState",
    "SessionView",
    "check_label",
    "check_name",
    "short_id",
]
