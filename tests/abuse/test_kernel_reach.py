"""A cell that takes whatever it finds in its environment, its folder and its open files for a way into the service."""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.conftest import GpuaasHome
from tests.roaming import roaming
from tests.service import Service, running_service

#: What a cell can find without looking into folders of others: its environment, its arguments, what its process has
#: open, the files below its working folder, and the strings of all objects of its process.
SEARCH = r"""
import gc, os, pathlib, re, sys
found = set()
def take(text):
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    # As a token, a ticket or a part of one may be written.
    found.update(re.findall(r"[A-Za-z0-9_.\-]{16,400}", text))
for name, value in os.environ.items():
    take(value)
for argument in sys.orig_argv:
    take(argument)
for entry in os.listdir("/proc/self/fd"):
    try:
        take(os.readlink(f"/proc/self/fd/{entry}"))
    except OSError:
        pass
for folder in {os.getcwd(), os.environ["GPUAAS_WORK"]}:
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file():
            take(path.read_bytes()[:100_000])
near, found = found, set()
for each in gc.get_objects():
    if isinstance(each, dict):
        for value in list(each.values()):
            if isinstance(value, (str, bytes)) and 16 <= len(value) <= 400:
                take(value)
print((sorted(near), sorted(found)))
"""


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path, devices="cpu:2", workdir="session") as running:
        yield running


async def test_nothing_that_a_cell_finds_opens_the_service_or_another_session(service: Service) -> None:
    async with service.client("ann") as ann, service.client("eve") as eve:
        hers = (await ann.create_session("hers", wait_s=60)).session
        await ann.take_checkpoint(hers.id)
        async with roaming(service, "mine", client=eve) as mine:
            found, others = ast.literal_eval(await mine.said(SEARCH))
            assert mine.id in found, "the cell has looked"
            # Nothing of these is even there to be found.
            live = service.controller.sessions.get(mine.id)
            other = service.controller.sessions.get(hers.id)
            assert live is not None and other is not None
            secrets = {
                "token of the service": service.token,
                "her token": ann.token,
                "my token": eve.token,
                "secret of my session": live.record.secret,
                "secret of her session": other.record.secret,
                "key of her checkpoints": service.controller.database.checkpoint_key("ann"),
            }
            text = " ".join((*found, *others))
            assert [what for what, secret in secrets.items() if secret in text] == []
            way = await ann.ticket(hers.id)
            agent = way.bundle_url.partition("/v1/")[0]
            async with httpx.AsyncClient(trust_env=False, verify=False, timeout=30) as http:
                for word in found:
                    headers = {"Authorization": f"Bearer {word}"}
                    for url in (f"{service.url}/sessions", f"{agent}/v1/hosts", f"{way.bundle_url}/b1"):
                        answer = await http.get(url, headers=headers)
                        assert answer.status_code == 401, (url, word)
                # Nor without any: another session's name, or a header of a proxy, is no proof of anything.
                for headers in (
                    {"X-Forwarded-User": "ann", "Remote-User": "ann", "X-Forwarded-For": "127.0.0.1"},
                    {"Cookie": f"gpuaas-visit={service.token}"},
                ):
                    assert (await http.get(f"{service.url}/sessions", headers=headers)).status_code == 401
            for word in found[:50]:
                with pytest.raises(InvalidStatus) as refused:
                    await connect(
                        f"{way.direct_url}?client=c", additional_headers={"Authorization": f"Bearer {word}"}, proxy=None
                    )
                assert refused.value.response.status_code == 401
        assert (await ann.session(hers.id)).session.state in ("idle", "busy")


async def test_variables_that_a_client_sends_along_do_not_make_a_kernel_somebody_else(service: Service) -> None:
    """What a front end puts into the environment of its own kernel is only that."""
    async with service.client("eve") as eve:
        view = await eve.create_session("mine", env={"GPUAAS_SESSION_ID": "f" * 32, "GPUAAS_TOKEN": "x"}, wait_s=60)
        async with roaming(service, "mine", client=eve) as mine:
            said = await mine.said("import os; print(os.environ['GPUAAS_SESSION_ID'])")
        assert said == view.session.id
