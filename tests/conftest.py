"""What every test can ask for: a service folder of its own, and nothing left running in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests import postgres as postgres_server
from tests.postgres import Server, need_postgres, running_server

DOWN_TIMEOUT_S = 30
LEFTOVER_TIMEOUT_S = 10


@dataclass(frozen=True)
class GpuaasHome:
    """A ``GPUAAS_HOME`` and the environment that makes a process use it."""

    path: Path

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "GPUAAS_HOME": str(self.path)}

    def cli(self, *arguments: str, timeout_s: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``python -m jupyter_gpuaas <arguments>`` against this folder's service."""
        return subprocess.run(
            [sys.executable, "-m", "jupyter_gpuaas", *arguments],
            env=self.env,
            stdin=subprocess.DEVNULL,  # nobody to ask
            timeout=timeout_s,
            check=check,
            capture_output=True,
            text=True,
        )

    def processes(self) -> list[psutil.Process]:
        """Return every process that was started with this folder in its environment."""
        return processes_with("GPUAAS_HOME", str(self.path))


def processes_with(variable: str, value: str) -> list[psutil.Process]:
    """Return the living processes, this one excepted, whose environment has this variable."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(variable) == value:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue
    return found


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid}: {' '.join(process.cmdline())}"
    except psutil.Error:
        return f"{process.pid}: gone since"


def close_home(home: GpuaasHome) -> None:
    """Stop the service of a folder, remove the folder, and fail if anything lives on."""
    problem = ""
    # Most tests start no service of this kind, and a process that finds none takes as long as many a test.
    if (home.path / "service.json").exists() or home.processes():
        try:
            down = home.cli("down", timeout_s=DOWN_TIMEOUT_S, check=False)
            problem = down.stderr if down.returncode else ""
        except subprocess.TimeoutExpired:
            problem = f"`down` did not end within {DOWN_TIMEOUT_S} s"
    psutil.wait_procs(home.processes(), timeout=LEFTOVER_TIMEOUT_S)
    left = home.processes()
    descriptions = [_describe(process) for process in left]
    for process in left:  # end exactly what this folder's service started, for the next test's sake
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=LEFTOVER_TIMEOUT_S)
    shutil.rmtree(home.path, ignore_errors=True)
    assert not problem, f"`down` failed: {problem}"
    assert not descriptions, "still running after `down`:\n" + "\n".join(descriptions)


def _new_home() -> GpuaasHome:
    # Not pytest's tmp_path: sockets live in there, and a socket's path may have 107 bytes only.
    return GpuaasHome(Path(tempfile.mkdtemp(prefix="gpuaas-")))


def _use(patch: pytest.MonkeyPatch, home: GpuaasHome) -> None:
    patch.setenv("GPUAAS_HOME", str(home.path))
    if postgres_server.for_services is not None:
        patch.setenv("GPUAAS_DATABASE_URL", postgres_server.for_services.database_of(str(home.path)))
    for name in ("GPUAAS_URL", "GPUAAS_TOKEN", "GPUAAS_SESSION", "JPY_SESSION_NAME"):
        patch.delenv(name, raising=False)


@pytest.fixture
def gpuaas_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[GpuaasHome]:
    """A fresh service folder for one test. Nothing is started: the first use does that."""
    home = _new_home()
    _use(monkeypatch, home)
    yield home
    close_home(home)


@pytest.fixture(scope="module")
def module_gpuaas_home() -> Iterator[GpuaasHome]:
    """One service folder for the tests of a file, which start the service once between them."""
    home = _new_home()
    with pytest.MonkeyPatch.context() as patch:
        _use(patch, home)
        yield home
        close_home(home)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server for databases of a test's own; skips where there can be none."""
    need_postgres()
    with running_server() as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what looks into the file of SQLite where services have none."""
    if os.environ.get(postgres_server.VARIABLE) == "postgresql":
        for item in items:
            if item.get_closest_marker("sqlite"):
                item.add_marker(pytest.mark.skip(reason="is about a service in SQLite"))


@pytest.fixture(scope="session", autouse=True)
def _database_of_services(request: pytest.FixtureRequest) -> None:
    """Services, and commands, use PostgreSQL where that is asked for; there it must not be skipped."""
    if os.environ.get(postgres_server.VARIABLE) == "postgresql":
        assert not postgres_server.why_not(), postgres_server.why_not()
        postgres_server.for_services = request.getfixturevalue("postgres")


@pytest.fixture(scope="session", autouse=True)
def _jupyter_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's Jupyter and IPython settings out of the tests, and the tests out of them.

    Kernelspecs are found all the same: they are installed beside the interpreter.
    """
    base = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            folder = base / name.lower()
            folder.mkdir(mode=0o700)
            patch.setenv(name, str(folder))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        patch.delenv("JUPYTER_PATH", raising=False)
        yield
