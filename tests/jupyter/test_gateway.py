"""The service as a kernel gateway: behind a real Jupyter server that has nothing of ours, and spoken to directly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    deserialize_msg_from_ws_v1,
    serialize_binary_message,
    serialize_msg_to_ws_v1,
)
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from jupyter_gpuaas.client.embedded import read_service_file
from tests.conftest import GpuaasHome
from tests.fault.cutter import Cutter
from tests.server.running import ANN, JupyterServer
from tests.service import eventually

V1 = Subprotocol("v1.kernel.websocket.jupyter.org")
WAIT_S = 60
#: Bytes that are no text, as widgets send them.
RAW = bytes(range(256))
ECHO = """
from ipykernel.comm import CommManager
def opened(comm, message):
    def turned(message):
        got = [bytes(each)[::-1] for each in message["buffers"]]
        comm.send({"n": len(got)}, buffers=got)
    comm.on_msg(turned)
get_ipython().kernel.comm_manager.register_target("echo", opened)
"""


@dataclass
class Gateway:
    """A service, a Jupyter server in front of it, and the network in between."""

    url: str
    token: str
    cutter: Cutter
    jupyter: JupyterServer

    def ask(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> httpx.Response:
        """A request to the gateway itself."""
        headers = {"Authorization": f"token {self.token if token is None else token}"}
        return httpx.request(method, f"{self.url}{path}", json=body, headers=headers, timeout=WAIT_S, trust_env=False)

    @contextlib.asynccontextmanager
    async def tab(
        self, kernel: str, *, direct: bool = False, named: bool = False, name: str = ""
    ) -> AsyncIterator[Tab]:
        """A browser's tab on a kernel, through the Jupyter server or directly."""
        session = name or uuid.uuid4().hex
        url = f"{(self.url if direct else self.jupyter.url).replace('http', 'ws', 1)}/api/kernels/{kernel}/channels"
        async with connect(
            f"{url}?session_id={session}",
            additional_headers={"Authorization": f"token {self.token if direct else ANN}"},
            origin=self.url if direct else None,  # type: ignore[arg-type]
            subprotocols=[V1] if named else None,
            proxy=None,
            compression=None,
            max_size=None,
        ) as socket:
            yield Tab(socket, session)


class Tab:
    """Says and hears Jupyter messages."""

    def __init__(self, socket: ClientConnection, session: str) -> None:
        self.socket = socket
        self._session = session
        self.heard: list[dict[str, Any]] = []

    async def say(
        self, kind: str, content: dict[str, Any], *, channel: str = "shell", buffers: Any = (), **more: Any
    ) -> str:
        msg_id = uuid.uuid4().hex
        header = {"msg_id": msg_id, "msg_type": kind, "session": self._session, "username": "", "version": "5.3"}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": channel} | more
        if self.socket.subprotocol:
            names = ("header", "parent_header", "metadata", "content")
            parts = [json.dumps(message[name]).encode() for name in names]
            await self.socket.send(serialize_msg_to_ws_v1([*parts, *buffers], channel))
        elif buffers:
            await self.socket.send(serialize_binary_message(message | {"buffers": list(buffers)}))
        else:
            await self.socket.send(json.dumps(message))
        return msg_id

    async def run(self, code: str) -> str:
        return await self.say("execute_request", {"code": code, "allow_stdin": True, "store_history": True})

    async def hear(self) -> dict[str, Any]:
        data = await asyncio.wait_for(self.socket.recv(), WAIT_S)
        if self.socket.subprotocol:
            assert isinstance(data, bytes)
            channel, parts = deserialize_msg_from_ws_v1(data)
            names = ("header", "parent_header", "metadata", "content")
            message = {name: json.loads(part) for name, part in zip(names, parts, strict=False)}
            message |= {"channel": channel, "buffers": parts[4:]}
        else:
            message = deserialize_binary_message(data) if isinstance(data, bytes) else json.loads(data)
        self.heard.append(message)
        return dict(message)

    async def until(self, msg_id: str, kind: str) -> dict[str, Any]:
        """The next message of this kind about a request."""
        while True:
            message = await self.hear()
            if message["parent_header"].get("msg_id") == msg_id and message["header"]["msg_type"] == kind:
                return message

    async def done(self, msg_id: str) -> dict[str, Any]:
        """The reply to a cell, when its outputs have come as well."""
        reply: dict[str, Any] = {}
        while True:
            message = await self.hear()
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            if message["header"]["msg_type"] == "execute_reply":
                reply = message["content"]
            idle = message["content"].get("execution_state") == "idle"
            if reply and (idle or self.is_idle(msg_id)):
                return reply

    def is_idle(self, msg_id: str) -> bool:
        return any(
            m["content"].get("execution_state") == "idle" and m["parent_header"].get("msg_id") == msg_id
            for m in self.heard
        )

    def text(self, msg_id: str) -> str:
        """What a cell printed."""
        streams = [m for m in self.heard if m["header"]["msg_type"] == "stream"]
        return "".join(m["content"]["text"] for m in streams if m["parent_header"].get("msg_id") == msg_id)


@pytest.fixture(scope="module")
def gateway(module_gpuaas_home: GpuaasHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = module_gpuaas_home
    (home.path / "settings.toml").write_text('devices = "cpu:3"\nspare_kernels = 0\nstop_timeout_s = 2.0\n')
    home.cli("up", "--detach")
    written = read_service_file(home.path)
    assert written is not None
    token = (home.path / "token").read_text().strip()
    cutter = Cutter(lambda: written.port)
    config = (
        "c.ServerApp.jpserver_extensions = {}\n"
        f"c.GatewayClient.url = 'http://127.0.0.1:{cutter.port}'\n"
        "c.GatewayClient.gateway_retry_interval = 0.1\n"
    )
    env = {"JUPYTER_GATEWAY_AUTH_TOKEN": token}
    try:
        with JupyterServer(tmp_path_factory.mktemp("gateway"), config=config, env=env) as jupyter:
            yield Gateway(written.url, token, cutter, jupyter)
    finally:
        cutter.close()


@pytest.fixture
def kernel(gateway: Gateway) -> Iterator[str]:
    """A kernel that a notebook has started, as JupyterLab does it."""
    kernel_id = gateway.jupyter.start_kernel("book.ipynb")
    yield kernel_id
    gateway.jupyter.raw("DELETE", f"/api/kernels/{kernel_id}")


def test_specs_are_those_of_the_gateway(gateway: Gateway) -> None:
    gateway.jupyter.raw("GET", "/api/kernelspecs")  # from which it learns what the default is
    specs = gateway.jupyter.raw("GET", "/api/kernelspecs").json()
    assert specs["default"] == "remote_gpu"
    assert list(specs["kernelspecs"]) == ["remote_gpu"]
    assert gateway.ask("GET", "/api/kernelspecs/remote_gpu").json()["spec"]["language"] == "python"
    assert gateway.ask("GET", "/api/kernelspecs/julia").status_code == 404
    assert gateway.ask("GET", "/api").json().keys() == {"version"}


async def test_notebook_runs_cells_with_outputs_input_interrupt_and_restart(gateway: Gateway, kernel: str) -> None:
    async with gateway.tab(kernel) as tab:
        await tab.until(await tab.say("kernel_info_request", {}), "kernel_info_reply")
        cell = await tab.run("import sys\nfor n in range(3): print(n)\nprint('e', file=sys.stderr)\nx = 6 * 7\nx")
        assert (await tab.done(cell))["status"] == "ok"
        result = next(m for m in tab.heard if m["header"]["msg_type"] == "execute_result")
        assert result["content"]["data"]["text/plain"] == "42"
        assert sorted(tab.text(cell).split()) == ["0", "1", "2", "e"]
        failing = await tab.run("1 / 0")
        assert (await tab.done(failing))["ename"] == "ZeroDivisionError"
        asking = await tab.run("name = input('who? ')")
        asked = await tab.until(asking, "input_request")
        assert (asked["channel"], asked["content"]["prompt"]) == ("stdin", "who? ")
        await tab.say("input_reply", {"value": "ann"}, channel="stdin", parent_header=asked["header"])
        assert (await tab.done(asking))["status"] == "ok"
        busy = await tab.run("print('begun', flush=True)\nwhile True: pass")
        await tab.until(busy, "stream")
        assert (await post(gateway, f"/api/kernels/{kernel}/interrupt")).status_code == 204
        assert (await tab.done(busy))["ename"] == "KeyboardInterrupt"
        assert (await tab.done(await tab.run("assert (x, name) == (42, 'ann')")))["status"] == "ok"
        assert (await post(gateway, f"/api/kernels/{kernel}/restart")).json()["id"] == kernel
    async with gateway.tab(kernel) as tab:
        await tab.until(await tab.say("kernel_info_request", {}), "kernel_info_reply")
        assert (await tab.done(await tab.run("x")))["ename"] == "NameError"


async def post(gateway: Gateway, path: str) -> httpx.Response:
    return await asyncio.to_thread(gateway.jupyter.raw, "POST", path, {})


async def test_connection_that_is_cut_loses_nothing_of_a_cell(gateway: Gateway, kernel: str) -> None:
    """The browser's tab stays connected; what is cut is the Jupyter server from the gateway, again and again."""
    async with gateway.tab(kernel) as tab:
        await tab.until(await tab.say("kernel_info_request", {}), "kernel_info_reply")
        code = "import time\nfor n in range(300):\n    print(n, flush=True)\n    time.sleep(0.01)"
        cell, cuts = await tab.run(code), 0
        reply = asyncio.create_task(tab.done(cell))
        for least in ("20\n", "150\n"):
            await eventually(lambda least=least: least in tab.text(cell), WAIT_S)  # type: ignore[misc]
            cuts += await asyncio.to_thread(gateway.cutter.cut)
        assert (await reply)["status"] == "ok"
        assert cuts >= 2
        told = [int(line) for line in tab.text(cell).split()]
        first_times = list(dict.fromkeys(told))
        assert first_times == list(range(300)), "all, in order; what was on its way may come twice"
        assert len(told) < 2 * len(first_times)


async def test_front_end_that_comes_back_gets_what_it_missed_and_nothing_twice(gateway: Gateway, kernel: str) -> None:
    async with gateway.tab(kernel, direct=True, named=True, name="tab-1") as tab:
        cell = await tab.run("import time\nprint('first', flush=True)\ntime.sleep(1)\nprint('second')")
        await tab.until(cell, "stream")
    async with gateway.tab(kernel, direct=True, named=True, name="tab-1") as again:
        assert (await again.done(cell))["status"] == "ok"
        assert again.text(cell).endswith("second\n")
        assert again.text(cell).count("second") == 1

    async def hears_nothing_of_it() -> bool:
        async with gateway.tab(kernel, direct=True, named=True, name="tab-1") as later:
            await later.done(await later.run("time.sleep(0.3)"))
            return not later.text(cell)

    # What had arrived is known a moment later than it has, and does not come again then.
    await eventually(hears_nothing_of_it)


@pytest.mark.parametrize("named", [True, False])
async def test_buffers_cross_directly_in_both_protocols(gateway: Gateway, kernel: str, named: bool) -> None:
    async with gateway.tab(kernel, direct=True, named=named) as tab:
        assert (tab.socket.subprotocol or "") == (V1 if named else "")
        await tab.done(await tab.run(ECHO))
        opened = {"comm_id": "c1", "target_name": "echo", "data": {}}
        await tab.say("comm_open", opened)
        asked = await tab.say("comm_msg", {"comm_id": "c1", "data": {}}, buffers=[RAW, b"", b"x"])
        answer = await tab.until(asked, "comm_msg")
        assert [bytes(buffer) for buffer in answer["buffers"]] == [RAW[::-1], b"", b"x"]


async def test_buffers_through_a_jupyter_server_arrive_and_do_not_come_back(gateway: Gateway, kernel: str) -> None:
    """It brings them to the gateway, in a frame of the wrong kind, and cannot bring any back. The kernel lives on."""
    async with gateway.tab(kernel) as tab:
        await tab.done(await tab.run(ECHO))
        await tab.say("comm_open", {"comm_id": "c2", "target_name": "echo", "data": {}})
        asked = await tab.say("comm_msg", {"comm_id": "c2", "data": {}}, buffers=[RAW])
        answer = await tab.until(asked, "comm_msg")
        assert answer["content"]["data"] == {"n": 1}
        assert not answer["buffers"]
        assert (await tab.done(await tab.run("1")))["status"] == "ok"
        said = [m["content"]["text"] for m in tab.heard if m["header"]["msg_type"] == "stream"]
        assert sum("binary data" in text for text in said) == 1


async def test_two_tabs_each_get_their_own_replies_and_all_outputs(gateway: Gateway, kernel: str) -> None:
    async with gateway.tab(kernel) as one, gateway.tab(kernel, direct=True) as two:
        await two.until(await two.say("kernel_info_request", {}), "kernel_info_reply")
        cell = await one.run("print('said')")
        await one.done(cell)
        await two.until(cell, "execute_input")
        mark = await two.run("print('other')")
        await two.done(mark)
        assert "said" in two.text(cell)
        assert not [m for m in two.heard if m["parent_header"].get("msg_id") == cell and m["channel"] == "shell"]
        models = {m["id"]: m for m in gateway.ask("GET", "/api/kernels").json()}
        assert models[kernel]["connections"] == 2


def test_deleted_kernel_is_gone_with_its_session(gateway: Gateway) -> None:
    kernel_id = gateway.jupyter.start_kernel("gone.ipynb")
    assert gateway.jupyter.raw("GET", f"/api/kernels/{kernel_id}").status_code == 200
    session = uuid.UUID(kernel_id).hex
    assert gateway.jupyter.raw("DELETE", f"/api/kernels/{kernel_id}").status_code == 204
    assert gateway.ask("GET", f"/api/kernels/{kernel_id}").status_code == 404
    listed = {each["id"]: each["state"] for each in gateway.ask("GET", "/sessions?all=true").json()}
    assert listed[session] == "closed"


def test_kernel_of_a_named_notebook_is_found_again(gateway: Gateway) -> None:
    body = {"name": "remote_gpu", "env": {"JPY_SESSION_NAME": "named.ipynb", "KERNEL_X": "1"}}
    first, second = (gateway.ask("POST", "/api/kernels", body) for _ in range(2))
    assert first.status_code == second.status_code == 201
    assert first.json()["id"] == second.json()["id"]
    assert gateway.ask("GET", "/api/kernels/named.ipynb").json()["id"] == first.json()["id"]
    unnamed = [gateway.ask("POST", "/api/kernels", {}).json()["id"] for _ in range(2)]
    assert len(set(unnamed)) == 2
    for each in (first.json()["id"], *unnamed):
        assert gateway.ask("DELETE", f"/api/kernels/{each}").status_code == 204


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "julia"}, "name"),
        ({"env": {"A=B": "1"}}, "env"),
        ({"env": {"A": "a\0b"}}, "env"),
        ({"env": 7}, "env"),
        ({"path": 7}, "path"),
    ],
)
def test_kernel_that_cannot_be_is_refused_with_the_field(gateway: Gateway, body: Any, field: str) -> None:
    answer = gateway.ask("POST", "/api/kernels", body)
    assert answer.status_code == 422 or answer.status_code == 400, answer.text
    assert field in answer.json()["message"]


async def test_kernels_are_for_their_owners_only(gateway: Gateway, kernel: str) -> None:
    made = gateway.ask("POST", "/tokens", {"user": "bob"}).json()["token"]
    assert gateway.ask("GET", "/api/kernels", token=made).json() == []
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/interrupt"), ("POST", "/restart")):
        assert gateway.ask(method, f"/api/kernels/{kernel}{path}", token=made).status_code == 403
        assert gateway.ask(method, f"/api/kernels/{kernel}{path}", token="wrong").status_code == 401
    url = f"{gateway.url.replace('http', 'ws', 1)}/api/kernels/{kernel}/channels"
    for token, status in ((made, 403), ("wrong", 401)):
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, additional_headers={"Authorization": f"token {token}"}, proxy=None)
        assert refused.value.response.status_code == status


@pytest.mark.parametrize("data", ["no json", "{}", b"\0\0\0\1", json.dumps({"header": {}, "channel": "iopub"})])
async def test_message_that_is_none_closes_its_connection_and_no_other(
    gateway: Gateway, kernel: str, data: str | bytes
) -> None:
    async with gateway.tab(kernel, direct=True) as good, gateway.tab(kernel, direct=True) as bad:
        await bad.socket.send(data)
        await bad.socket.wait_closed()
        assert bad.socket.close_code == 1008
        assert (await good.done(await good.run("1")))["status"] == "ok"
