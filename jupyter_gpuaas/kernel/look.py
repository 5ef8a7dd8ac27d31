"""What a kernel does at this moment, told while it does it; and a look at its sockets that nothing else asks for.

ZMQ tells of a message once, by an edge on a descriptor. Where that is missed, the message lies there until the next
one comes, which may be never: whoever sent it waits for its answer. So the thread that is asked, which is none of
those that handle requests, also lets these look.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

#: Frames that are told of a thread, innermost first.
FRAMES = 6


class Handling:
    """Which requests the threads of the shells handle."""

    def __init__(self) -> None:
        self._ids: dict[int, str] = {}

    def begins(self, msg_id: str) -> None:
        """The calling thread has begun a request."""
        self._ids[threading.get_ident()] = msg_id

    def ended(self) -> None:
        """It has ended."""
        self._ids.pop(threading.get_ident(), None)

    @property
    def ids(self) -> list[str]:
        return list(self._ids.values())


def look(kernel: Any) -> dict[str, Any]:
    """The answer to a request of this kind.

    ``running`` are the ids of requests that are handled, ``busy`` the shells that can begin no other now ("" is the
    main one), ``doing`` says in words where the main thread is.
    """
    threads = kernel.shell_channel_thread
    locks = {"": kernel._main_asyncio_lock}
    if threads is not None:
        locks |= {each: threads.manager.get_subshell_asyncio_lock(each) for each in threads.manager.list_subshell()}
    return {
        "status": "ok",
        "running": kernel.handling.ids,
        "busy": [shell for shell, lock in locks.items() if lock.locked()],
        "doing": where(threading.main_thread()),
        "threads": {thread.name: where(thread) for thread in threading.enumerate()},
    }


def where(thread: threading.Thread) -> str:
    """Where a thread is, in words."""
    frame = sys._current_frames().get(thread.ident or 0)
    return " < ".join(f"{each.f_code.co_name} ({_short(each)})" for each in _frames(frame)) if frame else ""


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(FRAMES):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _short(frame: FrameType) -> str:
    return f"{'/'.join(frame.f_code.co_filename.split('/')[-2:])}:{frame.f_lineno}"


def look_again(kernel: Any) -> None:
    """Let the threads that read requests look at their sockets, whether or not they were told of a message."""
    threads = kernel.shell_channel_thread
    streams = [kernel.shell_stream]
    if threads is not None:
        pairs = [
            threads.manager.get_shell_channel_to_subshell_pair(each)
            for each in (None, *threads.manager.list_subshell())
        ]
        streams += [pair.to_stream for pair in pairs]
    for stream in streams:
        if stream is not None and not stream.closed():
            stream.io_loop.add_callback(stream._handle_events, stream.socket, 0)
