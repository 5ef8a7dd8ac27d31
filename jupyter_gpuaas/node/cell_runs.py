"""A journal as cells with their outputs: what a front end puts into a document that was not there to hear them.

Records in, facts out. The rules are those by which JupyterLab itself makes outputs of messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from ..model import CellRun, CellRuns
from ..wire.jupyter import read_header, read_json
from ..wire.record import Kind, Record, RecordReader
from .journal import JournalCopy

#: Outputs that one answer may hold; the newest cells' are kept.
MOST_BYTES = 32 * 1024**2
#: Of a cell that runs: so many of the newest messages can be told from those that a client hears live.
RECENT_IDS = 2000
#: Most bytes of a string that names something of a client's.
MOST_ID_BYTES = 512

DISPLAYS = {"display_data", "execute_result"}


class _Run:
    """One execution while its records are read."""

    def __init__(self, cell_id: str, msg_id: str, record: Record, code: str) -> None:
        self.cell_id = cell_id
        self.msg_id = msg_id
        self.number = self.last = record.number
        self.asked_us = record.time_us
        self.code = code
        self.count: int | None = None
        self.started_us = self.ended_us = 0
        self.reply = ""
        self.outputs: list[dict[str, Any]] = []
        self._sizes: list[int] = []
        #: Size of what was dropped; while it is not 0, nothing is held.
        self.dropped_bytes = 0
        self.display_ids: dict[str, list[int]] = {}
        self.recent: deque[str] = deque(maxlen=RECENT_IDS)
        self._clear_first = False
        self._stream: list[str] = []  # pieces of the last output, while that is a stream

    def clear(self, *, wait: bool) -> None:
        self._clear_first = wait
        if not wait:
            self._forget()
            self.dropped_bytes = 0

    def add(self, output: dict[str, Any], size: int, display_id: str = "") -> None:
        if self._clear_first:
            self.clear(wait=False)
        if self.dropped_bytes:
            self.dropped_bytes += size
            return
        if output["output_type"] == "stream":
            last = self.outputs[-1] if self.outputs else {}
            if self._stream and last.get("name") == output["name"]:
                self._stream.append(output["text"])
                self._sizes[-1] += size
                return
        self.close_stream()
        if output["output_type"] == "stream":
            self._stream = [output["text"]]
        if display_id:
            self.display_ids.setdefault(display_id, []).append(len(self.outputs))
        self.outputs.append(output)
        self._sizes.append(size)

    def update(self, display_id: str, data: Any, metadata: Any, number: int, size: int) -> None:
        """Replace what is shown under a display id."""
        for place in self.display_ids.get(display_id, ()):
            self.outputs[place]["data"], self.outputs[place]["metadata"] = data, metadata
            self._sizes[place] = size
            self.last = number

    def close_stream(self) -> None:
        """The last output's text is complete so far."""
        if self._stream:
            text = "".join(self._stream)
            self.outputs[-1]["text"] = text
            self._stream = []

    def drop(self) -> None:
        """Hold no outputs any more, and none that follow."""
        self.dropped_bytes += self.held_bytes
        self._forget()

    def _forget(self) -> None:
        self.outputs, self._sizes, self._stream, self.display_ids = [], [], [], {}

    @property
    def held_bytes(self) -> int:
        """Size of the outputs."""
        return sum(self._sizes)

    @property
    def status(self) -> str:
        if self.reply:
            return self.reply
        if self.ended_us:
            return "ok"
        return "running" if self.started_us else "waiting"

    def view(self) -> CellRun:
        stream, self._stream = self._stream, []
        if stream:  # joined, and gone on with
            self._stream = ["".join(stream)]
            self.outputs[-1]["text"] = self._stream[0]
        return CellRun(
            cell_id=self.cell_id,
            msg_id=self.msg_id,
            number=self.number,
            last=self.last,
            code=self.code,
            execution_count=self.count,
            asked_s=self.asked_us / 1e6,
            started_s=self.started_us / 1e6 if self.started_us else None,
            ended_s=self.ended_us / 1e6 if self.ended_us else None,
            status=self.status,
            outputs=self.outputs,
            display_ids=self.display_ids,
            dropped_bytes=self.dropped_bytes,
            recent_ids=[] if self.ended_us else list(self.recent),
        )


class CellLog:
    """Takes a journal's records in order and knows the newest execution of each cell.

    Parameters
    ----------
    most_bytes
        Outputs held at a time; when there are more, the oldest cells' are dropped.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._runs: dict[str, _Run] = {}  # by msg_id, oldest request first
        self._of_cell: dict[str, str] = {}
        #: msg_id of any request -> number of itself; once it is idle, of what came last of idle status and reply.
        self._marks: dict[str, int] = {}
        self._idle: set[str] = set()
        #: At least the size of all outputs; counted again when it says too much.
        self._most_held_bytes = 0
        self._widgets: dict[str, str] = {}  # comm id of an Output widget -> msg_id whose outputs it takes

    def take(self, record: Record) -> None:
        """The next record; what is not a message as Jupyter has it is passed over."""
        try:
            if record.kind is Kind.REQUEST:
                self._asked(record)
            elif record.kind is Kind.IOPUB:
                self._said(record)
            elif record.kind is Kind.SHELL:
                self._answered(record)
        except (msgspec.MsgspecError, ValueError, LookupError, TypeError, AttributeError):
            return  # A kernel may say anything.

    def number_of(self, msg_id: str) -> int | None:
        """Behind which record lies what came after this request; None for one that is not known."""
        return self._marks.get(msg_id)

    def since(self, after: int) -> tuple[CellRun, ...]:
        """Cells with a record behind ``after``, in the order in which they were asked for."""
        self.keep_bound()
        return tuple(run.view() for run in self._runs.values() if run.last > after)

    # -- records -----------------------------------------------------------------------------------------------

    def _asked(self, record: Record) -> None:
        msg_id = read_header(record.parts[1]).msg_id
        self._marks[msg_id] = record.number
        cell_id = read_json(record.parts[3]).get("cellId")
        content = read_json(record.parts[4])
        if not isinstance(cell_id, str) or not 0 < len(cell_id) <= MOST_ID_BYTES or content.get("silent"):
            return
        self._runs.pop(self._of_cell.get(cell_id, ""), None)
        self._of_cell[cell_id] = msg_id
        self._runs[msg_id] = _Run(cell_id, msg_id, record, str(content["code"]))

    def _answered(self, record: Record) -> None:
        parent = read_header(record.parts[2]).msg_id
        if parent in self._idle:  # the two come on different sockets
            self._marks[parent] = record.number
        run = self._runs.get(parent)
        if run is None or read_header(record.parts[1]).msg_type != "execute_reply":
            return
        content = read_json(record.parts[4])
        run.reply, run.last = str(content["status"]), record.number
        if run.reply != "aborted":
            run.count = content.get("execution_count") or run.count

    def _said(self, record: Record) -> None:
        header = read_header(record.parts[1])
        kind, parent = header.msg_type, read_header(record.parts[2]).msg_id
        if kind in ("comm_open", "comm_msg", "comm_close"):
            self._widget(kind, read_json(record.parts[4]))
            return
        run = self._runs.get(parent)
        if kind == "status":
            idle = read_json(record.parts[4])["execution_state"] == "idle"
            if idle and parent in self._marks:
                self._marks[parent] = record.number
                self._idle.add(parent)
            if run is not None:
                run.last = record.number
                if idle:
                    run.ended_us = record.time_us
                elif not run.started_us:
                    run.started_us = record.time_us
            return
        if kind == "update_display_data":
            self._updated(read_json(record.parts[4]), record)
        if run is not None and parent not in self._widgets.values():
            self._output(run, kind, read_json(record.parts[4]), len(record.parts[4]))
            run.last = record.number
            run.recent.append(header.msg_id)
        self._most_held_bytes += len(record.parts[4])
        if self._most_held_bytes > 2 * self._most_bytes:
            self.keep_bound()

    def _output(self, run: _Run, kind: str, content: dict[str, Any], size: int) -> None:
        if kind == "execute_input":
            run.count = content["execution_count"]
        elif kind == "clear_output":
            run.clear(wait=bool(content.get("wait")))
        elif kind == "stream":
            text = str(content["text"])
            run.add({"output_type": "stream", "name": str(content["name"]), "text": text}, size)
        elif kind in DISPLAYS:
            output: dict[str, Any] = {
                "output_type": kind,
                "data": dict(content["data"]),
                "metadata": dict(content.get("metadata") or {}),
            }
            if kind == "execute_result":
                output["execution_count"] = content.get("execution_count")
            run.add(output, size, _display_id(content))
        elif kind == "error":
            error = {name: str(content.get(name, "")) for name in ("ename", "evalue")}
            traceback = [str(line) for line in content.get("traceback") or ()]
            run.add({"output_type": "error", **error, "traceback": traceback}, size)

    def _updated(self, content: dict[str, Any], record: Record) -> None:
        display_id = _display_id(content)
        data, metadata = dict(content["data"]), dict(content.get("metadata") or {})
        for run in self._runs.values():
            if display_id in run.display_ids:
                run.update(display_id, data, metadata, record.number, len(record.parts[4]))

    def _widget(self, kind: str, content: dict[str, Any]) -> None:
        """An ``Output`` widget takes the outputs of the request that its state names."""
        comm = str(content["comm_id"])
        state = content.get("data", {}).get("state") or {}
        opens = kind == "comm_open" and state.get("_model_name") == "OutputModel"
        if kind == "comm_close":
            self._widgets.pop(comm, None)
        elif (opens or comm in self._widgets) and "msg_id" in state:
            self._widgets[comm] = str(state["msg_id"])
        elif opens:
            self._widgets[comm] = ""

    def keep_bound(self) -> None:
        """Drop outputs, the oldest cells' first, until what is held is within the bound."""
        held = sum(run.held_bytes for run in self._runs.values())
        for run in self._runs.values():
            if held <= self._most_bytes:
                break
            held -= run.held_bytes
            run.drop()
        self._most_held_bytes = held


def _display_id(content: dict[str, Any]) -> str:
    found = (content.get("transient") or {}).get("display_id")
    return found if isinstance(found, str) else ""


def cell_runs(
    records: Iterable[Record],
    *,
    journal: str,
    first: int,
    last: int,
    after: str = "",
    of: str = "",
    most_bytes: int = MOST_BYTES,
) -> CellRuns:
    """The cells of a journal behind a place in it.

    Parameters
    ----------
    records
        All that are kept, ``first`` to ``last``.
    after
        A number, the ``msg_id`` of a request, or empty for everything.
    of
        The journal that ``after`` is a number of; empty means this one.
    """
    log = CellLog(most_bytes)
    for record in records:
        log.take(record)
    if of and of != journal:
        number, whole = 0, False
    elif not after:
        number, whole = 0, first <= 1
    elif after.isdecimal():
        number = int(after)
        whole = first <= number + 1
    else:
        known = log.number_of(after)
        number, whole = known or 0, known is not None
    return CellRuns(journal=journal, first=first, last=last, whole=whole, cells=log.since(number))


def runs_of(copy: JournalCopy, message_bytes: int, *, after: str, of: str) -> CellRuns:
    """The same, read from a copy of all of a journal; blocks."""
    reader = RecordReader(message_bytes)
    records = (record for piece in copy.pieces() for record in reader.feed(piece))
    return cell_runs(records, journal=copy.journal, first=copy.first, last=copy.last, after=after, of=of)
