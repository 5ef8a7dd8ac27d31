"""Figures of the service as a whole, as lines for Prometheus. Every label has a bounded set of values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import psutil

from jupyter_gpuaas import __version__
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.controller.http_figures import Figures
from jupyter_gpuaas.lifecycle.room import amount
from jupyter_gpuaas.model import NodeState, SessionState


def pool_lines(controller: Controller, figures: Figures, front_ends: int) -> Iterator[str]:
    """All of them."""
    yield from one("info", "gauge", "The service that runs; always 1.", 1, version=__version__)
    yield from _pool(controller)
    yield from _stored(controller)
    yield from one("gateway_connections", "gauge", "Front ends that use the service as a kernel gateway.", front_ends)
    requests = {labels(method=m, route=r, status=s): count for (m, r, s), count in figures.requests.items()}
    yield from many("http_requests_total", "counter", "Requests that were answered, by route.", requests)
    seconds = {labels(method=m, route=r, status=s): took for (m, r, s), took in figures.request_s.items()}
    yield from many("http_request_seconds_total", "counter", "Time until they were, waits included.", seconds)
    process = psutil.Process()
    with process.oneshot():
        times = process.cpu_times()
        yield from one("process_cpu_seconds_total", "counter", "Of the controller.", times.user + times.system)
        yield from one("process_memory_bytes", "gauge", "Resident memory of the controller.", process.memory_info().rss)
        yield from one("process_open_files", "gauge", "Open descriptors of the controller.", process.num_fds())
        yield from one("process_start_timestamp_seconds", "gauge", "When it began.", process.create_time())


def _pool(controller: Controller) -> Iterator[str]:
    nodes, leases = controller.engine.nodes(), controller.engine.leases()
    by_state = {labels(state=state.value): sum(node.state is state for node in nodes) for state in NodeState}
    yield from many("nodes", "gauge", "Nodes by state.", by_state)
    devices = sum(len(node.devices) for node in nodes)
    yield from one("devices", "gauge", "Devices of all nodes.", devices)
    yield from one(
        "devices_leased",
        "gauge",
        "Devices that sessions hold.",
        sum(len(each.device_ids) * each.share for each in leases),
    )
    waiting = [
        live.session.request
        for live in controller.sessions.all()
        if live.session.state in (SessionState.QUEUED, SessionState.RESTORING)
    ]
    yield from one("sessions_waiting", "gauge", "Sessions that wait for devices.", len(waiting))
    yield from one("devices_wanted", "gauge", "Devices that they wait for.", sum(map(amount, waiting)))
    attached = sum(live.session.clients for live in controller.sessions.all())
    yield from one("clients", "gauge", "Clients that are attached to sessions.", attached)


def _stored(controller: Controller) -> Iterator[str]:
    database = controller.database
    kinds = {labels(kind=kind): count for kind, count in sorted(database.events_by_kind.items())}
    yield from many("events_total", "counter", "Events by kind, since the service has started.", kinds)
    targets = {labels(state=state.value): database.events_by_target[state.value] for state in SessionState}
    yield from many("transitions_total", "counter", "Transitions of sessions by the state they led to.", targets)
    yield from one("database_writes_total", "counter", "Transactions that write.", database.writes)
    yield from one("database_write_seconds_total", "counter", "Time that they took.", database.write_s)
    yield from one("database_failures_total", "counter", "Those that failed.", database.failures)


def one(name: str, kind: str, meaning: str, value: float, **of: str) -> Iterator[str]:
    """A metric with one value."""
    yield from many(name, kind, meaning, {labels(**of): value})


def many(name: str, kind: str, meaning: str, values: Mapping[str, float]) -> Iterator[str]:
    """A metric with a value for each set of labels."""
    yield from head(name, kind, meaning)
    for of, value in values.items():
        yield f"gpuaas_{name}{of} {value}"


def head(name: str, kind: str, meaning: str) -> Iterator[str]:
    """The lines before the values of a metric."""
    yield f"# HELP gpuaas_{name} {meaning}"
    yield f"# TYPE gpuaas_{name} {kind}"


def labels(**pairs: str) -> str:
    """Labels as Prometheus writes them; empty for none."""
    written = ",".join(f'{key}="{_escaped(value)}"' for key, value in pairs.items())
    return "{" + written + "}" if written else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
