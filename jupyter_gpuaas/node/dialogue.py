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
from ..wire.jupyter import Header, make_parts, read_header
from ..wire.record import Buffer
from ..wire.unreadable import UNREADABLE


class Asked(msgspec.Struct):
    """One request under way."""

    address: bytes
    channel: Channel
    header: bytes
    msg_type: str


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
        self._asked: dict[tuple[Channel, str], Asked] = {}
        self._executing: dict[tuple[Channel, str], None] = {}
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

    def take_over(self, asked: Iterable[AskedRequest], prompt: Iterable[bytes]) -> None:
        """Requests that this kernel got at the session's former host, and the prompt that it waits with."""
        for each in asked:
            channel, header = Channel(each.channel), read_header(each.header)
            key = (channel, header.msg_id)
            self._asked[key] = Asked(each.address, channel, each.header, each.msg_type)
            if each.msg_type == "execute_request":
                self._executing[key] = None
        parts: list[Buffer] = list(prompt)
        if parts:
            self.prompt, self._prompt_parent = parts, read_header(parts[2]).msg_id

    def passed_on(self, channel: Channel, header: Header, parts: list[Buffer]) -> None:
        """The kernel has this request now."""
        if channel is Channel.STDIN:
            self.prompt = None
        elif header.msg_type.endswith("_request"):
            key = (channel, header.msg_id)
            self._asked[key] = Asked(bytes(parts[0]), channel, bytes(parts[1]), header.msg_type)
            if header.msg_type == "execute_request":
                self._executing[key] = None

    def answer(self, channel: Channel, parts: list[Buffer]) -> list[Buffer]:
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
            if channel is Channel.SHELL and self._prompt_parent == parent:
                self.prompt = None
        return addressed

    def returned(self, channel: Channel, parts: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """The kernel has not begun this request (header, ...) and gives it back: nobody waits for its answer now.

        Returns
        -------
        Its header, and its parts with the asker's address before them.
        """
        header = read_header(parts[0])
        asked = self._asked.pop((channel, header.msg_id), None)
        self._executing.pop((channel, header.msg_id), None)
        return header, [asked.address if asked is not None else b"", *parts]

    def kernel_died(self, why: str) -> list[tuple[Channel, list[Buffer]]]:
        """What to tell those who wait for a kernel that is gone: an error, a reply and an idle each."""
        told: list[tuple[Channel, list[Buffer]]] = []
        error = {"ename": "KernelDied", "evalue": why, "traceback": [f"\x1b[31mKernelDied\x1b[0m: {why}"]}
        for key, asked in self._asked.items():
            reply = asked.msg_type.replace("_request", "_reply")
            content: dict[str, object] = {"status": "error", **error}
            if key in self._executing:
                told.append((Channel.IOPUB, make_parts(b"error", "error", asked.header, error)))
                content |= {"execution_count": 0, "user_expressions": {}, "payload": []}
            told.append((asked.channel, make_parts(asked.address, reply, asked.header, content)))
            told.append((Channel.IOPUB, make_parts(b"status", "status", asked.header, {"execution_state": "idle"})))
        self._asked.clear()
        self._executing.clear()
        self.prompt = None
        return told


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
