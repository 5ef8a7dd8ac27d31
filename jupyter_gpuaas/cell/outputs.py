"""What a remote cell says, said by the local kernel: streams, displays, results, prompts, errors."""

from __future__ import annotations

import getpass
import queue
import re
import sys
from pathlib import Path
from typing import Any

from jupyter_gpuaas.client.session import Message

_QUOTED = re.compile(r"'([^']+)'|\"([^\"]+)\"")
_MISSING_FILE = ("FileNotFoundError", "NotADirectoryError")


class RemoteCellError(Exception):
    """The remote cell failed. Its class is named after the remote error, and it shows the remote traceback."""

    def __init__(self, evalue: str, traceback: list[str]) -> None:
        super().__init__(evalue)
        self._traceback = traceback

    def _render_traceback_(self) -> list[str]:
        return self._traceback


class GaveUpWaiting(RemoteCellError):
    """The user interrupted twice; the session goes on."""


class Collected:
    """Hands what arrives in the client's event loop to the thread that runs the user's code."""

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[tuple[str, Message | None]] = queue.SimpleQueue()

    def output(self, message: Message) -> None:
        self.items.put(("output", message))

    def asked(self, message: Message) -> None:
        self.items.put(("asked", message))

    def finished(self, _: object) -> None:
        self.items.put(("finished", None))


class LocalOutputs:
    """Repeats messages of a remote cell as outputs of the local one.

    Parameters
    ----------
    shell
        The local IPython shell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._unflushed: set[str] = set()

    def show(self, message: Message) -> None:
        """Repeat one output."""
        content = message.content
        if message.msg_type == "stream":
            if content["name"] not in self._unflushed:
                self.flush()  # Keeps stdout and stderr in the order in which they came.
            stream = sys.stderr if content["name"] == "stderr" else sys.stdout
            stream.write(content["text"])
            self._unflushed.add(content["name"])
            return
        self.flush()
        if message.msg_type in ("display_data", "update_display_data"):
            self._shell.display_pub.publish(
                content["data"],
                content["metadata"],
                transient=content.get("transient", {}),
                update=message.msg_type == "update_display_data",
            )
        elif message.msg_type == "execute_result":
            hook = self._shell.displayhook
            hook.start_displayhook()
            hook.write_output_prompt()
            hook.write_format_data(content["data"], content["metadata"])
            hook.finish_displayhook()
        elif message.msg_type == "clear_output":
            self._shell.display_pub.clear_output(wait=content.get("wait", False))

    def flush(self) -> None:
        """Let the user see what was written."""
        for name in self._unflushed:
            (sys.stderr if name == "stderr" else sys.stdout).flush()
        self._unflushed.clear()


def read_input(content: dict[str, Any]) -> str:
    """Ask the local user what the remote cell asks."""
    prompt = content.get("prompt", "")
    return getpass.getpass(prompt) if content.get("password") else input(prompt)


def failure(content: dict[str, Any], folder: Path) -> RemoteCellError:
    """The error to raise locally for a failed reply.

    Parameters
    ----------
    folder
        The notebook's folder, to tell a file that is here from one that is nowhere.
    """
    name, text = content.get("ename") or "RemoteError", content.get("evalue") or ""
    traceback = list(content.get("traceback") or [f"{name}: {text}"])
    if name in _MISSING_FILE:
        traceback += missing_file_hint(text, folder)
    kind: type[RemoteCellError] = type(name, (RemoteCellError,), {"__module__": "remote session"})
    return kind(text, traceback)


def missing_file_hint(text: str, folder: Path) -> list[str]:
    """What to do about a file that the remote cell did not find but that is here."""
    for match in _QUOTED.finditer(text):
        path = match[1] or match[2]
        here = folder / path
        if not here.exists():
            continue
        if here.resolve().is_relative_to(folder.resolve()):
            name = here.resolve().relative_to(folder.resolve())
            shown = f'"{name}"' if " " in str(name) else str(name)
            return [f"{path} is on this machine, not in the remote session: `%remote_gpu sync {shown}` sends it."]
        return [
            f"{path} is on this machine, not in the remote session, and outside the notebook's folder: "
            "copy it into the folder, then `%remote_gpu sync` sends it."
        ]
    return []
