"""Bringing the journal to Jupyter clients: in order, at their pace, and acknowledged only when they have it."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from typing import Protocol

import msgspec

from ..model import Channel
from ..wire.jupyter import make_parts, read_header
from ..wire.record import Buffer, Kind, Record
from .front import Front, unsent_bytes

RETRY_S = 0.01
#: A reply whose client has not connected in this time is given up; a client that returns asks anew.
REPLY_PATIENCE_S = 60.0
CLIENTS_KNOWN = 64
CHANNELS = {Kind.SHELL: Channel.SHELL, Kind.CONTROL: Channel.CONTROL, Kind.STDIN: Channel.STDIN}


class Flow(Protocol):
    """The channel, as a delivery needs it."""

    def rewind(self, number: int) -> None: ...

    def acknowledge(self, number: int) -> None: ...


class Delivery:
    """Takes records as they come and hands them to the front.

    A client that stalls on iopub must still get its replies, which come in the same stream. So the stream is always
    read: outputs beyond what is held here are passed over, and read again when the client has caught up.

    Parameters
    ----------
    ack_delay_s
        A record is acknowledged when it was handed over this long ago and no socket holds unsent bytes.
    most_records, most_bytes
        Bounds of what is held here.
    """

    def __init__(self, front: Front, flow: Flow, ack_delay_s: float, *, most_records: int, most_bytes: int) -> None:
        self._front = front
        self._flow = flow
        self._ack_delay_s = ack_delay_s
        self._most_records = most_records
        self._most_bytes = most_bytes
        self._loop = asyncio.get_running_loop()
        self._outputs: deque[Record] = deque()
        self._outputs_bytes = 0
        self._replies: deque[tuple[float, Record]] = deque()  # whose client is not there (yet)
        self._handed: deque[tuple[float, int]] = deque()
        #: Number of the first output that was passed over; 0 when none is.
        self._passed_over = 0
        self._answered: set[int] = set()  # replies that were taken and not acknowledged; after a rewind they come again
        self._acknowledged = 0
        self._in_flight_bytes = 0  # handed over since all sockets were last seen empty
        self._retry: asyncio.TimerHandle | None = None
        self._ack: asyncio.TimerHandle | None = None
        #: The prompt that nobody has answered: header, parent, metadata, content.
        self._prompt: list[Buffer] | None = None
        self._asked: set[bytes] = set()
        self._to_ask: list[bytes] = []
        self._ask_until_s = 0.0
        self._clients: dict[bytes, None] = {}  # addresses that have sent something, latest last
        #: Number of the last record that came.
        self.last = 0
        #: Records up to this number may have reached the clients by a former proxy of this session.
        self.maybe_delivered = 0
        self._delivery_id = os.urandom(6).hex()

    def take(self, record: Record) -> bool:
        """The next record of the journal; False when it is passed over, and comes again."""
        self.last = record.number
        if record.kind is Kind.NOTICE:
            gap = msgspec.json.decode(record.parts[0])
            text = (
                f"\n[remote GPU] {gap['last'] - gap['first'] + 1} messages were dropped here: nobody took them, "
                "and the journal of this session was full (setting journal_bytes).\n"
            )
            parts = make_parts(b"stream.stderr", "stream", b"{}", {"name": "stderr", "text": text})
            record = Record(Kind.IOPUB, record.number, record.time_us, tuple(parts))
        elif record.number <= self.maybe_delivered and record.kind in (*CHANNELS, Kind.IOPUB):
            record = self._marked(record)
        taken = True
        if record.kind is Kind.IOPUB:
            taken = self._output(record)
        elif record.kind in CHANNELS and record.number not in self._answered:
            self._answered.add(record.number)
            if record.kind is Kind.STDIN:
                # The client whose cell wants input; where it is gone, those that have come since.
                self._prompt, self._asked = list(record.parts[1:]), set()
                self._ask(bytes(record.parts[0]), *reversed(self._clients))
            elif not self._reply(record):
                self._replies.append((time.monotonic() + REPLY_PATIENCE_S, record))
                self._retry_later()
        self._acknowledge_later()
        return taken

    def say(self, topic: Buffer, parts: list[Buffer]) -> None:
        """Publish something of our own, behind the outputs that wait."""
        self._queue(Record(Kind.IOPUB, 0, 0, (topic, *parts)))

    def _output(self, record: Record) -> bool:
        if self._passed_over:
            return False
        if self._outputs and (len(self._outputs) >= self._most_records or self._outputs_bytes > self._most_bytes):
            self._passed_over = record.number
            return False
        self._queue(record)
        return True

    def _queue(self, record: Record) -> None:
        self._outputs.append(record)
        self._outputs_bytes += record.body_bytes
        if len(self._outputs) == 1:
            self._publish()

    def begin_anew(self) -> None:
        """What comes next is of another journal. What came of the former one and waits is still handed over."""
        self._outputs = deque(_unnumbered(record) for record in self._outputs)
        self._replies = deque((until, _unnumbered(record)) for until, record in self._replies)
        self._handed.clear()
        self._answered.clear()
        self.last = self.maybe_delivered = self._acknowledged = self._passed_over = 0
        self._prompt = None

    def subscribed(self) -> None:
        """Somebody listens on iopub now."""
        self._publish()

    def unsubscribed(self) -> None:
        """Nobody listens any more: what ZMQ still held for the last one is gone and is taken from the journal again."""
        if self.last > self._acknowledged:
            self.maybe_delivered = max(self.maybe_delivered, self.last)
            self._outputs.clear()
            self._handed.clear()
            self._outputs_bytes = self._in_flight_bytes = self._passed_over = 0
            self.last = self._acknowledged
            self._flow.rewind(self.last)

    def client_spoke(self, address: bytes) -> None:
        """A client has sent a request; if it is a new one, it is asked what nobody has answered."""
        self._clients.pop(address, None)
        self._clients[address] = None
        if len(self._clients) > CLIENTS_KNOWN:
            del self._clients[next(iter(self._clients))]
        if self._prompt is not None and address not in self._asked:
            self._ask(address)

    def _ask(self, *addresses: bytes) -> None:
        """Ask the first of these who is there; a client's socket for it may connect later than the one it spoke on."""
        self._to_ask = [*addresses, *(other for other in self._to_ask if other not in addresses)]
        self._ask_until_s = time.monotonic() + REPLY_PATIENCE_S
        if not self._asked_somebody():
            self._retry_later()

    def _asked_somebody(self) -> bool:
        """Whether nobody is left to ask."""
        if self._prompt is None or time.monotonic() > self._ask_until_s:
            self._to_ask = []
        for address in self._to_ask:
            assert self._prompt is not None
            if self._front.reply(Channel.STDIN, address, self._prompt):
                self._asked.add(address)
                self._to_ask = []
                break
        return not self._to_ask

    def close(self) -> None:
        """Hand over nothing more."""
        self._outputs.clear()
        self._replies.clear()
        for timer in (self._retry, self._ack):
            if timer is not None:
                timer.cancel()

    def prompt_answered(self) -> None:
        self._prompt = None

    @property
    def acknowledgeable(self) -> int:
        """Everything up to this number has been handed over."""
        waiting = [record.number for _, record in self._replies]
        waiting += [self._outputs[0].number] if self._outputs else []
        waiting += [self._passed_over] if self._passed_over else []
        return min(waiting) - 1 if waiting else self.last

    def _marked(self, record: Record) -> Record:
        """The message with a mark in its metadata, the same in every other way.

        jupyter_client takes a signature that it has seen for an attack and raises; with the mark, a message that
        comes a second time has the same id and another signature.
        """
        address, header, parent, metadata, *rest = record.parts
        try:
            marked = msgspec.json.decode(metadata) | {"gpuaas_delivery": self._delivery_id}
        except (msgspec.DecodeError, TypeError):
            return record
        parts = (address, header, parent, msgspec.json.encode(marked), *rest)
        return Record(record.kind, record.number, record.time_us, parts)

    def _publish(self) -> None:
        while self._outputs and self._front.subscribers:
            record = self._outputs[0]
            if self._in_flight_bytes > self._most_bytes:
                # ZMQ bounds messages, not bytes: give it no more until what it has is gone.
                if unsent_bytes():
                    self._retry_later()
                    return
                self._in_flight_bytes = 0
            if not self._front.publish(record.parts[0], list(record.parts[1:])):
                self._retry_later()
                return
            self._outputs.popleft()
            self._outputs_bytes -= record.body_bytes
            self._in_flight_bytes += record.body_bytes
        if self._passed_over and not self._outputs:
            number, self._passed_over = self._passed_over, 0
            self.last = number - 1
            self._flow.rewind(self.last)

    def _reply(self, record: Record) -> bool:
        parts = list(record.parts[1:])
        if self._prompt is not None and record.kind is Kind.SHELL:
            if read_header(parts[1]).msg_id == read_header(self._prompt[1]).msg_id:
                self._prompt = None
        return self._front.reply(CHANNELS[record.kind], record.parts[0], parts)

    def _retry_later(self) -> None:
        if self._retry is None:
            self._retry = self._loop.call_later(RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        now = time.monotonic()
        self._replies = deque(
            (until, record) for until, record in self._replies if not self._reply(record) and until > now
        )
        self._publish()
        asked = self._asked_somebody()
        if self._replies or not asked or (self._outputs and self._front.subscribers):
            self._retry_later()

    def _acknowledge_later(self) -> None:
        if self._ack is None:
            self._ack = self._loop.call_later(self._ack_delay_s, self._acknowledge)

    def _acknowledge(self) -> None:
        """Acknowledge what was handed over a while ago; what lies in a socket does not count as arrived."""
        self._ack = None
        now = time.monotonic()
        number = self.acknowledgeable
        if not self._handed or self._handed[-1][1] < number:
            self._handed.append((now, number))
        safe = 0
        if unsent_bytes() == 0:
            while self._handed and self._handed[0][0] <= now - self._ack_delay_s:
                safe = self._handed.popleft()[1]
        if safe > self._acknowledged:
            self._acknowledged = safe
            self._answered = {number for number in self._answered if number > safe}
            self._flow.acknowledge(safe)
        if self._handed or self._outputs or self._replies:
            self._acknowledge_later()


def _unnumbered(record: Record) -> Record:
    return Record(record.kind, 0, record.time_us, record.parts)
