"""The proxy's sockets towards Jupyter clients."""

from __future__ import annotations

import json
from pathlib import Path

from jupyter_gpuaas.proxy.front import Front


async def test_connection_file_that_is_not_there_is_made_with_a_key_for_its_user_only(tmp_path: Path) -> None:
    """Ports of loopback are there for all users of a machine: without a key, each could run code here."""
    made = tmp_path / "kernel.json"
    front = Front(made, lambda *_: None, lambda _: None)
    front.close(linger_ms=0)
    assert made.stat().st_mode & 0o777 == 0o600
    written = json.loads(made.read_text())
    assert len(written["key"]) == 32 and written["shell_port"]


async def test_connection_file_keeps_what_its_client_has_chosen(tmp_path: Path) -> None:
    given = tmp_path / "kernel.json"
    given.write_text(json.dumps({"key": "", "kernel_name": "remote_gpu"}))
    front = Front(given, lambda *_: None, lambda _: None)
    front.close(linger_ms=0)
    written = json.loads(given.read_text())
    assert (written["key"], written["kernel_name"]) == ("", "remote_gpu")
