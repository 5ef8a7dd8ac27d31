"""A journal as cells with outputs: by the rules by which a front end that listens makes them."""

from __future__ import annotations

import json
from typing import Any

import nbformat
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpuaas.model import CellRun, CellRuns
from jupyter_gpuaas.node.cell_runs import RECENT_IDS, cell_runs
from jupyter_gpuaas.wire.record import Kind, Record


class Journal:
    """Records as a host writes them."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def ask(self, msg_id: str, cell: Any = None, code: str = "x", **content: Any) -> None:
        metadata = {} if cell is None else {"cellId": cell}
        self._add(Kind.REQUEST, "execute_request", msg_id, "", {"code": code, "silent": False, **content}, metadata)

    def say(self, parent: str, kind: str, **content: Any) -> None:
        self._add(Kind.IOPUB, kind, f"m{len(self.records) + 1}", parent, content)

    def status(self, parent: str, state: str) -> None:
        self.say(parent, "status", execution_state=state)

    def reply(self, parent: str, status: str = "ok", **content: Any) -> None:
        self._add(Kind.SHELL, "execute_reply", "r", parent, {"status": status, **content})

    def begin(self, msg_id: str, cell: str, count: int = 1) -> None:
        self.ask(msg_id, cell)
        self.status(msg_id, "busy")
        self.say(msg_id, "execute_input", code="x", execution_count=count)

    def end(self, msg_id: str, status: str = "ok", count: int = 1) -> None:
        self.reply(msg_id, status, execution_count=count)
        self.status(msg_id, "idle")

    def stream(self, parent: str, text: str, name: str = "stdout") -> None:
        self.say(parent, "stream", name=name, text=text)

    def display(self, parent: str, text: str, display_id: str = "", kind: str = "display_data", **more: Any) -> None:
        transient = {"display_id": display_id} if display_id else {}
        self.say(parent, kind, data={"text/plain": text}, metadata={}, transient=transient, **more)

    def runs(self, after: str = "", **options: Any) -> CellRuns:
        last = len(self.records)
        return cell_runs(self.records, **{"journal": "j", "first": 1, "last": last, "after": after, **options})

    def run(self, cell: str = "c", **options: Any) -> CellRun:
        (found,) = (each for each in self.runs(**options).cells if each.cell_id == cell)
        return found

    def texts(self, cell: str = "c") -> list[str]:
        """What the cell shows, shortened."""
        return [
            output["name"][3:] + ":" + output["text"] if output["output_type"] == "stream"
            else output["ename"] if output["output_type"] == "error" else output["data"]["text/plain"]
            for output in self.run(cell).outputs
        ]  # fmt: skip

    def _add(self, kind: Kind, msg_type: str, msg_id: str, parent: str, content: Any, metadata: Any = None) -> None:
        number = len(self.records) + 1
        header = {"msg_id": msg_id, "msg_type": msg_type, "session": "s"}
        parent_header = {"msg_id": parent} if parent else {}
        parts = (b"", *(json.dumps(part).encode() for part in (header, parent_header, metadata or {}, content)))
        self.records.append(Record(kind, number, number * 1_000_000, parts))


def test_a_cell_from_its_request_to_its_end() -> None:
    journal = Journal()
    journal.ask("a", "c", code="f()")
    assert (journal.run().status, journal.run().started_s, journal.run().execution_count) == ("waiting", None, None)
    journal.status("a", "busy")
    journal.say("a", "execute_input", code="f()", execution_count=7)
    assert (journal.run().status, journal.run().ended_s) == ("running", None)
    assert journal.run().recent_ids == ["m3"]
    journal.stream("a", "hello\n")
    journal.display("a", "42", kind="execute_result", execution_count=7)
    journal.end("a", count=7)
    run = journal.run()
    assert run == CellRun(
        cell_id="c", msg_id="a", number=1, last=7, code="f()", execution_count=7, asked_s=1.0, started_s=2.0,
        ended_s=7.0, status="ok",
        outputs=[
            {"output_type": "stream", "name": "stdout", "text": "hello\n"},
            {"output_type": "execute_result", "data": {"text/plain": "42"}, "metadata": {}, "execution_count": 7},
        ],
    )  # fmt: skip
    cell = nbformat.v4.new_code_cell("f()", outputs=[nbformat.from_dict(each) for each in run.outputs])
    nbformat.validate(nbformat.v4.new_notebook(cells=[cell]))


def test_streams_are_merged_while_nothing_comes_between() -> None:
    journal = Journal()
    journal.begin("a", "c")
    for text, name in (("1", "stdout"), ("2", "stdout"), ("3", "stderr"), ("4", "stdout"), ("", "stdout")):
        journal.stream("a", text, name)
    assert journal.texts() == ["out:12", "err:3", "out:4"]
    journal.display("a", "figure")
    journal.stream("a", "5")
    assert journal.texts() == ["out:12", "err:3", "out:4", "figure", "out:5"]


def test_an_error_is_an_output_and_the_status() -> None:
    journal = Journal()
    journal.begin("a", "c")
    journal.stream("a", "1")
    journal.say("a", "error", ename="E", evalue="why", traceback=["line 1", "line 2"])
    journal.end("a", "error")
    assert journal.run().status == "error"
    error = {"output_type": "error", "ename": "E", "evalue": "why", "traceback": ["line 1", "line 2"]}
    assert journal.run().outputs[-1] == error


def test_an_aborted_cell_never_ran() -> None:
    journal = Journal()
    journal.ask("a", "c")
    journal.status("a", "busy")
    journal.reply("a", "aborted", execution_count=3)
    journal.status("a", "idle")
    run = journal.run()
    assert (run.status, run.execution_count, run.outputs) == ("aborted", None, [])


def test_clear_output_at_once_and_with_what_comes_next() -> None:
    journal = Journal()
    journal.begin("a", "c")
    journal.stream("a", "1")
    journal.say("a", "clear_output", wait=True)
    assert journal.texts() == ["out:1"]
    journal.stream("a", "2")
    assert journal.texts() == ["out:2"]
    journal.stream("a", "3")
    assert journal.texts() == ["out:23"]
    journal.say("a", "clear_output", wait=False)
    assert journal.texts() == []
    journal.stream("a", "4")
    journal.say("a", "clear_output", wait=True)
    journal.say("a", "error", ename="E", evalue="", traceback=[])
    assert journal.texts() == ["E"]


def test_a_display_is_updated_wherever_it_is_shown() -> None:
    journal = Journal()
    journal.begin("a", "c")
    journal.display("a", "old", "d")
    journal.stream("a", "1")
    journal.display("a", "old", "d")
    journal.display("a", "other", "e")
    journal.end("a")
    journal.begin("b", "later", 2)
    journal.display("b", "old", "d", kind="execute_result", execution_count=2)
    before = len(journal.records)
    assert [each.cell_id for each in journal.runs(str(before)).cells] == []
    journal.display("b", "new", "d", kind="update_display_data")
    assert journal.texts() == ["new", "out:1", "new", "other"]
    assert journal.texts("later") == ["new"]
    assert journal.run().display_ids == {"d": [0, 2], "e": [3]}
    # A cell that has ended long ago is news when its display changes.
    assert [each.cell_id for each in journal.runs(str(before)).cells] == ["c", "later"]
    # An update shows nothing by itself, and what was cleared is not updated.
    journal.display("b", "x", "unknown", kind="update_display_data")
    journal.say("b", "clear_output", wait=False)
    journal.display("b", "newer", "d", kind="update_display_data")
    assert journal.texts("later") == []
    assert journal.texts() == ["newer", "out:1", "newer", "other"]


def test_an_output_widget_takes_outputs_while_its_state_says_so() -> None:
    journal = Journal()
    journal.begin("a", "c")
    journal.say(
        "a", "comm_open", comm_id="w", target_name="jupyter.widget", data={"state": {"_model_name": "OutputModel"}}
    )
    journal.say(
        "a", "comm_open", comm_id="v", target_name="jupyter.widget", data={"state": {"_model_name": "IntSlider"}}
    )
    journal.stream("a", "1")
    journal.say("a", "comm_msg", comm_id="v", data={"method": "update", "state": {"msg_id": "a"}})
    journal.say("a", "comm_msg", comm_id="w", data={"method": "update", "state": {"msg_id": "a"}})
    journal.stream("a", "into the widget")
    journal.say("a", "comm_msg", comm_id="w", data={"method": "update", "state": {"msg_id": ""}})
    journal.stream("a", "2")
    assert journal.texts() == ["out:12"]
    journal.say("a", "comm_msg", comm_id="w", data={"method": "update", "state": {"msg_id": "a"}})
    journal.say("a", "comm_close", comm_id="w", data={})
    journal.stream("a", "3")
    assert journal.texts() == ["out:123"]


def test_the_newest_execution_of_a_cell_counts_in_the_order_of_requests() -> None:
    journal = Journal()
    journal.begin("a", "c")
    journal.stream("a", "first")
    journal.ask("b", "d")
    journal.end("a")
    journal.begin("e", "c", 3)
    journal.stream("a", "late, of the first")
    journal.stream("e", "second")
    assert [(each.cell_id, each.msg_id) for each in journal.runs().cells] == [("d", "b"), ("c", "e")]
    assert journal.texts() == ["out:second"]


def test_only_what_has_news_behind_a_number_or_a_request_is_told() -> None:
    journal = Journal()
    journal.begin("a", "c")
    journal.ask("b", "d")
    journal.end("a")
    whole = journal.runs()
    assert (whole.first, whole.last, whole.whole) == (1, 6, True)
    assert [each.cell_id for each in whole.cells] == ["c", "d"]
    assert [each.cell_id for each in journal.runs("4").cells] == ["c"]
    assert journal.runs("6").cells == ()
    # Behind the idle status of a request; behind the request itself while it has none.
    journal.status("b", "busy")
    assert [each.cell_id for each in journal.runs("a").cells] == ["d"]
    assert [each.cell_id for each in journal.runs("b").cells] == ["c", "d"]
    journal.end("b", count=2)
    assert journal.runs("b").cells == ()
    assert journal.runs("b").whole
    # Reply and idle status come in any order.
    journal.begin("f", "e", 3)
    journal.status("f", "idle")
    journal.reply("f", execution_count=3)
    assert journal.runs("f").cells == ()
    del journal.records[-5:]
    unknown = journal.runs("nobody")
    assert (unknown.whole, len(unknown.cells)) == (False, 2)
    other = journal.runs("6", of="another")
    assert (other.whole, len(other.cells)) == (False, 2)
    assert journal.runs("6", of="j").whole


def test_what_was_dropped_is_admitted() -> None:
    journal = Journal()
    journal.begin("a", "c")
    journal.stream("a", "kept")
    records = journal.records[3:]
    for after, whole in (("", False), ("2", False), ("3", True), ("4", True)):
        assert cell_runs(records, journal="j", first=4, last=4, after=after).whole is whole, after
    # Outputs of a request that is gone belong to nobody.
    assert cell_runs(records, journal="j", first=4, last=4).cells == ()


def test_requests_without_a_cell_and_silent_ones_are_left_out() -> None:
    journal = Journal()
    journal.ask("a")
    journal.ask("b", "c", silent=True)
    journal.ask("d", 5)
    journal.ask("e", "")
    journal.ask("f", "x" * 1000)
    for parent in "abdef":
        journal.stream(parent, "nothing to see")
    assert journal.runs().cells == ()
    assert journal.runs("a").whole  # a place in the journal it is all the same


def test_too_much_is_left_out_the_oldest_first_and_its_size_told() -> None:
    journal = Journal()
    for number, cell in enumerate("abc", start=1):
        journal.begin(cell, cell, number)
        journal.stream(cell, cell * 1000)
        journal.stream(cell, cell * 1000)
        journal.end(cell, count=number)
    runs = {each.cell_id: each for each in journal.runs(most_bytes=4500).cells}
    assert [len(each.outputs) for each in runs.values()] == [0, 1, 1]
    assert runs["a"].dropped_bytes > 2000
    assert runs["a"].status == "ok"
    assert runs["b"].dropped_bytes == runs["c"].dropped_bytes == 0
    assert runs["c"].outputs[0]["text"] == "c" * 2000


def test_a_display_that_is_updated_often_is_not_too_much() -> None:
    journal = Journal()
    journal.begin("a", "c")
    journal.display("a", "0", "bar")
    for step in range(1000):
        journal.display("a", str(step), "bar", kind="update_display_data")
    assert journal.run(most_bytes=2000).outputs[0]["data"] == {"text/plain": "999"}


def test_a_cell_that_clears_what_was_too_much_is_shown_again() -> None:
    journal = Journal()
    journal.begin("a", "c")
    for _ in range(20):
        journal.stream("a", "x" * 1000)
    assert journal.run(most_bytes=5000).dropped_bytes > 20_000
    journal.say("a", "clear_output", wait=True)
    journal.stream("a", "after all")
    run = journal.run(most_bytes=5000)
    assert (run.dropped_bytes, run.outputs[0]["text"]) == (0, "after all")


def test_messages_that_are_in_the_outputs_of_a_running_cell_can_be_told() -> None:
    journal = Journal()
    journal.begin("a", "c")
    for _ in range(RECENT_IDS + 5):
        journal.stream("a", "x")
    ids = journal.run().recent_ids
    assert len(ids) == RECENT_IDS
    assert ids[-1] == f"m{len(journal.records)}"
    journal.end("a")
    assert journal.run().recent_ids == []


def test_a_kernel_may_say_what_is_no_message() -> None:
    journal = Journal()
    journal.begin("a", "c")
    journal.say("a", "stream")  # no text
    journal.say("a", "display_data", data=3)
    journal.say("a", "update_display_data")
    journal.say("a", "status")
    journal.say("a", "comm_msg", data=[1])
    broken = (b"", b"{", b"[", b"", b"")
    for kind in (Kind.IOPUB, Kind.SHELL, Kind.REQUEST, Kind.NOTICE, Kind.STDIN):
        journal.records.append(Record(kind, len(journal.records) + 1, 0, broken))
    journal.stream("a", "sound")
    assert journal.texts() == ["out:sound"]


@given(st.lists(st.sampled_from(["out", "err", "show", "clear", "clear wait", "update"]), max_size=25), st.data())
def test_any_end_of_the_journal_gives_what_the_messages_until_then_give(steps: list[str], data: st.DataObject) -> None:
    """Reading on after a look gives the same as reading once: a look changes nothing."""
    journal = Journal()
    journal.begin("a", "c")
    for number, step in enumerate(steps):
        if step in ("out", "err"):
            journal.stream("a", f"{number};", f"std{step}")
        elif step == "show":
            journal.display("a", str(number), "d")
        elif step == "update":
            journal.display("a", str(number), "d", kind="update_display_data")
        else:
            journal.say("a", "clear_output", wait=step == "clear wait")
    expected: list[list[str]] = []  # each output: its kind and pieces
    pending = False
    for number, step in enumerate(steps):
        if step.startswith("clear"):
            pending = step == "clear wait"
            expected = expected if pending else []
        elif step == "update":
            expected = [["show", str(number)] if each[0] == "show" else each for each in expected]
        else:
            expected, pending = ([] if pending else expected), False
            text = str(number) if step == "show" else f"{number};"
            if step != "show" and expected and expected[-1][0] == step:
                expected[-1].append(text)
            else:
                expected.append([step, text])
    names = {"show": "", "out": "out:", "err": "err:"}
    assert journal.texts() == [names[each[0]] + "".join(each[1:]) for each in expected]
