"""Checkpoints of a kernel, with IPython's shell and a store, but without messages."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from jupyter_gpuaas.errors import CheckpointError, NoSuchCheckpoint, StaleEpoch, StoreError
from jupyter_gpuaas.kernel import checkpoints as module
from jupyter_gpuaas.kernel import giving_up, tidying
from jupyter_gpuaas.kernel.checkpoints import Checkpoints
from jupyter_gpuaas.model import CheckpointPlan
from jupyter_gpuaas.state.checkpointer import Checkpointer
from jupyter_gpuaas.state.hidden import mark_baseline


class Kernel:
    """Runs cells and then does what the kernel does."""

    def __init__(self, folder: Path, **plan: Any) -> None:
        self.shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
        mark_baseline(self.shell.user_ns)  # what earlier tests did in this process is none of its doing
        self.notes: list[dict[str, Any]] = []
        given: dict[str, Any] = {"share": 1e6} | plan
        self.checkpoints = Checkpoints(
            self.shell,
            CheckpointPlan(store=str(folder), key="ab" * 32, owner="ann", **given),
            session="s",
            epoch=3,
            tell=self.notes.append,
        )
        self.number = 0

    @property
    def space(self) -> dict[str, Any]:
        space: dict[str, Any] = self.shell.user_ns
        return space

    def cell(self, code: str, took_s: float = 0.01) -> bool:
        self.number += 1
        exec(compile(code, f"<cell {self.number}>", "exec"), self.space)
        self.checkpoints.ran([code], took_s, number=self.number, counts=True)
        return self.checkpoints.between_messages()

    def written(self) -> list[int]:
        """Cells of the checkpoints in the store."""
        assert self.checkpoints._writer.drain(30)
        return [each.cell for each in self.checkpoints.listed()]

    def kinds(self) -> list[str]:
        return [note["kind"] for note in self.notes]


@pytest.fixture
def kernels(tmp_path: Path) -> Iterator[Any]:
    made: list[Kernel] = []

    def make(**plan: Any) -> Kernel:
        made.append(Kernel(tmp_path / "store", **plan))
        return made[-1]

    yield make
    for kernel in made:
        kernel.checkpoints.close(30)


def test_variables_are_the_users_own_that_come_back_wherever_they_are_counted(kernels: Any) -> None:
    kernel = kernels()
    kernel.space.update(_="shown", _1="shown")  # as IPython does
    kernel.cell("import socket\nlink = socket.socket()\nx, __private = 1, 2")
    kernel.written()
    link = kernel.space["link"]
    (view,) = kernel.checkpoints.listed()
    assert list(view.lost) == ["link"]
    report = kernel.checkpoints.restore("-1")
    assert (view.names, report.names, report.checkpoint.names) == (3, 3, 3)  # socket, x, __private
    link.close()


def test_unnamed_checkpoints_beyond_the_number_go_and_named_ones_stay(
    kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidying, "EVERY_S", 0.0)
    kernel = kernels(keep=2)
    kernel.cell("a = 1")
    kernel.checkpoints.take("kept")
    for n in range(5):
        kernel.cell(f"a = {n}")
        kernel.written()
    kernel.checkpoints.close(30)
    left = kernel.checkpoints.listed()
    assert [view.label for view in left].count("kept") == 1
    assert [view.cell for view in left if not view.label] == [5, 6]


def test_dear_captures_wait_until_it_is_quiet_and_that_is_told_once(kernels: Any) -> None:
    kernel = kernels(share=0.1)
    kernel.cell("import numpy; a = numpy.zeros(4_000_000)")
    kernel.cell("a += 1", took_s=100.0)  # earns the capture that tells what it costs
    kernel.checkpoints._pace.learned(1.0, kernel.space["a"].nbytes)
    kernel.checkpoints._pace.spent(1000.0)
    assert not kernel.cell("a += 1")
    assert not kernel.cell("a += 1")
    assert kernel.written() == [1, 2]
    assert kernel.kinds().count("rarer") == 1
    assert "quiet" in kernel.checkpoints.status().remark
    kernel.checkpoints.quiet()
    assert kernel.written() == [1, 2, 4]
    assert kernel.checkpoints.status().passed_over == 2


def test_what_is_different_by_now_is_told_of_the_newest_checkpoint(
    kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = kernels()
    nothing = {"parts": (), "writing": False}
    assert kernel.checkpoints.request({"op": "outdated"}) == {"checkpoint": "", "newest": "", **nothing}
    kernel.cell("import numpy; a = numpy.zeros(4_000_000); b = a + 1")
    assert kernel.written() == [1]
    newest = kernel.checkpoints.listed()[-1].id
    assert kernel.checkpoints.request({"op": "outdated"}) == {"checkpoint": newest, "newest": newest, **nothing}
    kernel.checkpoints.set_every(0)
    kernel.cell("a += 1")
    told = kernel.checkpoints.request({"op": "outdated"})
    assert told["checkpoint"] == newest
    assert [(part["region"], part["nbytes"]) for part in told["parts"]] == [(0, 32_000_000)]
    gate, store = threading.Event(), kernel.checkpoints.checkpointer.store
    put = store.put
    monkeypatch.setattr(store, "put", lambda chunks: gate.wait(30) and put(chunks))
    kernel.checkpoints.set_every(1)
    kernel.checkpoints.quiet()
    kernel.cell("a += 1")  # which the checkpoint that is being written does not have
    told = kernel.checkpoints.request({"op": "outdated"})
    assert told == {"checkpoint": newest, "newest": newest, "parts": (), "writing": True}
    gate.set()
    kernel.written()
    oldest, newest = newest, kernel.checkpoints.listed()[-1].id
    assert kernel.checkpoints.request({"op": "outdated"}) == {"checkpoint": newest, "newest": newest, **nothing}
    kernel.checkpoints.set_every(0)
    kernel.checkpoints.restore(oldest)
    assert kernel.checkpoints.request({"op": "outdated"}) == {"checkpoint": oldest, "newest": newest, **nothing}


def test_failing_store_is_tried_again_later_and_never_raises(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = kernels()
    kernel.cell("a = 1")
    store = kernel.checkpoints.checkpointer.store

    def broken(chunks: object) -> object:
        raise StoreError("the disk is full.")

    kernel.written()
    with monkeypatch.context() as patch:
        patch.setattr(store, "put", broken)
        kernel.cell("a = [2]")
        assert kernel.written() == [1]
        assert "disk is full" in kernel.checkpoints.status().problem
        assert not kernel.cell("b = 3")
        assert kernel.checkpoints.status().failed == 1  # not tried at once again
        with pytest.raises(StoreError):
            kernel.checkpoints.take("now")
    kernel.checkpoints._retry_s = 0.0
    kernel.cell("c = 4")
    assert kernel.written() == [1, 4]
    assert kernel.checkpoints.status().problem == ""
    kernel.space.clear()
    report = kernel.checkpoints.restore("-1")
    assert (kernel.space["a"], kernel.space["b"], kernel.space["c"]) == ([2], 3, 4)
    assert report.lost == {}


def test_interrupt_in_a_capture_gives_it_up_and_leaves_the_handler(kernels: Any) -> None:
    kernel = kernels()
    kernel.cell("a = 1")
    former = signal.getsignal(signal.SIGINT)
    kernel.space["hit"] = _Interrupting()
    assert not kernel.cell("b = 2")  # to be asked again when it is quiet
    assert kernel.checkpoints.status().problem == "it was interrupted"
    assert signal.getsignal(signal.SIGINT) is former
    del kernel.space["hit"]
    kernel.cell("c = 3")
    assert kernel.written() == [1, 3]


def test_capture_that_is_interrupted_is_put_off_and_no_failure(kernels: Any) -> None:
    kernel = kernels()
    kernel.cell("a = 1")
    kernel.space["hit"] = _Interrupting()
    kernel.cell("b = 2")
    assert kernel.checkpoints.status().failed == 0 and "failed" not in kernel.kinds()
    del kernel.space["hit"]
    kernel.checkpoints.quiet()
    assert kernel.written() == [1, 2] and kernel.checkpoints.status().problem == ""


def test_capture_that_comes_too_late_for_the_end_of_the_session_is_no_failure(kernels: Any) -> None:
    kernel = kernels()
    kernel.cell("a = 1")
    assert kernel.written() == [1]
    kernel.checkpoints.close(30)
    kernel.cell("b = 2")
    assert kernel.checkpoints.status().failed == 0 and kernel.written() == [1]


class _Interrupting:
    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return (_Interrupting, ())


def test_interrupted_restore_leaves_the_variables_as_they_were(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = kernels()
    kernel.cell("a = [1]")
    kernel.cell("a.append(2); b = a")
    kernel.written()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = dict(kernel.space)
    with pytest.raises(KeyboardInterrupt):
        kernel.checkpoints.restore("-2", stop)
    assert kernel.space.keys() == before.keys()
    assert kernel.space["a"] is before["a"] is kernel.space["b"]


def test_what_restore_replaces_is_captured_first(kernels: Any) -> None:
    kernel = kernels(every=3)
    kernel.cell("a = 1")
    kernel.checkpoints.take("one")
    kernel.cell("a = 2")
    kernel.checkpoints.restore("one")
    assert kernel.space["a"] == 1
    kernel.checkpoints.restore("-1")
    assert kernel.space["a"] == 2


def test_restore_that_is_interrupted_while_the_present_is_captured_does_not_go_on(kernels: Any) -> None:
    kernel = kernels(every=3)
    kernel.cell("a = 1")
    kernel.checkpoints.take("one")
    kernel.cell("a = 2")
    kernel.space["hit"] = _Interrupting()
    with pytest.raises(KeyboardInterrupt):
        kernel.checkpoints.restore("one")
    assert kernel.space["a"] == 2


def test_thread_of_the_user_makes_everything_looked_at(kernels: Any) -> None:
    kernel = kernels()
    kernel.cell("a = [1]; b = 2")
    assert kernel.checkpoints._touched(kernel.space) is not None
    go = threading.Event()
    thread = threading.Thread(target=lambda: (go.wait(30), kernel.space["a"].append(2)))
    thread.start()
    try:
        assert kernel.checkpoints._touched(kernel.space) is None
    finally:
        go.set()
        thread.join()


def test_cell_waits_and_says_so_while_too_much_is_being_written(kernels: Any) -> None:
    kernel = kernels()
    answers = [False, False, False, True]
    kernel.checkpoints._writer.has_room = lambda: False
    kernel.checkpoints._writer.wait_for_room = lambda timeout_s: answers.pop(0)
    said: list[str] = []
    kernel.checkpoints.before_cell(said.append)
    assert not answers and len(said) == 1 and "waits" in said[0]


def test_newest_stays_and_unknown_ones_are_told(kernels: Any) -> None:
    kernel = kernels()
    kernel.cell("a = 1")
    kernel.written()
    with pytest.raises(CheckpointError, match="newest"):
        kernel.checkpoints.forget(["-1"])
    with pytest.raises(NoSuchCheckpoint):
        kernel.checkpoints.restore("nothing")
    with pytest.raises(CheckpointError, match="jupyter gpuaas restore"):
        kernel.checkpoints.restore_new("-1", "new")


def test_list_and_newest_wait_for_what_is_being_written(
    kernels: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = kernels()
    kernel.cell("a = 1")
    kernel.written()
    writer, store = kernel.checkpoints._writer, kernel.checkpoints.checkpointer.store
    go, put, drain = threading.Event(), store.put, writer.drain

    def held(chunks: Any) -> Any:
        assert go.wait(30)
        return put(chunks)

    def drained(timeout_s: float) -> bool:
        if timeout_s != 1.0:  # a second has gone by, and the user was told
            go.set()
            return bool(drain(30))
        return bool(drain(0.01))

    monkeypatch.setattr(store, "put", held)
    monkeypatch.setattr(writer, "drain", drained)
    kernel.cell("a = [2] * 10000")
    assert kernel.checkpoints.find("-1").manifest.cell == 2
    assert "1 being written" in capsys.readouterr().err
    go.clear()
    kernel.cell("a = [3] * 10000")
    assert [view.cell for view in kernel.checkpoints.listed()] == [1, 2, 3]
    # One that never ends is left out, and told.
    go.clear()
    monkeypatch.setattr(module, "WRITING_S", 0.0)
    monkeypatch.setattr(writer, "drain", lambda timeout_s: drain(0.01))
    kernel.cell("a = [4] * 10000")
    first, *_ = listed = kernel.checkpoints.listed()
    assert [view.cell for view in listed] == [1, 2, 3]
    assert "still being written: 1" in capsys.readouterr().err
    # What the variables are now would be nowhere.
    with pytest.raises(CheckpointError, match="still being written"):
        kernel.checkpoints.restore(first.id)
    assert kernel.space["a"] == [4] * 10000
    go.set()
    monkeypatch.setattr(writer, "drain", drain)
    assert kernel.written() == [1, 2, 3, 4]
    kernel.checkpoints.restore(first.id)
    assert kernel.space["a"] == 1


def test_request_that_was_given_up_before_it_began_is_refused(kernels: Any) -> None:
    kernel = kernels()
    kernel.cell("a = 1")
    kernel.checkpoints.stop_request("r1")
    with pytest.raises(KeyboardInterrupt):
        kernel.checkpoints.request({"op": "take", "label": "", "request": "r1"})
    kernel.checkpoints.request({"op": "take", "label": "later", "request": "r2"})
    assert kernel.checkpoints.listed()[-1].label == "later"


def test_interrupted_capture_is_no_reason_to_refuse_the_next_request(kernels: Any) -> None:
    kernel = kernels()
    kernel.space["interrupt"] = lambda: os.kill(os.getpid(), signal.SIGINT)
    kernel.cell("class Slow:\n    def __reduce__(self):\n        interrupt()\n        return Slow, ()\nslow = Slow()")
    assert "interrupted" in kernel.checkpoints.status().problem
    del kernel.space["slow"]
    assert kernel.checkpoints.request({"op": "take", "label": "later"})["label"] == "later"


def test_store_that_cannot_be_opened_is_a_reason_and_not_an_error(tmp_path: Path) -> None:
    blocked = tmp_path / "store"
    blocked.write_text("a file, not a folder")
    kernel = Kernel(blocked)
    kernel.cell("a = 1")
    assert kernel.checkpoints.status().problem
    assert kernel.kinds() == ["failed"]
    kernel.checkpoints.close(1)


def test_kernel_whose_session_goes_on_elsewhere_takes_no_more_and_says_why(kernels: Any) -> None:
    kernel = kernels()
    kernel.cell("a = 1")
    assert kernel.written() == [1]
    store = kernel.checkpoints.checkpointer.store
    Checkpointer(store, key=bytes.fromhex("ab" * 32), session="s").capture({"a": 2}, epoch=4, cell=7)
    kernel.cell("a = 3")
    assert kernel.written() == [1, 7]
    status = kernel.checkpoints.status()
    assert status.failed == 1 and "another host" in status.problem and "3" in status.problem
    kernel.cell("a = 4")
    kernel.checkpoints.background()
    kernel.checkpoints.quiet()
    assert kernel.written() == [1, 7] and kernel.checkpoints.status().failed == 1
    with pytest.raises(StaleEpoch):
        kernel.checkpoints.take("mine")


def test_request_is_given_up_after_any_number_that_had_ended_before(kernels: Any) -> None:
    kernel = kernels()
    for n in range(giving_up.MOST_STOPPED + 1):
        kernel.checkpoints.stop_request(f"ended {n}")
    kernel.checkpoints.stop_request("late")
    with pytest.raises(KeyboardInterrupt):
        kernel.checkpoints.request({"op": "take", "request": "late"})
    assert kernel.checkpoints.request({"op": "take", "request": "next"})


def test_session_that_stands_still_is_written_from_its_own_memory(kernels: Any) -> None:
    kernel = kernels(every=0)
    kernel.cell("import numpy as np\ndata = np.zeros(5_000_000, np.uint8)")
    whole = kernel.checkpoints.take()
    kernel.cell("data[0] = 1")
    part = kernel.checkpoints.request({"op": "take", "stands": True})
    kernel.space["data"][0] = 2
    costs = [kernel.checkpoints.find(each).manifest.costs for each in (whole.id, part["id"])]
    assert [each.copied_bytes > 0 for each in costs] == [True, False]
    assert all(each.written_bytes > 0 for each in costs)
    kernel.checkpoints.restore(part["id"])
    assert kernel.space["data"][0] == 1


def test_interrupt_leaves_memory_to_the_user_only_when_it_is_read_no_more(
    kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = kernels()
    kernel.cell("import numpy as np\ndata = np.zeros(5_000_000, np.uint8)")
    kernel.written()
    reading, returned, go = threading.Event(), threading.Event(), threading.Event()
    put = kernel.checkpoints.checkpointer.store.put

    def slow(chunks: Any) -> Any:
        reading.set()
        go.wait(30)
        return put(chunks)

    def interrupt() -> None:
        reading.wait(30)
        for _ in range(2):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            returned.wait(0.2)
        go.set()

    monkeypatch.setattr(kernel.checkpoints.checkpointer.store, "put", slow)
    kernel.space["data"][0] = 1
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where tests run in the background
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        kernel.checkpoints.take("mine", stands=True)
    signal.signal(signal.SIGINT, before)
    assert go.is_set()
    returned.set()
    thread.join()
    monkeypatch.undo()
    kernel.cell("data[0] = 2")
    kernel.written()
    newest = kernel.checkpoints.listed()[-1]
    kernel.checkpoints.restore(newest.id)
    assert newest.cell == 2 and kernel.space["data"][0] == 2
