"""Use of devices: sums over spans, and the meter that writes them down."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_gpuaas.controller import metering
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.usage import UsageRows
from jupyter_gpuaas.controller.metering import Meter, MeteredEngine
from jupyter_gpuaas.engine.base import LeaseMeta
from jupyter_gpuaas.errors import CatalogueError, LeaseError
from jupyter_gpuaas.lifecycle.usage import Span, by_session, by_user, remembered
from jupyter_gpuaas.model import Lease, ResourceRequest

ONE = ResourceRequest()


def span(session: str = "s", devices: int = 1, from_s: float = 0.0, until_s: float | None = None) -> Span:
    return Span(session_id=session, owner=session[0], devices=devices, from_s=from_s, until_s=until_s)


def test_sums_are_of_what_lies_in_the_window() -> None:
    spans = [span("a1", 2, 0, 10), span("a1", 1, 20), span("a2", 1, 0, 4), span("b1", 4, 15, 18)]
    sessions = by_session(spans, 5, 25)
    assert [(each.session_id, each.device_seconds, each.devices) for each in sessions] == [
        ("a1", 2 * 5 + 5, 1),
        ("b1", 12, 0),
        ("a2", 0, 0),
    ]
    assert [(each.user, each.device_seconds, each.sessions) for each in by_user(sessions)] == [
        ("a", 15, 2),
        ("b", 12, 1),
    ]


@given(st.floats(0, 1000), st.floats(0.1, 1000), st.floats(0, 1000))
def test_remembered_use_halves_with_each_half_life(from_s: float, length_s: float, rest_s: float) -> None:
    ended = span(from_s=from_s, until_s=from_s + length_s)
    now_s = from_s + length_s + rest_s
    first, later = remembered(ended, now_s, 100.0), remembered(ended, now_s + 100.0, 100.0)
    assert 0 < first <= length_s + 1e-6
    assert math.isclose(first, 2 * later, rel_tol=1e-6)


class Clock:
    """One that is turned by hand, as wall and as monotonic clock; the first can be set."""

    def __init__(self) -> None:
        self.s = 1000.0
        self.set_by_s = 0.0

    def wall(self) -> float:
        return self.s + self.set_by_s

    def monotonic(self) -> float:
        return self.s


class Pool:
    """Devices of one node, given and taken back at once."""

    def __init__(self, devices: int) -> None:
        self.free = [f"cpu:{number}" for number in range(devices)]
        self.held: dict[str, Lease] = {}
        self.number = 0
        self.refuses = False

    async def acquire(self, request: ResourceRequest, meta: LeaseMeta, timeout: float | None = None) -> Lease:
        self.number += 1
        chosen, self.free = tuple(self.free[: request.devices]), self.free[request.devices :]
        lease = self.held[str(self.number)] = Lease(str(self.number), meta.session_id, "n", chosen, meta.epoch)
        return lease

    async def release(self, lease_id: str) -> None:
        if self.refuses:
            raise LeaseError("not now")
        lease = self.held.pop(lease_id, None)
        self.free += lease.device_ids if lease is not None else ()

    def leases(self) -> list[Lease]:
        return list(self.held.values())


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(tmp_path / "x.db", events_kept=100)
    yield opened
    opened.close()


def make(database: Database, clock: Clock, pool: Pool) -> tuple[Meter, MeteredEngine]:
    meter = Meter(UsageRows(database), lambda session: session[:1], wall=clock.wall, clock=clock.monotonic)
    engine: Any = pool
    return meter, MeteredEngine(engine, meter)


async def test_meter_counts_what_is_held_and_only_that(database: Database) -> None:
    clock, pool = Clock(), Pool(4)
    meter, engine = make(database, clock, pool)
    two = await engine.acquire(ResourceRequest(devices=2), LeaseMeta("a1", 1))
    clock.s += 10
    assert meter.device_seconds("a1") == 20
    assert meter.devices("a") == 2
    other = await engine.acquire(ONE, LeaseMeta("a1", 2))  # the target of a move, say
    clock.s += 1
    await engine.release(two.id)
    clock.s += 5
    assert meter.device_seconds("a1") == 22 + 6
    await engine.release(other.id)
    clock.s += 100
    assert meter.device_seconds("a1") == 28
    assert meter.view(None, 0.0).sessions[0].device_seconds == 28
    assert meter.view("b", 0.0).sessions == ()
    assert meter.view("a", clock.s - 101).users[0].device_seconds == 1


async def test_meter_clock_that_is_set_changes_no_sum(database: Database) -> None:
    clock, pool = Clock(), Pool(1)
    meter, engine = make(database, clock, pool)
    lease = await engine.acquire(ONE, LeaseMeta("a1", 1))
    clock.s, clock.set_by_s = clock.s + 10, -5000.0
    assert meter.device_seconds("a1") == 10
    await engine.release(lease.id)
    assert meter.device_seconds("a1") == 10


async def test_meter_refused_release_goes_on(database: Database) -> None:
    clock, pool = Clock(), Pool(1)
    meter, engine = make(database, clock, pool)
    lease = await engine.acquire(ONE, LeaseMeta("a1", 1))
    clock.s += 10
    pool.refuses = True
    with pytest.raises(LeaseError):
        await engine.release(lease.id)
    clock.s += 10
    assert meter.device_seconds("a1") == 20
    pool.refuses = False
    await engine.release(lease.id)
    clock.s += 10
    assert meter.device_seconds("a1") == 20


async def test_meter_survives_the_controller_and_ends_what_is_gone(database: Database) -> None:
    clock, pool = Clock(), Pool(2)
    _, engine = make(database, clock, pool)
    await engine.acquire(ONE, LeaseMeta("a1", 1))
    gone = await engine.acquire(ONE, LeaseMeta("b1", 1))
    clock.s += 10
    del pool.held[gone.id]
    meter, engine = make(database, clock, pool)
    meter.open(pool.leases)
    clock.s += 5
    assert meter.device_seconds("a1") == 15
    assert meter.device_seconds("b1") == 10
    pool.held.clear()  # the engine takes back by itself what a lost node had
    meter.reconcile(pool.leases())
    clock.s += 5
    assert meter.device_seconds("a1") == 15
    await meter.close()


async def test_meter_database_that_fails_holds_nobody_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pool = Clock(), Pool(1)
    meter, engine = make(database, clock, pool)

    def full(*_: object) -> None:
        raise CatalogueError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(UsageRows, "begin", full)
        lease = await engine.acquire(ONE, LeaseMeta("a1", 1))
        clock.s += 3
        await engine.release(lease.id)
    meter.reconcile(pool.leases())
    assert meter.view(None, 0.0).sessions[0].device_seconds == 3


async def test_meter_goes_on_when_the_database_is_back(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pool = Clock(), Pool(2)
    away, looked = True, asyncio.Event()

    def owner_of(session: str) -> str:
        if away:
            raise CatalogueError("the database does not answer")
        return session[:1]

    monkeypatch.setattr(metering, "LOOK_S", 0.0)
    meter = Meter(UsageRows(database), owner_of, wall=clock.wall, clock=clock.monotonic)
    engine: Any = pool
    # Whoever wants devices gets them all the same.
    lease = await MeteredEngine(engine, meter).acquire(ONE, LeaseMeta("a1", 1))
    reconcile, fails = meter.reconcile, iter([True])

    def watched(leases: Sequence[Lease]) -> None:
        if next(fails, False):
            raise CatalogueError("the database does not answer")
        reconcile(leases)
        looked.set()

    monkeypatch.setattr(meter, "reconcile", watched)
    meter.open(pool.leases)
    await looked.wait()
    assert meter.device_seconds("a1") == 0
    away = False
    looked.clear()
    await looked.wait()
    clock.s += 4
    assert meter.device_seconds("a1") == 4
    assert meter.view("a", 0.0).sessions[0].device_seconds == 4
    await engine.release(lease.id)
    await meter.close()


steps = st.lists(
    st.tuples(st.sampled_from(["give", "take", "lose", "look"]), st.integers(0, 5), st.floats(0, 100)), max_size=30
)


@settings(max_examples=60, deadline=None)
@given(steps, st.integers(1, 4))
async def test_meter_sum_is_never_above_time_times_devices(
    tmp_path_factory: pytest.TempPathFactory, taken: list[tuple[str, int, float]], devices: int
) -> None:
    database = Database(tmp_path_factory.mktemp("meter") / "x.db", events_kept=100)
    clock, pool = Clock(), Pool(devices)
    meter, engine = make(database, clock, pool)
    begun_s = clock.s
    for what, which, s in taken:
        held = pool.leases()
        if what == "give" and pool.free:
            request = ResourceRequest(devices=1 + which % len(pool.free))
            await engine.acquire(request, LeaseMeta(f"s{which}", 1))
        elif what == "take" and held:
            await engine.release(held[which % len(held)].id)
        elif what == "lose" and held:
            await pool.release(held[which % len(held)].id)
            meter.reconcile(pool.leases())
        elif what == "look":
            meter.reconcile(pool.leases())
        clock.s += s
    most = (clock.s - begun_s) * devices
    assert sum(meter.device_seconds(f"s{number}") for number in range(6)) <= most + 1e-6
    assert sum(each.device_seconds for each in meter.view(None, 0.0).users) <= most + 1e-6
    database.close()
