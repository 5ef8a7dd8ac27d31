"""schemathesis over the service's own description: no server errors, and no answer that is not described."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_gpuaas.client.embedded import read_service_file
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.model import SessionState
from tests.conftest import GpuaasHome
from tests.service import eventually

pytest.importorskip("schemathesis", reason="schemathesis is not installed (make test-api)")
from tests.api.hooks import NODE, SESSIONS

pytestmark = [pytest.mark.api, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
EXAMPLES = int(os.environ.get("GPUAAS_API_EXAMPLES", "25"))
SETTINGS = """
devices = "cpu:3"
spare_kernels = 0
stop_timeout_s = 2.0
sessions_per_user = 8
park_for_waiting_s = 0.0
turn_s = 0.0
"""
#: Not among them: whether what the description calls valid is taken, and what it does not, refused. Names, selectors
#: and states have rules that no schema says.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
    "use_after_free",
)


async def prepare(url: str, token: str) -> dict[str, str]:
    """Sessions in three states and a node, as the hooks expect them."""
    async with ServiceClient(url, token) as admin:
        idle, parked, ended = [(await admin.create_session(name, wait_s=60)).session for name in "abc"]
        await admin.take_checkpoint(idle.id, name="known")
        await admin.release(ended.id)
        await admin.park(parked.id)

        async def is_parked() -> bool:
            return (await admin.session(parked.id)).session.state is SessionState.PARKED

        await eventually(is_parked)
        nodes = await admin.nodes()
    return {SESSIONS: ",".join((idle.id, parked.id, ended.id)), NODE: nodes[-1].id}


async def still_serves(url: str, token: str) -> None:
    """Whatever was made up: sessions can be ended, and a new one be had."""
    async with ServiceClient(url, token) as admin:
        for session in await admin.sessions():
            await admin.release(session.id)
        for node in await admin.nodes():
            await admin.cordon(node.id, cordoned=False)
        view = await admin.create_session("afterwards", wait_s=60)
        assert view.session.state is SessionState.IDLE, view.session


def test_every_answer_is_described_and_none_is_a_failure(gpuaas_home: GpuaasHome, tmp_path: Path) -> None:
    (gpuaas_home.path / "settings.toml").write_text(SETTINGS)
    gpuaas_home.cli("up", "--detach", "--nodes", "2")
    written = read_service_file(gpuaas_home.path)
    assert written is not None
    token = (gpuaas_home.path / "token").read_text().strip()
    known = asyncio.run(prepare(written.url, token))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{written.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {token}"),
            *("--checks", ",".join(CHECKS)),
            # It ends the service.
            *("--exclude-path", "/stop"),
            *("--max-examples", str(EXAMPLES)),
            *("--continue-on-failure", "--no-color", "--workers", "1", "--request-timeout", "60"),
            *("--generation-database", "none", "--warnings", "off"),
            *("--suppress-health-check", "all"),
            *("--seed", os.environ.get("GPUAAS_API_SEED", "1")),
        ],
        cwd=tmp_path,
        env={**os.environ, **known, "SCHEMATHESIS_HOOKS": "tests.api.hooks", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1400,
    )
    print(done.stdout[-20_000:], done.stderr[-4000:])
    log = (gpuaas_home.path / "service.log").read_text()
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]
    assert done.returncode == 0
    asyncio.run(still_serves(written.url, token))
