"""Run a notebook through the kernel ``remote_gpu``, cut its connection on the way, and come back.

A service with two nodes is started in a folder of its own. While the notebook's third cell counts,
the kernel proxy is killed; the session goes on without it. Then a proxy is started again, under
the same name and on the same ports, and the client hears the rest. What happened is printed as a
table. The exit status is 0 only if every output equals that of a plain local kernel.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any

import nbformat
from jupyter_client.manager import KernelManager
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.jupyter.compare import differences  # noqa: E402

NODES = 2
SESSION = "/demo.ipynb"
CUT_CELL, CUT_LINE = 3, "step 050"
AWAY_S = 2.0
CELL_TIMEOUT_S = 60.0

Row = tuple[float, str, str]


class Story:
    """What happened, in the order of the clock."""

    def __init__(self) -> None:
        self.start_s = time.time()
        self._rows: list[Row] = []

    def tell(self, who: str, what: str, time_s: float | None = None) -> None:
        self._rows.append((time.time() if time_s is None else time_s, who, what))

    def table(self) -> str:
        width = max(len(who) for _, who, _ in self._rows)
        lines = [f"{'time':>8}  {'who':{width}}  what happened", f"{'-' * 8}  {'-' * width}  {'-' * 56}"]
        for time_s, who, what in sorted(self._rows):
            lines.append(f"{time_s - self.start_s:7.2f}s  {who:{width}}  {what}")
        return "\n".join(lines)


class Client:
    """A small front end: sends cells, gathers what comes back, and knows each message by its id."""

    def __init__(self, kernel_name: str, env: dict[str, str]) -> None:
        self._kernels = KernelManager(kernel_name=kernel_name)
        self._kernels.start_kernel(env=env)
        self._client = self._kernels.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)
        self._seen: set[str] = set()
        self.received = 0
        self.twice = 0

    def close(self) -> None:
        self._client.stop_channels()
        self._kernels.shutdown_kernel()

    def kill_proxy(self) -> int:
        """End the kernel process as a crash would, and return its process id."""
        process = self._kernels.provisioner.process  # type: ignore[union-attr]
        process.kill()
        process.wait()
        return int(process.pid)

    def start_proxy_again(self) -> None:
        """Start a kernel process with the same connection file, ports and environment."""
        self._kernels.restart_kernel(now=True)

    def run(self, notebook: NotebookNode, on_text: Callable[[int, str], None]) -> NotebookNode:
        """Run all cells of a copy of the notebook; ``on_text`` hears each stream message."""
        result = copy.deepcopy(notebook)
        for number, cell in enumerate(result.cells):
            if cell.cell_type == "code":
                cell.outputs = []
                self._run_cell(number, cell, on_text)
        return result

    def _next(self, get: Callable[..., Any], deadline_s: float) -> Any:
        """Return the next message that was not seen before; None when the deadline has passed."""
        while True:
            try:
                msg = get(timeout=max(0.0, deadline_s - time.monotonic()))
            except Empty:
                return None
            except ValueError as error:
                # What the dead proxy had passed on but not yet acknowledged comes again, as it was;
                # jupyter_client knows it by its signature and refuses it.
                if "Duplicate Signature" not in str(error):
                    raise
                self.twice += 1
                continue
            if msg["header"]["msg_id"] in self._seen:
                self.twice += 1
                continue
            self._seen.add(msg["header"]["msg_id"])
            return msg

    def _run_cell(self, number: int, cell: Any, on_text: Callable[[int, str], None]) -> None:
        msg_id = self._client.execute(cell.source, stop_on_error=False)
        by_display_id: dict[str, Any] = {}
        deadline_s = time.monotonic() + CELL_TIMEOUT_S
        while True:
            msg = self._next(self._client.get_iopub_msg, deadline_s)
            if msg is None:
                raise SystemExit(f"cell {number} did not end within {CELL_TIMEOUT_S} s")
            if msg["parent_header"].get("msg_id") != msg_id:
                continue
            self.received += 1
            kind, content = msg["msg_type"], msg["content"]
            if kind == "status" and content["execution_state"] == "idle":
                break
            if kind == "execute_input":
                cell.execution_count = content["execution_count"]
            elif kind == "update_display_data":
                by_display_id[content["transient"]["display_id"]].data = content["data"]
            elif kind in ("stream", "display_data", "execute_result", "error"):
                cell.outputs.append(nbformat.v4.output_from_msg(msg))
                if display_id := (content.get("transient") or {}).get("display_id"):
                    by_display_id[display_id] = cell.outputs[-1]
                if kind == "stream":
                    on_text(number, content["text"])
        while True:
            reply = self._next(self._client.get_shell_msg, deadline_s)
            if reply is None:
                raise SystemExit(f"cell {number} ended, and its reply never came")
            if reply["parent_header"].get("msg_id") == msg_id:
                return


def gpuaas(env: dict[str, str], *arguments: str) -> str:
    """Run the command line of the package, and return what it printed."""
    command = [sys.executable, "-m", "jupyter_gpuaas", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise SystemExit(f"`jupyter gpuaas {' '.join(arguments)}` failed:\n{done.stderr}")
    return done.stdout


def tell_events(story: Story, env: dict[str, str]) -> None:
    for line in gpuaas(env, "events", "--json").splitlines():
        event = json.loads(line)
        what = event["cause"]
        if event["target"]:
            what = f"{event['source'] or '-'} → {event['target']}" + (what and f": {what}")
        who, _, happened = event["kind"].partition("_")
        if happened:  # a checkpoint was taken, or failed
            what = f"{happened}: {what}"
        story.tell(who.replace("transition", "session"), what, event["time_s"])


def run_remote(notebook: NotebookNode, env: dict[str, str], story: Story) -> NotebookNode:
    client = Client("remote_gpu", {**env, "JPY_SESSION_NAME": SESSION})
    story.tell("client", "the kernel is ready")
    text = ""
    cut = False

    def watch(number: int, piece: str) -> None:
        nonlocal text, cut
        text += piece
        if cut or number != CUT_CELL or CUT_LINE not in text:
            return
        cut = True
        before = client.received
        story.tell("demo", f"{CUT_LINE!r} seen, {before} messages so far: SIGKILL to the proxy")
        client.kill_proxy()
        time.sleep(AWAY_S)  # nobody listens; the cell goes on
        story.tell("demo", f"a new proxy is started for {SESSION}")
        client.start_proxy_again()

    try:
        result = client.run(notebook, watch)
        story.tell(
            "client",
            f"the notebook has ended: {client.received} messages; {client.twice} more came again, known by their ids",
        )
    finally:
        client.close()
    if not cut:
        raise SystemExit("the connection was never cut: there is nothing to show")
    return result


def run_local(notebook: NotebookNode, env: dict[str, str]) -> NotebookNode:
    client = Client("python3", env)
    try:
        return client.run(notebook, lambda number, text: None)
    finally:
        client.close()


def main() -> int:
    notebook = nbformat.read(Path(__file__).with_name("demo.ipynb"), as_version=4)
    # Short, because sockets live in there and a socket's path may have 107 bytes only.
    home = Path(tempfile.mkdtemp(prefix="gpuaas-demo-"))
    env = {**os.environ, "GPUAAS_HOME": str(home)}
    for name in ("GPUAAS_URL", "GPUAAS_TOKEN", "GPUAAS_SESSION", "JPY_SESSION_NAME"):
        env.pop(name, None)
    story = Story()
    try:
        gpuaas(env, "up", "--nodes", str(NODES), "--detach")
        story.tell("demo", f"a service with {NODES} nodes runs")
        remote = run_remote(notebook, env, story)
        tell_events(story, env)
    finally:
        subprocess.run(
            [sys.executable, "-m", "jupyter_gpuaas", "down"], env=env, timeout=60, check=False, capture_output=True
        )
        shutil.rmtree(home, ignore_errors=True)
    found = differences(run_local(notebook, env), remote)
    print(story.table())
    print()
    if found:
        print(f"NOT the same as on a local kernel: {len(found)} difference(s)")
        print("\n".join(map(str, found)))
        return 1
    outputs = sum(len(cell.get("outputs", [])) for cell in remote.cells)
    print(f"All {outputs} outputs are the same as on a plain local kernel.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
