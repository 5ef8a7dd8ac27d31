"""What the doctor finds, look by look."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpuaas import __version__
from jupyter_gpuaas.cli import doctor
from jupyter_gpuaas.cli.needs import Need, needs
from jupyter_gpuaas.config import Settings

WRITTEN = ["here>=2", "old>=3,<4", "gone", "some>=1; python_version < '3'", "ray>=2.52,<3; extra == 'ray'"]
HAS = {"here": "2.1", "old": "2.9", "ray": "3.0"}


def look(name: str, tmp_path: Path, **settings: Any) -> list[tuple[str, str]]:
    """Level and words of one look's findings."""
    found = getattr(doctor, f"_{name}")(Settings(home=str(tmp_path), **settings))
    return [(each.level, each.says) for each in found]


@contextlib.contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def service(*, apart_s: float = 0.0, nodes: bytes = b"[]") -> Iterator[str]:
    """One whose clock is wrong, or that tells this of its nodes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            looks_at_nodes = self.path == "/nodes"
            self.send_response(200 if not looks_at_nodes or self.headers["Authorization"] == "Bearer good" else 401)
            self.end_headers()
            self.wfile.write(nodes if looks_at_nodes else b'{"version": "%s"}' % __version__.encode())

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(time.time() + apart_s)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_needs_are_those_of_this_python_and_of_the_extras_asked_for() -> None:
    def found(*extras: str) -> list[tuple[str, str, str, bool]]:
        those = needs(extras, written=WRITTEN, version=lambda name: HAS.get(name, ""))
        return [(each.name, each.extra, each.has, each.fits) for each in those]

    all_need = [("here", "", "2.1", True), ("old", "", "2.9", False), ("gone", "", "", False)]
    assert found() == all_need
    assert found("torch", "ray") == [*all_need, ("ray", "ray", "3.0", False)]


def test_versions_of_what_is_installed_here_are_right(tmp_path: Path) -> None:
    found = look("versions", tmp_path)
    assert "failure" not in {level for level, _ in found}
    assert any("ipykernel 7" in says for _, says in found)


def test_package_that_is_missing_or_old_is_a_failure_and_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [Need(name="ipykernel", wants=">=7.1", has="6.0"), Need(name="h11", wants=">=0.14", has="")]
    monkeypatch.setattr(doctor, "needs", lambda extras=(): iter(made))
    found = look("versions", tmp_path)
    assert ("failure", "ipykernel is 6.0, >=7.1 is needed") in found
    assert ("failure", "h11 is not installed, >=0.14 is needed") in found
    assert any("0 of 2 packages fit" in says for _, says in found)


@pytest.mark.parametrize(("apart_s", "level"), [(0.0, "ok"), (90.0, "warning"), (-90.0, "warning")])
def test_clock_of_the_service_that_is_wrong_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart_s: float, level: str
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with service(apart_s=apart_s) as url:
        found = doctor._service(Settings(home=str(tmp_path), url=url))
        assert [each.level for each in found if each.what == "clocks"] == ["note", level]


def test_clocks_of_nodes_that_are_wrong_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    nodes = [("fine", 0.4), ("fast", 61.0), ("slow", -7.6), ("away", None)]
    listed = json.dumps([{"id": name, "clock_ahead_s": ahead_s} for name, ahead_s in nodes]).encode()
    with service(nodes=listed) as url:
        found = look("service", tmp_path, url=url, token="good")
        assert ("warning", "node fast is 61 s ahead of the service") in found
        assert ("warning", "node slow is 8 s behind the service") in found
        assert ("ok", "3 of 4 nodes were compared with the service") in found
        assert len(found) == 5, found
        assert any("wants a token" in says for _, says in look("service", tmp_path, url=url, token="bad"))


def test_port_that_is_in_use_is_a_failure(tmp_path: Path) -> None:
    with listening() as port:
        assert [level for level, _ in look("service", tmp_path, port=port)] == ["note", "failure"]


def test_store_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ((level, says),) = look("store", tmp_path, checkpoint_store=str(tmp_path / "file" / "checkpoints"))
    assert level == "failure" and "cannot be written: Not a directory" in says
    ((level, _),) = look("store", tmp_path, checkpoint_store=str(tmp_path / "new" / "checkpoints"))
    assert level == "ok" and not (tmp_path / "new").exists()


def test_ray_is_looked_at_only_where_it_is_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert look("ray", tmp_path) == []
    fits = Need(name="ray", wants=">=2.52,<3", has="2.60.0", extra="ray")
    monkeypatch.setattr(doctor, "needs", lambda extras=(): iter([fits]))
    levels = [level for level, _ in look("ray", tmp_path, engine="ray")]
    assert levels == ["ok", "warning", "note"]  # no token; whichever cluster Ray finds
    token = tmp_path / "ray.token"
    token.write_text("t")
    token.chmod(0o640)
    with listening() as port:
        given = {"engine": "ray", "ray_address": f"127.0.0.1:{port}", "ray_token_file": str(token)}
        assert [level for level, _ in look("ray", tmp_path, **given)] == ["ok", "failure", "ok"]
        token.chmod(0o600)
        assert [level for level, _ in look("ray", tmp_path, **given)] == ["ok", "ok", "ok"]
    token.unlink()
    assert [level for level, _ in look("ray", tmp_path, **given)] == ["ok", "failure", "failure"]
    for has in ("", "1.9"):
        wrong = Need(name="ray", wants=">=2.52,<3", has=has, extra="ray")
        monkeypatch.setattr(doctor, "needs", lambda extras=(), wrong=wrong: iter([wrong]))
        assert look("ray", tmp_path, engine="ray")[0][0] == "failure"
