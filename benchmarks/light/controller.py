"""The controller over nodes with light hosts: ``python -m benchmarks.light.controller``, as ``jupyter gpuaas``."""

from __future__ import annotations

from jupyter_gpuaas.cli import main
from jupyter_gpuaas.engine.process import AgentProcess

if __name__ == "__main__":
    AgentProcess.module = "benchmarks.light.agent"
    main()
