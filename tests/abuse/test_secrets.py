"""Secrets are where they belong: not in arguments, logs, events or outputs, and not in a kernel."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jupyter_gpuaas.cli.authority import Authority
from jupyter_gpuaas.client.embedded import find_running
from jupyter_gpuaas.client.migrations import follow_migration
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.errors import Unauthorized
from jupyter_gpuaas.wire import ticket
from tests.conftest import GpuaasHome
from tests.fault.session import ProxyRun

SETTINGS = """
tls = "on"
nodes = 2
devices = "cpu:1"
spare_kernels = 1
workdir = "session"
log_format = "json"
"""
WRONG = "a-token-that-nobody-has-made-4711"
#: Of the environment of whoever starts the service.
OF_THE_SERVICE = {"PGPASSWORD": "password-of-a-database", "JUPYTERHUB_API_TOKEN": "token-of-a-hub-service"}
TELL = """
import glob, os
print(sorted(os.environ.items()))
print(open('/proc/self/cmdline').read())
for path in glob.glob(os.path.dirname(os.environ['GPUAAS_DATA_SOCKET']) + '/*.json'): print(open(path).read())
print(globals().keys())
"""


@pytest.fixture
def home(gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch) -> Iterator[GpuaasHome]:
    Authority(gpuaas_home.path / "certs").init()
    Authority(gpuaas_home.path / "certs").issue("service", ["127.0.0.1"])
    (gpuaas_home.path / "settings.toml").write_text(SETTINGS)
    for name, value in OF_THE_SERVICE.items():
        monkeypatch.setenv(name, value)
    gpuaas_home.cli("up", "--detach")
    yield gpuaas_home


class Secrets:
    """What is looked for, by name."""

    def __init__(self) -> None:
        self.known: dict[str, bytes] = {}

    def add(self, name: str, value: str | bytes) -> None:
        data = value.encode() if isinstance(value, str) else value
        assert len(data) >= 12, name
        self.known[name] = data

    def found_in(self, data: bytes, *, but: tuple[str, ...] = ()) -> list[str]:
        return [name for name, value in self.known.items() if value in data and not name.startswith(but or ("-",))]


def database(home: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{home / 'controller.db'}?mode=ro", uri=True)


async def token_of_a_user(home: GpuaasHome, secrets: Secrets) -> dict[str, str]:
    """The environment of a user of the service."""
    endpoint = await find_running(home.path)
    assert endpoint is not None
    async with ServiceClient(endpoint.url, endpoint.token, ca=endpoint.ca) as admin:
        made = await admin.create_token("ann", label="for a test")
    secrets.add("token of a user", made.token)
    return {"GPUAAS_URL": endpoint.url, "GPUAAS_TOKEN": made.token, "GPUAAS_CA": endpoint.ca}


async def move(environ: dict[str, str], secrets: Secrets) -> None:
    """Move the user's session, and knock with a wrong token."""
    url, ca = environ["GPUAAS_URL"], environ["GPUAAS_CA"]
    async with ServiceClient(url, environ["GPUAAS_TOKEN"], ca=ca) as ann:
        (session,) = await ann.sessions()
        view = await follow_migration(ann, await ann.migrate(session.id), lambda text: None)
        assert view.phase == "done", view
        secrets.add("ticket", (await ann.ticket(session.id)).ticket)
    async with ServiceClient(url, WRONG, ca=ca) as nobody:
        with pytest.raises(Unauthorized):
            await nobody.sessions()


def use(home: GpuaasHome, secrets: Secrets, folder: Path) -> str:
    """Let a user do what users do; answers with what a kernel has told of itself."""
    environ = asyncio.run(token_of_a_user(home, secrets))
    run = ProxyRun(folder, "hers", environ)
    try:
        run.ready()
        msg_id = run.client.execute(TELL)
        run.wait_done(msg_id)
        asyncio.run(move(environ, secrets))
        for process in psutil.process_iter():  # while all runs
            try:
                arguments = "\0".join(process.cmdline()).encode()
            except psutil.Error:
                continue
            assert not secrets.found_in(arguments), process
        return run.text(msg_id)
    finally:
        run.close()


def gather(home: Path, secrets: Secrets) -> None:
    secrets.add("token of the admin", (home / "token").read_text().strip())
    for path in home.glob("nodes/*/token"):
        secrets.add(f"token of agent {path.parent.name}", path.read_text().strip())
    for path in home.glob("certs/*.key"):
        secrets.add(f"key {path.name}", b"".join(path.read_bytes().splitlines()[1:-1])[:40])
    for name, value in OF_THE_SERVICE.items():
        secrets.add(f"variable {name}", value)
    secrets.add("wrong token", WRONG)


def gather_stored(home: Path, secrets: Secrets) -> None:
    """What the service keeps in its database, and nowhere else."""
    with database(home) as db:
        for (record,) in db.execute("select record from sessions"):
            secrets.add("stored: secret of a session", json.loads(record)["secret"])
        for (key,) in db.execute("select key from checkpoint_keys"):
            secrets.add("stored: key of an owner", key)


@pytest.mark.sqlite
def test_secrets_are_in_their_files_and_nowhere_else(home: GpuaasHome, tmp_path: Path) -> None:
    secrets = Secrets()
    gather(home.path, secrets)
    told = use(home, secrets, tmp_path)
    gather_stored(home.path, secrets)
    assert len(secrets.known) >= 12

    # What a kernel can find in its environment, arguments and folder.
    assert "GPUAAS_SESSION_ID" in told and not secrets.found_in(told.encode())

    # What anybody may print, an admin too.
    for command in (
        ("events", "--json"), ("audit", "--json"), ("sessions", "--all", "--json"), ("nodes", "--json"),
        ("tokens", "list", "--json"), ("users", "list", "--json"), ("status", "--json"), ("doctor", "--json"),
        ("certs", "show", "--json"), ("story", "hers"), ("usage", "--json"),
    ):  # fmt: skip
        said = home.cli(*command, check=False)
        assert said.stdout, (command, said.stderr)
        assert not secrets.found_in(f"{said.stdout}{said.stderr}".encode()), command

    # What lies on disk: each secret in its own file, which only its user can read, and nowhere else.
    looked_at = 0
    for path in [*home.path.rglob("*"), *tmp_path.rglob("*.log")]:
        if not path.is_file():
            continue
        found = secrets.found_in(path.read_bytes())
        looked_at += 1
        relative = str(path.relative_to(home.path)) if path.is_relative_to(home.path) else path.name
        allowed = (
            ("token of the admin",) if relative == "token"
            else ("token of agent",) if path.name == "token"
            else ("key ",) if path.suffix == ".key"
            else ("stored: ",) if relative.startswith("controller.db")
            else ("stored: secret",) if path.parent.name == "hosts" or path.name == "remains.json"
            else ()
        )  # fmt: skip
        assert [name for name in found if not name.startswith(allowed or ("-",))] == [], relative
        if found:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, relative
    assert looked_at > 20
    assert (home.path / "service.log").stat().st_size > 0


def test_secrets_do_not_show_where_things_are_printed() -> None:
    issued = ticket.issue("secret of a session", session_id="s", epoch=1, user="ann", expires_s=1e12)
    with pytest.raises(Unauthorized) as refused:
        ticket.check(issued, "another secret", session_id="s", epoch=1, now_s=0.0)
    assert issued not in str(refused.value) and "secret" not in str(refused.value)
