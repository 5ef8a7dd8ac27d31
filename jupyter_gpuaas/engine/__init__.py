"""The seam to whoever owns the machines: membership, device leases, queueing. Nothing about users or kernels."""

from jupyter_gpuaas.engine.base import AgentEndpoint, Engine, GoneHost, LeaseMeta, NodeEvent

__all__ = ["AgentEndpoint", "Engine", "GoneHost", "LeaseMeta", "NodeEvent"]
