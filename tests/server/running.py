"""A real Jupyter server with the extension, and what a browser would say to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil
from websockets.asyncio.client import ClientConnection, connect

from tests.service import eventually

#: Tokens of three users: one who may do everything, one who may look, one who may not even that.
ANN, READER, NOBODY = "token-of-ann", "token-of-reader", "token-of-nobody"

CONFIG = f"""
from jupyter_server.auth import Authorizer, IdentityProvider, User


class Identities(IdentityProvider):
    async def get_user_token(self, handler):
        name = {{"{ANN}": "ann", "{READER}": "reader", "{NOBODY}": "nobody"}}.get(self.get_token(handler))
        return User(username=name) if name else None


class Rights(Authorizer):
    def is_authorized(self, handler, user, action, resource):
        return resource != "gpuaas" or user.username == "ann" or (user.username, action) == ("reader", "read")


c.ServerApp.identity_provider_class = Identities
c.ServerApp.authorizer_class = Rights
c.IdentityProvider.token = "{ANN}"
c.ServerApp.allow_unauthenticated_access = False
c.ServerApp.jpserver_extensions = {{"jupyter_gpuaas.server": True}}
c.ServerApp.port = 0
c.ServerApp.port_retries = 0
c.ServerApp.open_browser = False
c.ServerApp.allow_root = True
c.FileContentsManager.delete_to_trash = False
"""


class JupyterServer:
    """One process; use it in ``with``. Answers are kept, to see that none holds what it must not."""

    def __init__(self, folder: Path, *, config: str = "", env: dict[str, str] | None = None) -> None:
        self.root = folder / "work"
        self.root.mkdir(parents=True, exist_ok=True)
        self.log = folder / "jupyter.log"
        self.said: list[str] = []
        self.url = ""
        self._config = folder / "jupyter_server_config.py"
        self._config.write_text(f"{CONFIG}c.ServerApp.root_dir = {str(self.root)!r}\n{config}\n")
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._client: httpx.Client | None = None

    def __enter__(self) -> JupyterServer:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyter_server", f"--config={self._config}"],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=self._env, cwd=self.root,
            )  # fmt: skip
        port = asyncio.run(eventually(self._port))
        self.url = f"http://127.0.0.1:{port}"
        self._client = httpx.Client(base_url=self.url, trust_env=False, timeout=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """As by a user at its terminal, or by a service manager."""
        if self._client is not None:
            self._client.close()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(20)
                raise AssertionError(f"the Jupyter server did not end:\n{self.log.read_text()[-4000:]}") from None

    def _port(self) -> int:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        listening = psutil.Process(self._process.pid).net_connections("tcp")
        return next((each.laddr.port for each in listening if each.status == psutil.CONN_LISTEN), 0)

    def troubles(self) -> list[str]:
        """Lines of its log that tell of errors in the extension, or of tasks that it left behind."""
        # A task that was destroyed is ours if the next line says where it runs; ipykernel leaves some behind, too.
        signs = ("jupyter_gpuaas/server/", "Uncaught exception", "never retrieved", "could not be told")
        return [line for line in self.log.read_text().splitlines() if any(sign in line for sign in signs)]

    # -- requests ------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None, *, token: str = ANN, **more: Any) -> httpx.Response:
        """A request to the extension."""
        return self.raw(method, f"/jupyter-gpuaas/{path}", body, token=token, **more)

    def raw(self, method: str, path: str, body: Any = None, *, token: str = ANN, **more: Any) -> httpx.Response:
        """A request to the Jupyter server, without the cookies of earlier ones."""
        assert self._client is not None
        self._client.cookies.clear()
        headers = {"Authorization": f"token {token}"} if token else {}
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        answer = self._client.request(method, path, content=content, headers=headers, **more)
        self.said.append(answer.text)
        return answer

    def ready(self) -> None:
        """Start the service and wait until events come."""
        assert self.ask("POST", "service/start").status_code in (200, 202)
        self.until("ready")

    def until(self, state: str) -> dict[str, Any]:
        """``GET service``, as soon as it is in this state."""

        def look() -> dict[str, Any] | None:
            view: dict[str, Any] = self.ask("GET", "service").json()
            return view if view["state"] == state else None

        found: dict[str, Any] = asyncio.run(eventually(look))
        return found

    # -- kernels -------------------------------------------------------------------------------------

    def start_kernel(self, path: str, name: str = "remote_gpu") -> str:
        """Open a notebook with a kernel, as JupyterLab does; gives the kernel's id."""
        body = {"path": path, "name": Path(path).name, "type": "notebook", "kernel": {"name": name}}
        answer = self.raw("POST", "/api/sessions", body)
        assert answer.status_code == 201, answer.text
        kernel_id: str = answer.json()["kernel"]["id"]
        return kernel_id

    def session_of(self, kernel_id: str) -> dict[str, Any]:
        """The kernel's session, as soon as it is there and can run cells."""

        def look() -> dict[str, Any] | None:
            found = self.ask("GET", f"kernels/{kernel_id}").json()["session"]
            if found is None:
                return None
            view: dict[str, Any] = self.ask("GET", f"v1/sessions/{found['id']}").json()
            return view["session"] if view.get("session", {}).get("state") in ("idle", "busy") else None

        session: dict[str, Any] = asyncio.run(eventually(look, 60))
        return session

    def end_kernel(self, kernel_id: str) -> None:
        assert self.raw("DELETE", f"/api/kernels/{kernel_id}").status_code == 204

    @contextlib.asynccontextmanager
    async def events(self) -> AsyncIterator[Events]:
        """Jupyter's own event stream."""
        async with self._socket("/api/events/subscribe") as socket:
            yield Events(socket)

    @contextlib.asynccontextmanager
    async def channels(self, kernel_id: str) -> AsyncIterator[Channels]:
        """A kernel's channels, as a browser's tab has them."""
        session = uuid.uuid4().hex
        async with self._socket(f"/api/kernels/{kernel_id}/channels?session_id={session}") as socket:
            yield Channels(socket, session)

    def _socket(self, path: str) -> connect:
        return connect(
            f"{self.url.replace('http', 'ws', 1)}{path}",
            additional_headers={"Authorization": f"token {ANN}"},
            proxy=None,
            compression=None,
            max_size=None,
        )


class Events:
    """What the Jupyter server tells."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.heard: list[dict[str, Any]] = []

    async def until(self, schema: str, **wanted: Any) -> dict[str, Any]:
        """The next event of this schema with these fields; all on the way are kept."""
        while True:
            event = json.loads(await asyncio.wait_for(self._socket.recv(), 60))
            self.heard.append(event)
            fits = all(event.get(name) == value for name, value in wanted.items())
            if event["schema_id"] == f"urn:jupyter-gpuaas:{schema}:v1" and fits:
                return dict(event)


class Channels:
    """One tab's side of a kernel."""

    def __init__(self, socket: ClientConnection, session: str) -> None:
        self._socket = socket
        self._session = session

    async def send(self, code: str, cell_id: str = "") -> str:
        """Ask for a cell; gives the id of the request."""
        msg_id = uuid.uuid4().hex
        header = {
            "msg_id": msg_id, "msg_type": "execute_request", "session": self._session, "username": "", "version": "5.3",
            "date": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
        metadata = {"cellId": cell_id} if cell_id else {}
        message = {
            "header": header, "parent_header": {}, "metadata": metadata, "content": content, "channel": "shell",
            "buffers": [],
        }  # fmt: skip
        await self._socket.send(json.dumps(message))
        return msg_id

    async def until(self, msg_id: str, kind: str) -> dict[str, Any]:
        """The next message of this kind about a request."""
        while True:
            message: dict[str, Any] = json.loads(await asyncio.wait_for(self._socket.recv(), 60))
            if message["parent_header"].get("msg_id") == msg_id and message["header"]["msg_type"] == kind:
                return message


def with_token(home: Path, said: list[str]) -> list[str]:
    """Which of the answers hold the service's token, or a ticket."""
    token = (home / "token").read_text().strip()
    return [text for text in said if token in text or '"ticket"' in text]


def started(folder: Path, **options: Any) -> Iterator[JupyterServer]:
    """A server for a fixture."""
    with JupyterServer(folder, **options) as server:
        yield server
