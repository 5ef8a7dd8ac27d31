"""Features of the messaging protocol that the public suite does not look at, through the proxy."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpuaas.wire.memory import MALLOC_HUGE_PAGES, MALLOC_VARIABLE
from tests.conftest import GpuaasHome
from tests.fault.session import ProxyRun


@pytest.fixture(scope="module")
def run(module_gpuaas_home: GpuaasHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyRun]:
    run = ProxyRun(tmp_path_factory.mktemp("run"), "features").ready()
    yield run
    run.close()


def ask_control(run: ProxyRun, msg_type: str, content: dict[str, Any]) -> dict[str, Any]:
    message = run.client.session.msg(msg_type, content)
    run.client.control_channel.send(message)
    while True:
        reply = run.client.get_control_msg(timeout=30)
        if reply["parent_header"]["msg_id"] == message["header"]["msg_id"]:
            content_of_reply: dict[str, Any] = reply["content"]
            return content_of_reply


def test_kernel_info_offers_what_the_kernel_can(run: ProxyRun) -> None:
    reply = run.wait_done(run.client.kernel_info())["content"]
    assert reply["implementation"] == "ipython"
    assert {"kernel subshells", "debugger"} <= set(reply["supported_features"])


def test_subshell_answers_while_the_main_shell_is_busy(run: ProxyRun, tmp_path: Path) -> None:
    subshell = ask_control(run, "create_subshell_request", {})["subshell_id"]
    assert ask_control(run, "list_subshell_request", {})["subshell_id"] == [subshell]
    go = tmp_path / "go"
    busy = run.client.execute(f"import time, pathlib\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)")
    code = f"import pathlib; pathlib.Path({str(go)!r}).touch()"
    message = run.client.session.msg("execute_request", {"code": code})
    message["header"]["subshell_id"] = subshell
    run.client.shell_channel.send(message)
    run.wait_done(message["header"]["msg_id"])  # only then can the busy cell end
    assert run.wait_done(busy)["content"]["status"] == "ok"
    assert ask_control(run, "delete_subshell_request", {"subshell_id": subshell})["status"] == "ok"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_how_its_host_allocates_is_not_passed_on_to_a_kernel(run: ProxyRun) -> None:
    given = os.environ.get(MALLOC_VARIABLE)
    code = (
        "import os, pathlib\n"
        f"assert os.environ.get({MALLOC_VARIABLE!r}) == {given!r}\n"
        "assert os.environ['OPENBLAS_THREAD_TIMEOUT']\n"
        "host = pathlib.Path(f'/proc/{os.getppid()}/environ').read_bytes().split(b'\\0')\n"
        f"assert b'{MALLOC_VARIABLE}={given or MALLOC_HUGE_PAGES}' in host, host"
    )
    reply = run.run(code)
    assert reply["content"]["status"] == "ok", reply["content"]


def test_usage_is_told_while_a_cell_runs(run: ProxyRun, tmp_path: Path) -> None:
    go = tmp_path / "go"
    busy = run.client.execute(f"import time, pathlib\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)")
    usage = ask_control(run, "usage_request", {})
    go.touch()
    run.wait_done(busy)
    assert usage["kernel_memory"] > 1_000_000


def test_debugger_stops_at_a_breakpoint_and_shows_a_variable(run: ProxyRun) -> None:
    def debug(command: str, **arguments: Any) -> dict[str, Any]:
        nonlocal sequence
        sequence += 1
        request = {"type": "request", "seq": sequence, "command": command, "arguments": arguments}
        return ask_control(run, "debug_request", request)

    sequence = 0
    code = "def f(n):\n    secret = n * 3\n    return secret\nf(14)"
    assert debug("initialize", clientID="t", adapterID="", pathFormat="path", linesStartAt1=True)["success"]
    assert debug("attach")["success"]
    source = debug("dumpCell", code=code)["body"]["sourcePath"]
    points = debug("setBreakpoints", source={"path": source}, breakpoints=[{"line": 3}], sourceModified=False)
    assert points["body"]["breakpoints"][0]["verified"]
    debug("configurationDone")
    cell = run.client.execute(code)
    stopped = run.wait(lambda m: m["msg_type"] == "debug_event" and m["content"]["event"] == "stopped")
    thread = stopped["content"]["body"]["threadId"]
    frame = debug("stackTrace", threadId=thread)["body"]["stackFrames"][0]["id"]
    scope = debug("scopes", frameId=frame)["body"]["scopes"][0]["variablesReference"]
    values = {v["name"]: v["value"] for v in debug("variables", variablesReference=scope)["body"]["variables"]}
    assert values["secret"] == "42"
    debug("continue", threadId=thread)
    assert run.wait_done(cell)["content"]["status"] == "ok"
    debug("disconnect", restart=False, terminateDebuggee=False)


def test_comm_carries_binary_buffers_both_ways(run: ProxyRun) -> None:
    run.run(
        "from comm import get_comm_manager\n"
        "def opened(comm, message):\n"
        "    def mirror(m):\n"
        "        data = bytes(m['buffers'][0])\n"
        "        comm.send({'length': len(data)}, buffers=[data[::-1]])\n"
        "    comm.on_msg(mirror)\n"
        "get_comm_manager().register_target('mirror', opened)"
    )
    payload = bytes(range(256)) * 1000 + b"\xff\xfe\x00"

    def send(msg_type: str, content: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        run.client.session.send(run.client.shell_channel.socket, msg_type, content, buffers=buffers)

    send("comm_open", {"comm_id": "c1", "target_name": "mirror", "data": {}})
    send("comm_msg", {"comm_id": "c1", "data": {}}, [payload])
    answer = run.wait(lambda m: m["msg_type"] == "comm_msg" and m["content"]["comm_id"] == "c1")
    assert answer["content"]["data"] == {"length": len(payload)}
    assert bytes(answer["buffers"][0]) == payload[::-1]


def test_getpass_asks_with_password_set(run: ProxyRun) -> None:
    cell = run.client.execute("from getpass import getpass; print(len(getpass('key: ')))", allow_stdin=True)
    question = run.client.get_stdin_msg(timeout=30)["content"]
    assert question == {"prompt": "key: ", "password": True}
    run.client.input("s3cret")
    run.wait_done(cell)
    assert run.text(cell) == "6\n"


def test_interrupt_by_message_and_by_signal_to_the_proxy(run: ProxyRun, tmp_path: Path) -> None:
    for number, how in enumerate(("message", "signal")):
        begun = tmp_path / f"begun{number}"
        cell = run.client.execute(f"import time, pathlib; pathlib.Path({str(begun)!r}).touch(); time.sleep(600)")
        while not begun.exists():
            os.sched_yield()
        if how == "message":
            assert ask_control(run, "interrupt_request", {})["status"] == "ok"
        else:
            os.kill(run.process.pid, signal.SIGINT)
        assert run.wait_done(cell)["content"]["ename"] == "KeyboardInterrupt"
    assert run.run("1")["content"]["status"] in ("ok", "aborted")


def test_message_signed_with_another_key_is_dropped(run: ProxyRun) -> None:
    stranger = run.new_client()
    stranger.session.key = b"another key"
    stranger.execute("forged = True", silent=True)
    stranger.stop_channels()
    assert run.value("'forged' in globals()") == "False"


@pytest.mark.long
def test_output_of_one_gib_arrives(run: ProxyRun) -> None:
    cell = run.client.execute("print('x' * 2**30, end='')")
    run.wait(lambda m: m["msg_type"] == "execute_reply", deadline_s=200)
    sizes = 0

    def idle(message: dict[str, Any]) -> bool:
        return message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"

    if not any(idle(m) and m["parent_header"].get("msg_id") == cell for m in run.heard):
        run.wait(lambda m: idle(m) and m["parent_header"].get("msg_id") == cell, deadline_s=200)
    for message in run.heard:
        if message["msg_type"] == "stream" and message["parent_header"].get("msg_id") == cell:
            sizes += len(message["content"]["text"])
    run.heard.clear()
    assert sizes == 2**30


@pytest.mark.long
def test_client_that_stalls_gets_all_updates_and_the_idle(run: ProxyRun) -> None:
    count = 20_000
    cell = run.client.execute(
        "from IPython.display import display, HTML\n"
        "handle = display(HTML(''), display_id='stall')\n"
        f"for n in range({count}): handle.update(HTML(f'<p>{{n}}</p>' + 'x' * 2000))"
    )
    # Take nothing until the cell has ended: its reply comes on another channel.
    while True:
        reply = run.client.get_shell_msg(timeout=120)
        if reply["parent_header"].get("msg_id") == cell:
            break
    idle = False
    updates: list[str] = []
    while not idle:
        message = run.client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != cell:
            continue
        if message["msg_type"] == "update_display_data":
            updates.append(message["content"]["data"]["text/html"])
        idle = message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
    assert [text[: text.index("</p>")] for text in updates] == [f"<p>{n}" for n in range(count)]
