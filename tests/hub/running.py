"""A real JupyterHub with its dummy authenticator and its spawner of plain processes, and a browser that logs in."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect

from tests.conftest import processes_with
from tests.server.running import Channels
from tests.service import eventually

PASSWORD = "of everybody"
WAIT_S = 60
#: `make test-hub` puts the Hub's proxy here.
PROXY = Path(sys.prefix) / "hub" / "node_modules" / ".bin" / "configurable-http-proxy"

CONFIG = """
c.JupyterHub.bind_url = {url!r}
c.JupyterHub.hub_port = {hub_port}
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_port}"
c.JupyterHub.db_url = "sqlite:///{folder}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{folder}/cookies"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {password!r}
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "{folder}/home/{{username}}"
c.Spawner.args = ["--allow-root"]
c.Spawner.start_timeout = 60
# What follows is what docs/deploy/jupyterhub.md says.
c.JupyterHub.services = [
    {{"name": "gpuaas", "url": {service!r}, "api_token": {service_token!r}, "oauth_no_confirm": True,
      "oauth_redirect_uri": "{url}/services/gpuaas/oauth_callback"}},
    {{"name": "tests", "api_token": {admin!r}}},
]
c.JupyterHub.custom_scopes = {{"custom:gpuaas:read": {{"description": "Look at remote sessions"}}}}
c.JupyterHub.load_groups = {{"gpu-admins": {{"users": ["boss"]}}}}
c.JupyterHub.load_roles = [
    {{"name": "user", "scopes": ["self", "access:services!service=gpuaas", "custom:gpuaas:read"]}},
    {{"name": "server", "scopes": ["users:activity!user", "access:servers!server", "access:services!service=gpuaas"]}},
    {{"name": "tests", "services": ["tests"], "scopes": ["admin:users", "admin:servers", "tokens", "access:servers"]}},
]
c.Spawner.environment = {{"GPUAAS_URL": {service!r}, "GPUAAS_TOKEN_VARIABLE": "JUPYTERHUB_API_TOKEN"}}
"""


def why_not() -> str:
    """Why there can be no Hub here; empty where there can."""
    if importlib.util.find_spec("jupyterhub") is None:
        return "JupyterHub is not installed (`make test-hub` installs it)"
    if not _proxy():
        return "configurable-http-proxy is not installed (`make test-hub` installs it)"
    return ""


def _proxy() -> str:
    return str(PROXY) if PROXY.exists() else shutil.which("configurable-http-proxy") or ""


def free_ports(count: int) -> list[int]:
    """Ports that nobody has just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass
class Hub:
    """A Hub, as its admin and its users see it."""

    folder: Path
    #: Of the service, which is to be started with `settings` before the Hub.
    service: str = ""
    ports: list[int] = field(default_factory=lambda: free_ports(3))
    admin: str = field(default_factory=lambda: secrets.token_hex(32))
    service_token: str = field(default_factory=lambda: secrets.token_hex(32))
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where browsers reach it."""
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def settings(self) -> dict[str, str]:
        """Of a service whose users are those of the Hub."""
        return {
            "hub_api_url": f"http://127.0.0.1:{self.ports[1]}/hub/api",
            "hub_api_token": self.service_token,
            "hub_url": f"{self.url}/hub",
            "hub_admin_group": "gpu-admins",
            "public_url": f"{self.url}/services/gpuaas",
        }

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """From when it answers until it and all that it has started have ended."""
        config, mark = self.folder / "jupyterhub_config.py", secrets.token_hex(16)
        config.write_text(
            CONFIG.format(
                url=self.url,
                hub_port=self.ports[1],
                proxy_port=self.ports[2],
                proxy=_proxy(),
                folder=self.folder,
                password=PASSWORD,
                service=self.service,
                service_token=self.service_token,
                admin=self.admin,
            )
        )
        env = {key: value for key, value in os.environ.items() if not key.startswith(("GPUAAS_", "JPY_"))}
        # Spawned servers are started by the name of their program.
        env |= {"PATH": f"{Path(sys.executable).parent}:{env.get('PATH', '')}", "GPUAAS_TEST_HUB": mark}
        with open(self.folder / "hub.log", "ab") as log:
            process = self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", f"--config={config}"],
                cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        started = [psutil.Process(process.pid)]
        try:
            yield
        finally:
            started += [*started[0].children(recursive=True), *processes_with("GPUAAS_TEST_HUB", mark)]
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            for each in started:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            process.wait(30)

    async def answers(self) -> None:
        """Wait until the proxy leads to the Hub."""

        async def look() -> bool:
            assert self.process is not None and self.process.poll() is None, "it has ended"
            try:
                async with self.client() as http:
                    return (await http.get("/hub/api/")).status_code == 200
            except httpx.HTTPError:
                return False

        try:
            await eventually(look, WAIT_S)
        except AssertionError:
            pytest.fail(f"the Hub does not answer:\n{(self.folder / 'hub.log').read_text()[-4000:]}")

    def client(self, **more: Any) -> httpx.AsyncClient:
        """A client of everything behind the Hub's proxy."""
        return httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=WAIT_S, **more)

    async def api(self, method: str, path: str, body: Any = None) -> Any:
        """A request to the Hub, as somebody who may do everything."""
        async with self.client(headers={"Authorization": f"token {self.admin}"}) as http:
            answer = await http.request(method, f"/hub/api{path}", json=body)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    async def token(self, user: str, *scopes: str) -> dict[str, Any]:
        """A new token of a user, who is made where there is none."""
        async with self.client(headers={"Authorization": f"token {self.admin}"}) as http:
            assert (await http.post(f"/hub/api/users/{user}")).status_code in (201, 409)
        made: dict[str, Any] = await self.api("POST", f"/users/{user}/tokens", {"scopes": list(scopes)})
        return made

    async def spawn(self, user: str) -> None:
        """Start a user's server, and wait for it."""
        await self.token(user, "access:servers!user")
        await self.api("POST", f"/users/{user}/server")

        async def look() -> bool:
            return bool((await self.api("GET", f"/users/{user}"))["servers"][""]["ready"])

        try:
            await eventually(look, WAIT_S)
        except (AssertionError, KeyError):
            pytest.fail(f"no server of {user}:\n{(self.folder / 'hub.log').read_text()[-4000:]}")

    @contextlib.asynccontextmanager
    async def channels(self, user: str, kernel: str) -> AsyncIterator[Channels]:
        """A kernel of a user's server."""
        async with connect(
            f"{self.url.replace('http', 'ws', 1)}/user/{user}/api/kernels/{kernel}/channels?session_id=s",
            additional_headers={"Authorization": f"token {self.admin}"},
            proxy=None,
            max_size=None,
        ) as socket:
            yield Channels(socket, "s")


async def log_in(http: httpx.AsyncClient, user: str, next_url: str) -> httpx.Response:
    """Fill in the Hub's form; where that leads to."""
    form = await http.get("/hub/login", params={"next": next_url}, headers={"Sec-Fetch-Mode": "navigate"})
    found = re.search(r'name="_xsrf" value="([^"]+)"', form.text)
    assert found is not None, form.text
    data = {"username": user, "password": PASSWORD, "_xsrf": found.group(1)}
    return await http.post("/hub/login", params={"next": next_url}, data=data)
