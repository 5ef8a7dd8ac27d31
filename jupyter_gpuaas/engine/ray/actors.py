"""What runs in Ray's workers, made an actor of by ``cluster``: the holder of a lease, and the keeper of an agent.

Nothing here imports Ray at the top, so that the classes can be used, and tested, without.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_gpuaas.engine.ray.detached import DetachedAgent


class LeaseHolder:
    """Has devices by Ray's accounting, and does nothing with them.

    It ends itself when nobody says any more that they are needed. One that Ray had kept waiting, and lets begin when
    its service is gone, ends after ``claim_s``: its service would have had a call waiting for it.

    Parameters
    ----------
    meta
        Of the lease; told to whoever adopts it.
    """

    def __init__(self, meta: dict[str, Any], ttl_s: float, claim_s: float) -> None:
        self._meta = meta
        self._ttl_s = ttl_s
        self._until_s = time.monotonic() + claim_s
        threading.Thread(target=self._end, daemon=True, name="end").start()

    def renew(self, ttl_s: float = 0.0) -> dict[str, Any]:
        """Go on for another while; what it has."""
        import ray

        self._ttl_s = ttl_s or self._ttl_s
        self._until_s = time.monotonic() + self._ttl_s
        context = ray.get_runtime_context()
        return {"meta": self._meta, "ray_id": context.get_node_id(), "ids": context.get_accelerator_ids()["GPU"]}

    def end(self) -> None:
        """Give back what it has."""
        os._exit(0)

    def _end(self) -> None:
        while True:
            left_s = self._until_s - time.monotonic()
            if left_s <= 0:
                os._exit(0)
            time.sleep(min(left_s, 60.0))


class AgentKeeper:
    """Finds the agent of the node that it runs on, or starts it.

    The agent is no child of this process: it outlives it, and the raylet.

    Parameters
    ----------
    folder
        Setting ``ray_node_folder``.
    namespace
        Of the service; agents of others are none of its business.
    home
        The service's folder, on the machine that it runs on.
    machine
        Id of that machine.
    """

    def __init__(
        self, node_id: str, folder: str, namespace: str, environ: dict[str, str], home: str, machine: str
    ) -> None:
        from jupyter_gpuaas.config import PREFIX, load
        from jupyter_gpuaas.engine.ray.detached import DetachedAgent, clean, service_folder, visible_devices
        from jupyter_gpuaas.wire.machine import machine_id
        from jupyter_gpuaas.wire.tls import of_node

        base = service_folder(folder, namespace)
        # Where we are on the service's own machine, its folder is what tells whose processes these are.
        owner = home if machine == machine_id() else str(base)
        mine = clean(os.environ) | environ | {PREFIX + "HOME": owner}
        devices = visible_devices(os.environ) if environ.get(PREFIX + "DEVICES", "auto") == "auto" else ""
        self._agent = DetachedAgent(
            node_id,
            base / node_id,
            environ=mine,
            devices=devices or environ.get(PREFIX + "DEVICES", "auto"),
            credentials=of_node(load(mine), node_id),
        )

    def ensure(self, timeout_s: float) -> dict[str, Any]:
        """Start the agent, or find that it runs; ``error`` says why there is none."""
        from jupyter_gpuaas.errors import GpuaasError

        try:
            return asyncio.run(_ensure(self._agent, timeout_s))
        except (GpuaasError, OSError) as error:
            return {"error": str(error)}

    def stop(self, timeout_s: float) -> None:
        """End the agent and all that it hosts."""
        asyncio.run(_stop(self._agent, timeout_s))


# Not methods: Ray would run everything of a class that has a coroutine in a loop of its own.


async def _ensure(agent: DetachedAgent, timeout_s: float) -> dict[str, Any]:
    import msgspec

    node = await agent.adopt()
    if node is None and agent.silent:
        agent.silent = False
        return {"error": f"its agent (process {agent.pid}) lives and does not answer"}
    if node is None:
        node = await agent.start(timeout_s=timeout_s)
    assert agent.endpoint is not None
    return {
        "node": msgspec.json.encode(node),
        "url": agent.endpoint.url,
        "token": agent.endpoint.token,
    }


async def _stop(agent: DetachedAgent, timeout_s: float) -> None:
    await agent.adopt()
    await agent.stop(timeout_s=timeout_s)
