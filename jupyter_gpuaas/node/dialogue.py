"""Who asked what, and who gets the answer: the bookkeeping between clients and a kernel, without I/O.

A request runs once, however often it arrives; an answer finds its asker; a prompt that nobody answered is kept for the
next client; when the kernel dies, everybody who waits is told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec
import xxhash

from ..model import AskedRequest, Channel
from ..wire.jupyter import Header, make_parts, read_header, read_subshell
from ..wire.record import Buffer
from ..wire.unreadable import UNREADABLE

Key = tuple[Channel, str]
#: What can be passed on once more is kept until it has begun, if it is no larger.
KEPT_BYTES = 1024**2


class Asked(msgspec.Struct, eq=False):
    """One request under way."""

    address: bytes
    channel: Channel
    header: bytes
    msg_type: str
    #: When it was passed on, its beginning or end was heard of, or it was last asked for, by the monotonic clock.
    since_s: float = 0.0
    #: The kernel has said that it handles it, and that it has done so.
    begun: bool = False
    idle: bool = False
    #: Its reply has come.
    answered: bool = False
    #: All of it, until it has begun.
    parts: list[Buffer] = msgspec.field(default_factory=list)

    @property
    def key(self) -> Key:
        return self.channel, read_header(self.header).msg_id

    @property
    def shell(self) -> str:
        """The shell that it is for; empty is the main one."""
        return read_subshell(self.header) or ""


class Dialogue:
    """Requests under way, those remembered, and the pending prompt.

    Parameters
    ----------
    remembered
        How many ids of requests are kept to recognise one that comes twice.
    """

    def __init__(self, remembered: int) -> None:
        self._remembered = remembered
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        # jupyter_client's manager and client count their messages apart under one session id, so a msg_id is unique
        # on its channel only, and the whole header tells a repetition from a namesake.
        self._asked: dict[Key, Asked] = {}
        self._executing: dict[Key, None] = {}
        #: Answered, and not said to have ended: those who asked wait for that as well.
        self._ending: dict[Key, Asked] = {}
        #: Parts of the input request that waits for an answer: address, header, parent, metadata, content.
        self.prompt: list[Buffer] | None = None
        self._prompt_parent = ""

    @property
    def busy(self) -> bool:
        """Whether a cell runs or waits to run."""
        return bool(self._executing)

    def accept(self, parts: list[Buffer]) -> Header | None:
        """Look at a request (address, header, ...); None when it has come before and must not go on.

        Raises ``msgspec.MsgspecError`` or ValueError when its header cannot be read.
        """
        header = read_header(parts[1])
        if not header.msg_id:
            raise msgspec.ValidationError("header: has no msg_id")
        digest = xxhash.xxh3_128_digest(parts[1])
        if digest in self._seen:
            return None
        self._seen[digest] = None
        if len(self._seen) > self._remembered:
            self._seen.popitem(last=False)
        return header

    @property
    def seen(self) -> tuple[bytes, ...]:
        """Digests of the requests that have come, oldest first."""
        return tuple(self._seen)

    def remember(self, seen: Iterable[bytes]) -> None:
        """Requests that came to the session's former host."""
        self._seen.update(dict.fromkeys(seen))
        while len(self._seen) > self._remembered:
            self._seen.popitem(last=False)

    @property
    def asked(self) -> tuple[AskedRequest, ...]:
        """What the kernel has not answered yet, oldest first."""
        found = self._asked.values()
        return tuple(AskedRequest(each.address, each.channel, each.header, each.msg_type) for each in found)

    def take_over(self, asked: Iterable[AskedRequest], prompt: Iterable[bytes], now_s: float = 0.0) -> None:
        """Requests that this kernel got at the session's former host, and the prompt that it waits with."""
        for each in asked:
            channel, header = Channel(each.channel), read_header(each.header)
            key = (channel, header.msg_id)
            self._asked[key] = Asked(each.address, channel, each.header, each.msg_type, since_s=now_s)
            if each.msg_type == "execute_request":
                self._executing[key] = None
        parts: list[Buffer] = list(prompt)
        if parts:
            self.prompt, self._prompt_parent = parts, read_header(parts[2]).msg_id

    def passed_on(self, channel: Channel, header: Header, parts: list[Buffer], now_s: float = 0.0) -> None:
        """The kernel has this request now."""
        if channel is Channel.STDIN:
            self.prompt = None
        elif header.msg_type.endswith("_request"):
            key = (channel, header.msg_id)
            kept = parts if channel is Channel.SHELL and sum(map(len, parts)) <= KEPT_BYTES else []
            address, head = bytes(parts[0]), bytes(parts[1])
            self._asked[key] = Asked(address, channel, head, header.msg_type, since_s=now_s, parts=kept)
            if header.msg_type == "execute_request":
                self._executing[key] = None

    def answer(self, channel: Channel, parts: list[Buffer], now_s: float = 0.0) -> list[Buffer]:
        """Put the asker's address before what the kernel said on shell, control or stdin."""
        parent = read_header(parts[1]).msg_id
        key = (Channel.SHELL if channel is Channel.STDIN else channel, parent)
        asked = self._asked.get(key)
        addressed = [asked.address if asked else b"", *parts]
        if channel is Channel.STDIN:
            self.prompt, self._prompt_parent = addressed, parent
        elif asked is not None:
            del self._asked[key]
            self._executing.pop(key, None)
            if channel is Channel.SHELL and not asked.idle:
                asked.answered, asked.since_s, asked.parts = True, now_s, []
                self._ending[key] = asked
            if channel is Channel.SHELL and self._prompt_parent == parent:
                self.prompt = None
        return addressed

    # -- whether the kernel gets on with it ----------------------------------------------------------------------

    @property
    def waits_for_shell(self) -> bool:
        """Whether a shell of the kernel has a request."""
        return bool(self._ending) or any(channel is Channel.SHELL for channel, _ in self._asked)

    def status(self, parts: list[Buffer], now_s: float) -> None:
        """The kernel begins a request, or has ended it, as a message of its state tells (header, parent, ...)."""
        key = Channel.SHELL, read_header(parts[1]).msg_id
        asked, idle = self._asked.get(key), b'"idle"' in bytes(parts[3])
        if asked is not None:
            asked.begun, asked.parts, asked.since_s = True, [], now_s
            asked.idle |= idle
        elif idle:
            self._ending.pop(key, None)

    def began(self, msg_id: str, now_s: float) -> None:
        """The kernel handles this request now."""
        asked = self._asked.get((Channel.SHELL, msg_id))
        if asked is not None:
            asked.begun, asked.parts, asked.since_s = True, [], now_s

    def overdue(self, before_s: float) -> list[Asked]:
        """Requests passed on before this time that no running one holds up; and those that ended by halves."""
        shells = [asked for (channel, _), asked in self._asked.items() if channel is Channel.SHELL]
        running = {asked.shell for asked in shells if asked.begun and not asked.idle}
        found = []
        for asked in shells:
            wants = asked.msg_type == "execute_request" if asked.idle else not asked.begun
            if wants and asked.since_s <= before_s and asked.shell not in running:
                found.append(asked)
        return found + [
            each for each in self._ending.values() if each.since_s <= before_s and each.shell not in running
        ]

    def running(self, before_s: float) -> list[Asked]:
        """Requests that a shell has begun and not ended, as far as is known, and that were not asked for since then."""
        found = [asked for (channel, _), asked in self._asked.items() if channel is Channel.SHELL]
        return [asked for asked in found if asked.begun and not asked.idle and asked.since_s <= before_s]

    def still(self, suspects: Iterable[Asked]) -> list[Asked]:
        """Those that are where they were: not begun, or ended without a reply, or answered without an end."""
        found = [each for each in suspects if self._asked.get(each.key) is each and each.begun is each.idle]
        return found + [each for each in suspects if self._ending.get(each.key) is each]

    def end(self, asked: Asked) -> list[tuple[Channel, list[Buffer]]]:
        """What to tell whoever waits for the end of a request that was answered."""
        del self._ending[asked.key]
        return [_idle(asked)]

    def take_back(self, asked: Asked) -> tuple[Header, list[Buffer]]:
        """The kernel has lost this request, which is to be passed on again: its header and parts."""
        self._forget(asked.key)
        return read_header(asked.header), asked.parts

    def give_up(self, asked: Asked, name: str, why: str) -> list[tuple[Channel, list[Buffer]]]:
        """What to tell whoever waits for an answer that will not come."""
        executes = asked.key in self._executing
        self._forget(asked.key)
        return _failed(asked, name, why, executes=executes)

    def _forget(self, key: Key) -> None:
        del self._asked[key]
        self._executing.pop(key, None)

    def returned(self, channel: Channel, parts: list[Buffer]) -> tuple[Header, list[Buffer]] | None:
        """The kernel has not begun this request (header, ...) and gives it back: nobody waits for its answer now.

        Returns
        -------
        Its header, and its parts with the asker's address before them; None when nobody waited for it any more, as it
        was answered in the kernel's place, or was sent again and has come back already.
        """
        header = read_header(parts[0])
        asked = self._asked.pop((channel, header.msg_id), None)
        self._executing.pop((channel, header.msg_id), None)
        if asked is None and header.msg_type.endswith("_request"):
            return None
        # Of what is no request, as messages of widgets are, nobody awaits an answer.
        return header, [asked.address if asked is not None else b"", *parts]

    def kernel_died(self, why: str) -> list[tuple[Channel, list[Buffer]]]:
        """What to tell those who wait for a kernel that is gone: an error, a reply and an idle each."""
        told: list[tuple[Channel, list[Buffer]]] = []
        for key, asked in self._asked.items():
            told += _failed(asked, "KernelDied", why, executes=key in self._executing)
        told += map(_idle, self._ending.values())
        self._asked.clear()
        self._ending.clear()
        self._executing.clear()
        self.prompt = None
        return told


def _failed(asked: Asked, name: str, why: str, *, executes: bool) -> list[tuple[Channel, list[Buffer]]]:
    """An error, a reply and an idle."""
    told: list[tuple[Channel, list[Buffer]]] = []
    error = {"ename": name, "evalue": why, "traceback": [f"\x1b[31m{name}\x1b[0m: {why}"]}
    content: dict[str, object] = {"status": "error", **error}
    if executes:
        told.append((Channel.IOPUB, make_parts(b"error", "error", asked.header, error)))
        content |= {"execution_count": 0, "user_expressions": {}, "payload": []}
    reply = asked.msg_type.replace("_request", "_reply")
    told.append((asked.channel, make_parts(asked.address, reply, asked.header, content)))
    told.append(_idle(asked))
    return told


def _idle(asked: Asked) -> tuple[Channel, list[Buffer]]:
    return Channel.IOPUB, make_parts(b"status", "status", asked.header, {"execution_state": "idle"})


def unanswerable(reply: list[Buffer], why: str) -> list[Buffer]:
    """What goes to the asker in place of a reply (address, header, ...) that cannot be passed on."""
    kind = read_header(reply[1]).msg_type
    name = "JournalError"
    content: dict[str, object] = {"status": "error", "ename": name, "evalue": why, "traceback": [f"{name}: {why}"]}
    if kind == "execute_reply":
        content |= {"execution_count": 0, "user_expressions": {}, "payload": []}
    return make_parts(reply[0], kind, reply[2], content)


def shutdown_kind(content: Buffer) -> str:
    """What a client wants with its shutdown request: ``end`` or ``restart``."""
    try:
        return "restart" if msgspec.json.decode(content).get("restart") else "end"
    except (*UNREADABLE, AttributeError):
        return "end"
