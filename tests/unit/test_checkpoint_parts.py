"""Parts of the checkpoints of sessions, without a kernel or a service."""

from __future__ import annotations

import argparse
import asyncio
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from jupyter_gpuaas.cell.checkpoint_commands import add_parsers
from jupyter_gpuaas.controller.reports import checkpoint_news
from jupyter_gpuaas.errors import StoreError
from jupyter_gpuaas.kernel.capture_writer import MOST_WAITING, CaptureWriter, GivenUp, Job, wait
from jupyter_gpuaas.kernel.pace import CHEAP_S, Pace
from jupyter_gpuaas.model import (
    CheckpointPlan,
    CheckpointStatus,
    CheckpointView,
    GpuSession,
    ResourceRequest,
    RestoreReport,
    SessionState,
    check_label,
)
from jupyter_gpuaas.model.words import begun_lines, status_lines, table
from jupyter_gpuaas.node.checkpoint_notes import CheckpointNotes
from jupyter_gpuaas.state.listing import owners_address

MIB = 1024**2


# -- pace ----------------------------------------------------------------------------------------------------


def test_cheap_captures_are_always_due() -> None:
    pace = Pace(0.1)
    for _ in range(1000):
        assert pace.due(CHEAP_S)
        pace.spent(CHEAP_S)


def test_dear_capture_is_due_when_cells_have_earned_it() -> None:
    pace = Pace(0.1)
    pace.learned(0.5, 100 * MIB)
    pace.spent(0.5)
    assert not pace.due(pace.expected_s(100 * MIB))
    pace.cell(5.0)
    assert not pace.due(pace.expected_s(100 * MIB))
    pace.cell(5.1)
    assert pace.due(pace.expected_s(100 * MIB))


def test_small_change_of_a_large_state_is_not_taken_for_dear() -> None:
    pace = Pace(0.1)
    pace.learned(0.5, 100 * MIB)
    pace.spent(0.5)
    assert pace.due(pace.expected_s(100 * 1024))


def test_what_captures_of_little_take_is_no_measure_of_a_byte() -> None:
    pace = Pace(0.1)
    pace.learned(0.2, 6000)
    assert pace.expected_s(2000 * MIB) == pytest.approx(0.2)
    pace.learned(2.2, 2000 * MIB)
    assert pace.expected_s(6000) == pytest.approx(0.2)
    assert pace.expected_s(1000 * MIB) == pytest.approx(1.2, rel=0.01)


def test_slow_moments_are_forgotten() -> None:
    pace = Pace(0.1)
    pace.learned(30.0, 6000)
    for _ in range(8):
        pace.learned(0.002, 1000)
    assert pace.expected_s(1000) == pytest.approx(0.002)


def test_capture_that_takes_longer_than_all_that_can_be_earned_is_due_sometime() -> None:
    pace = Pace(0.1)
    pace.learned(10_000.0, MIB)
    pace.cell(1e9)
    assert pace.due(pace.expected_s(MIB))


# -- writer --------------------------------------------------------------------------------------------------


class Capture:
    """Stands for a capture; ``act`` is its writing."""

    def __init__(self, name: str, act: Callable[[], None] = lambda: None, nbytes: int = 0) -> None:
        self.id, self.nbytes, self._act = name, nbytes, act

    def write(self, progress: Callable[[int, int], None]) -> str:
        self._act()
        progress(1, 1)
        return self.id


class Written:
    """A writer and what became of its jobs."""

    def __init__(self, most_bytes: int = MIB) -> None:
        self.ended: list[tuple[str, str]] = []
        self.writer = CaptureWriter(most_bytes, self._note, lambda: None)

    def _note(self, job: Job) -> None:
        self.ended.append((job.capture.id, type(job.error).__name__ if job.error else ""))

    def submit(self, capture: Capture) -> Job:
        job = self.writer.submit(capture, self.writer.generation)
        assert job is not None
        return job


def fail() -> None:
    raise StoreError("the disk is gone.")


def test_captures_are_written_in_order() -> None:
    written = Written()
    for number in range(20):
        written.submit(Capture(str(number)))
    assert written.writer.drain(10)
    written.writer.close(10)
    assert written.ended == [(str(number), "") for number in range(20)]


def test_failed_write_gives_up_those_behind_it_and_begins_a_generation() -> None:
    written, begun, go = Written(), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        go.wait(10)
        fail()

    written.submit(Capture("a", slow))
    assert begun.wait(10)
    before = written.writer.generation
    behind = written.submit(Capture("b"))
    go.set()
    assert behind.done.wait(10)
    assert written.ended == [("a", "StoreError"), ("b", "GivenUp")]
    assert written.writer.submit(Capture("c"), before) is None
    written.submit(Capture("d"))
    written.writer.close(10)
    assert written.ended[-1] == ("d", "")


def test_room_is_bounded_by_bytes_and_by_number() -> None:
    written, go = Written(most_bytes=100), threading.Event()
    written.submit(Capture("a", lambda: go.wait(10) and None, nbytes=101))
    assert not written.writer.wait_for_room(0.01)
    go.set()
    assert written.writer.wait_for_room(10)
    go.clear()
    for number in range(MOST_WAITING):
        written.submit(Capture(str(number), lambda: go.wait(10) and None))
    assert not written.writer.has_room()
    go.set()
    assert written.writer.wait_for_room(10)
    written.writer.close(10)


def test_stopped_job_is_not_committed() -> None:
    written, begun, go = Written(), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        go.wait(10)

    job = written.submit(Capture("a", slow))
    assert begun.wait(10)
    job.stop()
    go.set()
    with pytest.raises(GivenUp):
        wait(job, lambda done, total: None)
    written.writer.close(10)


# -- what is told --------------------------------------------------------------------------------------------

VIEW = CheckpointView(id="18e9d4b09eca59e6-c9c22c7d", session="s", cell=7, created_s=0.0, lost={"link": "is a socket"})


def kinds(before: CheckpointStatus | None, now: CheckpointStatus) -> list[str]:
    return [kind for kind, _, _ in checkpoint_news(before, now)]


def test_news_of_checkpoints_are_what_has_changed_between_two_reports() -> None:
    first = CheckpointStatus(every=1, taken=3, last=VIEW)
    assert kinds(None, first) == ["checkpoint_taken"]
    assert kinds(first, first) == []
    failed = msgspec.structs.replace(first, failed=2, problem="full", remark="rarer", every=0, restores=1, forgotten=1)
    assert kinds(first, failed) == [
        "checkpoint_failed",
        "checkpoint_rarer",
        "checkpoint_every",
        "checkpoint_forgotten",
        "checkpoint_restored",
    ]
    # A fresh kernel counts from the beginning.
    assert kinds(failed, CheckpointStatus(every=1, taken=1, last=VIEW)) == ["checkpoint_taken"]


def test_news_tell_how_many_checkpoints_one_report_stands_for() -> None:
    _, cause, detail = checkpoint_news(None, CheckpointStatus(every=1, taken=3, last=VIEW))[0]
    assert cause == "checkpoint c9c22c7d after cell 7, and 2 before it"
    assert detail["lost"] == ["link"]


def test_news_of_a_restore_tell_people_the_short_id_and_programs_the_whole() -> None:
    news = checkpoint_news(None, CheckpointStatus(restores=1, restored=VIEW.id))
    assert news == [("checkpoint_restored", "the variables are those of checkpoint c9c22c7d", {"id": VIEW.id})]


def test_table_and_status_name_what_cannot_be_restored() -> None:
    assert table([VIEW]).splitlines()[1].endswith("link")
    lines = status_lines(CheckpointStatus(every=1, taken=1, last=VIEW, problem="the store is full."))
    assert any("link: is a socket" in line for line in lines)
    assert any("the store is full" in line for line in lines)


def test_new_session_that_waits_for_a_device_is_told_as_queued_and_not_as_restored() -> None:
    session = GpuSession(
        id="caf060d3ee0f",
        name="a (restored 1)",
        owner="ann",
        state=SessionState.QUEUED,
        epoch=0,
        request=ResourceRequest(),
        created_s=0.0,
        queue_place=1,
    )
    said = begun_lines(RestoreReport(checkpoint=VIEW, names=12, session=session.id), session)
    assert said == [
        "session 'a (restored 1)' is queued, place 1 in the queue; checkpoint c9c22c7d is restored when it starts",
        "to open it, on your own machine: jupyter gpuaas attach 'a (restored 1)'",
    ]


@pytest.mark.parametrize("label", ["-1", "1st", "a\nb", "a/b", "x" * 65, " "])
def test_label_that_could_mean_something_else_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="name"):
        check_label(label)


def test_key_is_not_shown() -> None:
    plan = CheckpointPlan(store="/x", key="5ec4e7", owner="ann")
    assert "5ec4e7" not in repr(plan)
    assert "5ec4e7" not in str([plan])


def test_owners_have_parts_of_their_own_and_cannot_name_each_others() -> None:
    addresses = {owners_address("/store", owner) for owner in ("a/b", "a_b", "../a_b", "ann", "Ann")}
    assert len(addresses) == 5
    assert all(address.removeprefix("/store/").count("/") == 0 for address in addresses)
    assert all(".." not in address for address in addresses)


async def test_host_passes_over_notes_that_are_none_and_keeps_the_last_checkpoint_of_a_dead_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reports: list[CheckpointStatus | None] = []
    timers: list[Callable[[], None]] = []
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", lambda pause_s, call: timers.append(call) or call)
    notes = CheckpointNotes(1.0, lambda: reports.append(notes.status))
    for rubbish in (b"", b"{", b"[]", b'{"kind": 1}', b'{"kind": "taken", "status": {"taken": "many"}}', b"\xff"):
        notes.heard(rubbish)
    assert notes.status is None
    assert notes.way_back() == ""
    status = CheckpointStatus(every=1, taken=1, last=VIEW)
    notes.heard(msgspec.json.encode({"kind": "taken", "status": status}))
    notes.heard(msgspec.json.encode({"kind": "failed", "status": CheckpointStatus(every=1, failed=1)}))
    assert "%remote_gpu restore c9c22c7d" in notes.way_back() and "cell 7" in notes.way_back()
    (report,) = timers  # both in one
    assert reports == []
    report()
    assert reports == [notes.status]
    notes.heard(msgspec.json.encode({"kind": "failed", "status": CheckpointStatus(every=1, failed=2)}))
    assert len(timers) == 2


def test_the_magic_says_what_every_takes(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_parsers(parser.add_subparsers())
    assert parser.parse_args(["checkpoint", "--every", "off"]).every == 0
    with pytest.raises(SystemExit):
        parser.parse_args(["checkpoint", "--every", "0"])
    assert "'0' is neither a number of cells nor `on` or `off`" in capsys.readouterr().err


def test_room_is_looked_for_while_the_writer_takes_out_what_it_has_written() -> None:
    looked, taken = threading.Event(), threading.Event()

    class Watched:
        id = "watched"

        @property
        def nbytes(self) -> int:
            """Asked for by who looks for room: the moment at which the one before is out."""
            looked.set()
            taken.wait(0.2)  # in vain, where nothing is taken out under the eyes of who looks
            return 1

        def write(self, progress: Any) -> None:
            looked.wait(30)

    writer = CaptureWriter(100, lambda job: taken.set(), lambda: None)
    for _ in range(3):
        assert writer.submit(Watched(), 0) is not None
    assert writer.has_room()
    writer.close(30)
