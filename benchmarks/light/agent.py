"""The agent of a node with light hosts: the real one, which lets them be forked. See ``jupyter_gpuaas.node.agent``."""

from __future__ import annotations

from benchmarks.light.nursery import launch
from jupyter_gpuaas.node.agent import main
from jupyter_gpuaas.node.hosts import Hosts

if __name__ == "__main__":
    Hosts.launch = staticmethod(launch)  # type: ignore[method-assign]
    main()
