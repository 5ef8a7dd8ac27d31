"""The requests of one client, on their way: passed on, answered, ended, failed when no answer can come any more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import TransportError
from ..lifecycle.node_loss import CELLS_TOLD, ENAME, broken_words, lost_cells, notice
from ..model import Channel
from .after_loss import KINDS, Key, fate
from .channel import Channel as SessionChannel
from .channel import Resend
from .jupyter import read_count, read_header
from .record import Kind, Record
from .waiting import Held

#: How the topics of messages end that say that a request has begun.
BEGINS = (b"status", b"execute_input")
#: So many of the newest that were answered are remembered until they have ended. Some never do.
ANSWERED_KEPT = 100
#: What front ends ask without their user: no reason to wake a parked session.
ASKED_BY_ITSELF = frozenset({"kernel_info_request", "comm_info_request", "history_request", "usage_request"})
UNREACHABLE = "RemoteUnreachable"


class Requests:
    """Requests that were sent and not answered: to answer them if the session ends, or to send cells again if it comes
    back without knowing of them. Cells are whole, as far as the bound allows; of others only the header is kept.
    Of those that were answered it is kept until they have ended, as clients wait for that, too.

    Parameters
    ----------
    failed
        Answers a request, with the name of an error and the reason.
    ended
        Says of a request that was answered that it has ended.
    tell
        Says something in the notebook.
    """

    def __init__(
        self,
        channel: SessionChannel,
        failed: Callable[[Held, str, str], None],
        ended: Callable[[Held], None],
        *,
        tell: Callable[[str], None],
        most_bytes: int,
    ) -> None:
        self._channel = channel
        self._failed = failed
        self._ended = ended
        self._tell = tell
        #: Execution counts of cells whose answers came, in this order: what a lost journal cannot tell any more.
        self._answered_cells: deque[int] = deque(maxlen=CELLS_TOLD)
        self._most_bytes = most_bytes
        self._unanswered: dict[Key, Held] = {}
        #: Answered, and not ended.
        self._unended: dict[Key, Held] = {}
        self._bytes = 0

    def send(self, held: Held) -> None:
        """Pass a request on; one that is not taken fails."""
        try:
            held.serial = self._channel.send(KINDS[held.channel], [held.address, *held.parts])
        except TransportError as error:
            self._failed(held, UNREACHABLE, str(error))
            return
        if held.msg_type.endswith("_request"):
            size = sum(len(part) for part in held.parts)
            if held.msg_type != "execute_request" or self._bytes + size > self._most_bytes:
                held.parts = held.parts[:1]
            else:
                self._bytes += size
            self._unanswered[held.channel, held.msg_id] = held

    def heard(self, record: Record, *, passed_over: bool = False) -> None:
        """A record of the session came; it may be an answer, or say that a request has begun or ended.

        Parameters
        ----------
        passed_over
            Whoever has asked does not get it now: it comes again, as long as there is its journal.
        """
        if record.kind in (Kind.SHELL, Kind.CONTROL):
            channel = Channel.SHELL if record.kind is Kind.SHELL else Channel.CONTROL
            key = (channel, read_header(record.parts[2]).msg_id)
            held = self._answered(key)
            if held is not None:
                self._channel.answered(held.serial)
                if not held.ended:
                    self._keep_unended(key, held)
            if read_header(record.parts[1]).msg_type == "execute_reply" and (count := read_count(record.parts[4])):
                self._answered_cells.append(count)
        elif record.kind is Kind.IOPUB and (self._unanswered or self._unended):
            topic = bytes(record.parts[0])
            if topic.endswith(BEGINS):
                ends = not passed_over and topic.endswith(b"status") and b'"idle"' in bytes(record.parts[4])
                self._goes_on(read_header(record.parts[2]).msg_id, ends=ends)

    def host_lost(self, welcome: dict[str, Any], kept: frozenset[int], *, anew: bool) -> Resend:
        """See ``ChannelHandler.host_lost``."""
        policy, cell = str(welcome.get("on_node_loss", "ask")), welcome.get("restored_cell")
        self._end(cells=anew)  # else the host, which has the journal, ends them
        found = fate(self._unanswered, kept, anew=anew, policy=policy)
        for key in found.broken:
            self._fail(key, broken_words(policy, cell))
        for key in found.unheard:
            self._fail(key, "the host of this session was lost; ask again.")
        lost = lost_cells(self._answered_cells, cell)
        self._answered_cells.clear()
        if anew:
            if lost:  # the host tells of a loss as well, and cannot know of them
                self._tell(notice(lost, cell))
            for held in self._unanswered.values():
                held.begun = held.ended = False
        return Resend(found.drop, found.before)

    def fail(self, ename: str, why: str) -> None:
        """Nothing more will come."""
        self._end(cells=True)
        for held in self._unanswered.values():
            self._failed(held, ename, why)
        self._unanswered.clear()
        self._bytes = 0

    def _goes_on(self, msg_id: str, *, ends: bool) -> None:
        """A request has begun, and ends perhaps; its reply, on another of the kernel's sockets, may come later."""
        for key in ((Channel.SHELL, msg_id), (Channel.CONTROL, msg_id)):
            held = self._unanswered.get(key)
            if held is not None:
                held.begun, held.ended = True, held.ended or ends
            if ends:
                self._unended.pop(key, None)

    def _keep_unended(self, key: Key, held: Held) -> None:
        held.parts = held.parts[:1]
        self._unended[key] = held
        if len(self._unended) > ANSWERED_KEPT:
            del self._unended[next(iter(self._unended))]

    def _end(self, *, cells: bool) -> None:
        """Nobody else says of these that they have ended; with ``cells``, of cells neither."""
        for key, held in list(self._unended.items()):
            if cells or held.msg_type != "execute_request":
                del self._unended[key]
                self._ended(held)

    def _fail(self, key: Key, why: str) -> None:
        held = self._answered(key)
        if held is not None:
            self._failed(held, ENAME, why)

    def _answered(self, key: Key) -> Held | None:
        held = self._unanswered.pop(key, None)
        if held is not None and len(held.parts) > 1:
            self._bytes -= sum(len(part) for part in held.parts)
        return held
