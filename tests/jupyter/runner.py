"""Runs a notebook as a front end would: with answers to `input`, comms and widget state."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ECHO_TARGET = "gpuaas.test.echo"


class EchoComm:
    """The front end's side of a comm that sends each message back, its buffers reversed.

    It answers between cells: while nbclient waits for a reply, a message that somebody else sends
    on its shell socket now and then cancels the wait, which nbclient takes for a dead kernel.
    """

    def __init__(self, runner: Runner, comm_id: str) -> None:
        self._runner = runner
        self._comm_id = comm_id

    def handle_msg(self, msg: Mapping[str, Any]) -> None:
        if msg["msg_type"] not in ("comm_open", "comm_msg"):
            return
        kc = self._runner.kc
        reply = kc.session.msg("comm_msg", {"comm_id": self._comm_id, "data": {"echo": msg["content"]["data"]}})
        buffers = [bytes(buffer)[::-1] for buffer in msg.get("buffers", [])]
        self._runner.before_next_cell.append(lambda: kc.session.send(kc.shell_channel.socket, reply, buffers=buffers))


class Runner(NotebookClient):
    """nbclient with a person at the keyboard.

    A notebook's ``metadata.answers`` are given, in order, to whatever asks for input; what was
    asked is noted in ``metadata.prompts``. ``on_cell`` is called with each cell's number before
    the cell is sent.
    """

    def __init__(self, nb: NotebookNode, *, on_cell: Callable[[int], Any] | None = None, **options: Any) -> None:
        super().__init__(nb, **options)
        self.comm_open_handlers[ECHO_TARGET] = self._open_echo
        self._answers = list(nb.metadata.get("answers", []))
        self._on_cell = on_cell
        self.before_next_cell: list[Callable[[], Any]] = []
        self.on_cell_start = self._start_cell
        self._answering: asyncio.Task[None] | None = None

    def _start_cell(self, cell: NotebookNode, cell_index: int) -> None:
        while self.before_next_cell:
            self.before_next_cell.pop(0)()
        if self._on_cell is not None:
            self._on_cell(cell_index)

    async def async_start_new_kernel_client(self) -> Any:
        kc = await super().async_start_new_kernel_client()
        kc.allow_stdin = True
        self._answering = asyncio.create_task(self._answer(kc))
        return kc

    async def async_execute(self, reset_kc: bool = False, **options: Any) -> NotebookNode:
        try:
            return await super().async_execute(reset_kc=reset_kc, **options)
        finally:
            if self._answering is not None:
                self._answering.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._answering

    def execute(self, **options: Any) -> NotebookNode:  # type: ignore[override]
        return asyncio.run(self.async_execute(**options))

    async def _answer(self, kc: Any) -> None:
        prompts = self.nb.metadata.setdefault("prompts", [])
        while kc.channels_running:
            try:
                msg = await kc.get_stdin_msg(timeout=0.2)
            except Empty:
                continue
            if msg["msg_type"] != "input_request":
                continue
            hidden = " (hidden)" if msg["content"].get("password") else ""
            prompts.append(msg["content"]["prompt"] + hidden)
            kc.input(self._answers.pop(0) if self._answers else "")

    def _open_echo(self, msg: Mapping[str, Any]) -> EchoComm:
        comm = EchoComm(self, msg["content"]["comm_id"])
        comm.handle_msg(msg)
        return comm


def run_notebook(
    source: Path | NotebookNode,
    kernel_name: str,
    *,
    work_dir: Path,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 120,
) -> NotebookNode:
    """Run a copy of a notebook from its first cell to its last, and return the copy.

    Raises
    ------
    CellExecutionError
        A cell failed that is not tagged ``raises-exception``.
    """
    nb = nbformat.read(source, as_version=4) if isinstance(source, Path) else source
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    runner = Runner(
        nb,
        kernel_name=kernel_name,
        timeout=timeout_s,
        startup_timeout=60,
        record_timing=False,
        resources={"metadata": {"path": str(work_dir)}},
    )
    return runner.execute(env={**os.environ, **(env or {})})
