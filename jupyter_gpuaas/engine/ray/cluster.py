"""The one place that calls Ray: each call in a thread of its own, with an end, its errors mapped to ours.

Public API only. A call to a cluster whose head is away does not come back before the head does, so whoever called goes
on after ``CALL_S``, and the thread is left to itself. A lease that it brings then is given back by it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from jupyter_gpuaas import __version__
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.engine.ray.actors import AgentKeeper, LeaseHolder
from jupyter_gpuaas.engine.ray.plan import LEASE_PREFIX, RayNode, keeper, keepers_of, read_nodes, selector
from jupyter_gpuaas.errors import GpuaasError, SettingError, TransportError

log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_S = 60.0
CALL_S = 10.0
#: A lease that begins when its service is gone ends after this long.
CLAIM_S = 5.0
#: How long a head may be away before Ray's own processes give up; ours must not be the first.
RECONNECT_S = "600"


#: What the threads are called that call Ray.
THREAD = "ray call"

#: A thread waits in Ray for a head that is away, and would do so for `RECONNECT_S`.
_hanging = threading.Event()


def leave() -> None:
    """End this process at once, and well, if Ray would neither let it end nor survive it."""
    if _hanging.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class Held(msgspec.Struct, frozen=True):
    """What the holder of a lease says of itself."""

    meta: dict[str, Any]
    ray_id: str
    ids: tuple[str, ...]


class Holder:
    """The actor of a lease, from the moment on that Ray was asked for it."""

    def __init__(self, name: str, actor: Any, first: asyncio.Future[Held]) -> None:
        self.name = name
        self.actor = actor
        #: What it says when Ray has given it devices.
        self.first = first


class _Asked:
    """An actor that a thread makes for somebody who may have gone on by then; the later of the two sees to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actor: Any = None
        self._left = False

    def made(self, actor: Any) -> bool:
        """It is there; whether somebody waits for it."""
        with self._lock:
            self._actor = actor
            return not self._left

    def leave(self) -> Any:
        """Nobody waits any more; the actor, if it is there."""
        with self._lock:
            self._left = True
            return self._actor


class Cluster:
    """A connection to a Ray cluster, as a driver of it.

    Parameters
    ----------
    namespace
        Of all actors that are made here; without one, a later service would not find them.
    """

    def __init__(self, settings: Settings, namespace: str) -> None:
        self._settings = settings
        self.namespace = namespace

    async def connect(self) -> None:
        """Attach to the cluster.

        Raises
        ------
        SettingError
            Ray is not installed here, or is not of the cluster's version.
        TransportError
            There is no such cluster, or it does not take our token.
        """
        await _in_thread(self._connect, timeout_s=CONNECT_S)

    def _connect(self) -> None:
        # Before the import, which reads some of them.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", RECONNECT_S)
        if self._settings.ray_token_file:
            os.environ["RAY_AUTH_TOKEN_PATH"] = str(Path(self._settings.ray_token_file).expanduser())
        default = Path("~/.ray/auth_token").expanduser()
        if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or default.exists():
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        try:
            import ray
        except ImportError as error:
            raise SettingError(
                f"setting engine: Ray is not installed here ({error}).", hint="`pip install 'jupyter_gpuaas[ray]'`"
            ) from error
        if os.environ.get("RAY_AUTH_MODE") != "token":
            log.warning("the Ray cluster asks for no token: whoever reaches its ports can run code on it")
        if ray.is_initialized():
            _shut_down(ray, CONNECT_S / 2)
        try:
            ray.init(
                address=self._settings.ray_address,
                namespace=self.namespace,
                log_to_driver=False,
                configure_logging=False,
            )
        except RuntimeError as error:
            if "ersion mismatch" in str(error):
                raise SettingError(f"setting ray_address: {error}") from error
            raise

    async def close(self) -> None:
        """Let go of the cluster; what was made detached goes on."""

        ray = sys.modules.get("ray")
        if ray is None:
            return
        try:
            await _in_thread(lambda: _shut_down(ray, CALL_S / 2))
        except GpuaasError as error:
            log.warning("the Ray cluster is left as it is: %s", error)
            _hanging.set()

    async def nodes(self) -> list[RayNode]:
        """All nodes that the cluster has, or had."""

        def look() -> list[RayNode]:
            import ray

            return read_nodes(ray.nodes())

        return await _in_thread(look)

    # -- leases ------------------------------------------------------------------------------------------------

    async def hold(
        self, lease_id: str, meta: Mapping[str, Any], gpus: float, ray_ids: Sequence[str], *, suffix: str = ""
    ) -> Holder:
        """Ask for devices on one of these nodes; it does not wait for them."""
        name = f"{LEASE_PREFIX}{lease_id}{suffix}"
        asked = _Asked()

        def ask() -> tuple[Any, concurrent.futures.Future[Any]]:
            import ray

            holder = ray.remote(LeaseHolder).options(
                name=name,
                namespace=self.namespace,
                lifetime="detached",
                num_cpus=0,
                num_gpus=gpus,
                max_restarts=0,
                max_task_retries=0,
                label_selector=selector(ray_ids),
            )
            actor = holder.remote(dict(meta), self._settings.ray_lease_s, CLAIM_S)
            if not asked.made(actor):
                # The head was away for longer than anybody waits. Unclaimed, it would end by itself, too.
                _discard(actor)
                raise TransportError("Ray has answered too late.")
            # It waits with us, so that it never arrives if we are gone when the actor begins.
            return actor, actor.renew.remote().future()

        try:
            actor, said = await _in_thread(ask)
        except BaseException:
            made = asked.leave()
            if made is not None:
                threading.Thread(target=_discard, args=(made,), daemon=True, name=THREAD).start()
            raise
        first = asyncio.ensure_future(_held(said))
        first.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may wait for it any more
        return Holder(name, actor, first)

    async def renew(self, holders: Sequence[Any]) -> list[Held | GpuaasError | None]:
        """Renew leases; None for one whose actor is gone, an error where nothing is known."""

        def ask() -> list[Held | GpuaasError | None]:
            import ray

            refs = [actor.renew.remote(self._settings.ray_lease_s) for actor in holders]
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=CALL_S / 2) if refs else ([], [])
            found: list[Held | GpuaasError | None] = []
            for ref in refs:
                try:
                    found.append(_read(ray.get(ref, timeout=1)) if ref in ready else TransportError("no answer."))
                except ray.exceptions.ActorUnavailableError as error:
                    found.append(TransportError(f"{error}"))
                except ray.exceptions.RayActorError:
                    found.append(None)
                except ray.exceptions.RayError as error:
                    found.append(TransportError(f"{error}"))
            return found

        return await _in_thread(ask)

    async def holders(self) -> dict[str, Any]:
        """All actors of leases in our namespace, by their names, those that still wait included."""

        def look() -> dict[str, Any]:
            import ray
            from ray.util import list_named_actors

            found = {}
            for name in list_named_actors():
                if name.startswith(LEASE_PREFIX):
                    with contextlib.suppress(ValueError):  # gone since
                        found[name] = ray.get_actor(name, namespace=self.namespace)
            return found

        return await _in_thread(look)

    async def free(self, actor: Any) -> None:
        """Give back what an actor has, or wants; one that is gone is no error."""
        await _in_thread(lambda: _kill(actor))

    async def want(self, bundles: list[dict[str, float]], selectors: list[dict[str, str]]) -> None:
        """Tell the autoscaler how much the cluster should be able to hold."""

        def tell() -> None:
            from ray.autoscaler.sdk import request_resources

            if any(selectors):
                request_resources(bundles=bundles, bundle_label_selectors=selectors)
            else:
                request_resources(bundles=bundles)

        await _in_thread(tell)

    # -- agents ------------------------------------------------------------------------------------------------

    async def agent(self, node_id: str, ray_id: str, arguments: Sequence[Any], timeout_s: float) -> dict[str, Any]:
        """Let a node's keeper find its agent or start it."""

        def ask() -> dict[str, Any]:
            import ray

            actor = self._keeper(node_id, ray_id, arguments)
            answer: dict[str, Any] = ray.get(actor.ensure.remote(timeout_s), timeout=timeout_s + CALL_S)
            return answer

        return await _in_thread(ask, timeout_s=timeout_s + 2 * CALL_S)

    async def stop_agent(self, node_id: str, ray_id: str, arguments: Sequence[Any], timeout_s: float) -> None:
        """End a node's agent, with all that it hosts, and its keeper."""

        def ask() -> None:
            import ray

            actor = self._keeper(node_id, ray_id, arguments)
            ray.get(actor.stop.remote(timeout_s), timeout=timeout_s + CALL_S)
            ray.kill(actor, no_restart=True)

        await _in_thread(ask, timeout_s=timeout_s + 2 * CALL_S)

    def _keeper(self, node_id: str, ray_id: str, arguments: Sequence[Any]) -> Any:
        import ray
        from ray.util import list_named_actors
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        name = keeper(node_id, ray_id, arguments, __version__)
        for other in list_named_actors():
            if other.startswith(keepers_of(node_id, ray_id)) and other != name:
                # Of a service with other settings, or another version. Its agent goes on.
                with contextlib.suppress(ValueError, ray.exceptions.RayError):  # it has gone since
                    former = ray.get_actor(other, namespace=self.namespace)
                    ray.wait([former.__ray_terminate__.remote()], timeout=CALL_S)  # once it has started one
                    ray.kill(former, no_restart=True)
        made = ray.remote(AgentKeeper).options(
            name=name,
            namespace=self.namespace,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            num_gpus=0,
            max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(ray_id, soft=False),
        )
        return made.remote(node_id, *arguments)


def _shut_down(ray: Any, wait_s: float) -> None:
    """Let go of Ray when nobody is in it any more: a call that goes on without it would take the process with it."""
    until_s = time.monotonic() + wait_s
    for thread in threading.enumerate():
        if thread.name == THREAD and thread is not threading.current_thread():
            thread.join(max(0.0, until_s - time.monotonic()))
            if thread.is_alive():
                raise TransportError("it has not answered all that it was asked.")
    ray.shutdown()


def _kill(actor: Any) -> None:
    """End the actor of a lease."""
    import ray

    # Straight to it, if it has begun: a head that hangs may forget that it is to be killed.
    with contextlib.suppress(AttributeError):  # one of an earlier version cannot be told
        actor.end.remote()
    with contextlib.suppress(ValueError):
        ray.kill(actor, no_restart=True)


def _discard(actor: Any) -> None:
    """End an actor that nobody has heard of."""
    try:
        _kill(actor)
    except Exception as error:
        log.warning("a lease that came too late is not given back: %s", _mapped(error))


def _read(said: Mapping[str, Any]) -> Held:
    return Held(dict(said["meta"]), str(said["ray_id"]), tuple(str(each) for each in said["ids"]))


async def _held(said: concurrent.futures.Future[Any]) -> Held:
    try:
        return _read(await asyncio.wrap_future(said))
    except Exception as error:
        raise _mapped(error) from error


async def _in_thread(call: Callable[[], T], *, timeout_s: float = CALL_S) -> T:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return  # nobody waits any more
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result: T | None = None
        failed: BaseException | None = None
        try:
            result = call()
        except Exception as error:
            failed = _mapped(error)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=work, daemon=True, name=THREAD).start()
    # Not `wait_for`, which may answer instead of being cancelled.
    try:
        await asyncio.wait([done], timeout=timeout_s)
        if done.done():
            return done.result()
        raise TransportError(f"Ray has not answered in {timeout_s:g} s.")
    finally:
        done.cancel()


def _mapped(error: BaseException) -> GpuaasError:
    """Ray's errors as ours; all others, too, as nothing but Ray is called here."""
    if isinstance(error, GpuaasError):
        return error
    text = (str(error).strip() or type(error).__name__).splitlines()
    return TransportError(f"Ray: {type(error).__name__}: {' '.join(text[:3])[:500]}")
