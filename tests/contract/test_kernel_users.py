"""Kernels of another user of the operating system, and kernels that a command of one's own starts."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import stat
import sys
from pathlib import Path

import pytest

import jupyter_gpuaas
from jupyter_gpuaas.errors import SettingError
from jupyter_gpuaas.model import SessionState
from jupyter_gpuaas.node.kernel_launch import check_reachable, find_user
from tests.conftest import GpuaasHome
from tests.roaming import Outputs, Roamer, roaming
from tests.service import Service, running_service

USER = "nobody"


@pytest.fixture
def another_user() -> pwd.struct_passwd:
    """A user as whom kernels can be run here."""
    if os.geteuid() != 0:
        pytest.skip("NOT ROOT: kernels of another user are not tested")
    try:
        check_reachable(find_user(USER), [sys.executable, sys.prefix, jupyter_gpuaas.__file__])
    except SettingError as error:
        pytest.skip(f"KERNELS OF ANOTHER USER ARE NOT TESTED: {error}")
    return pwd.getpwnam(USER)


async def interrupted(service: Service, roamer: Roamer) -> str:
    """How a cell ends that is interrupted."""
    outputs = Outputs()
    running = asyncio.ensure_future(roamer.run("import time; print('begun'); time.sleep(3600)", outputs))
    await asyncio.wait_for(outputs.heard.wait(), 60)
    await service.admin.interrupt(roamer.id)
    reply = await asyncio.wait_for(running, 60)
    return str(reply["ename"])


async def test_kernel_is_another_users_and_its_session_moves(
    gpuaas_home: GpuaasHome, another_user: pwd.struct_passwd
) -> None:
    home = gpuaas_home.path
    async with running_service(home, nodes=2, kernel_user=USER) as service, roaming(service, relay="never") as roamer:
        seen = await roamer.said(
            "import os, pathlib; x = [7]\n"
            "pathlib.Path('mine.txt').write_text('mine')\n"
            "print(os.getuid(), os.geteuid(), os.getgid(), os.getgroups(), os.environ['USER'])"
        )
        uid, gid = another_user.pw_uid, another_user.pw_gid
        assert seen == f"{uid} {uid} {gid} {os.getgrouplist(USER, gid)} {USER}"

        # What is the service's is closed to it; what is its own is not.
        secrets = [home / "token", home / "controller.db", *home.glob("nodes/*/token"), *home.glob("nodes/*/hosts/*")]
        assert len(secrets) >= 4
        tried = "".join(
            f"\ntry:\n    open({str(path)!r})\n    print('OPEN')\nexcept PermissionError: print('closed')"
            for path in secrets
        )
        assert (await roamer.said(tried)).split() == ["closed"] * len(secrets)
        listed = f"import os\ntry: print(os.listdir({str(home)!r}))\nexcept PermissionError: print('closed')"
        assert await roamer.said(listed) == "closed"
        regain = "try:\n    os.setuid(0)\n    print('root')\nexcept PermissionError: print('closed')"
        assert await roamer.said(regain) == "closed"

        # Its checkpoints are there, and it moves with its file.
        # What another machine could not restore of its packages is no matter here.
        moved = await roamer.migrate(accept_loss=True)
        assert moved.phase == "done", moved.cause
        assert await roamer.said("x.append(8); print(x, open('mine.txt').read(), os.stat('mine.txt').st_uid)") == (
            f"[7, 8] mine {uid}"
        )
        assert await roamer.said("open('mine.txt', 'a').write('!'); print(os.getuid())") == str(uid)
        # An interrupt reaches it.
        assert await interrupted(service, roamer) == "KeyboardInterrupt"
        for folder in (home, home / "nodes"):
            assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0o001


async def test_session_of_an_owner_whom_the_machine_does_not_know_fails_and_says_so(
    gpuaas_home: GpuaasHome, another_user: pwd.struct_passwd
) -> None:
    async with running_service(gpuaas_home.path, kernel_user="{owner}") as service:
        async with service.client("nobody-knows-ann") as ann:
            view = await ann.create_session("hers", wait_s=30)
            assert view.session.state == SessionState.FAILED
            assert "this machine has no user 'nobody-knows-ann'" in view.session.cause
        async with service.client(USER) as user, roaming(service, client=user) as roamer:
            assert await roamer.said("import os; print(os.getuid())") == str(another_user.pw_uid)


@pytest.mark.parametrize("last", ['exec "$@"', '"$@"'])
async def test_kernel_is_started_by_a_command_of_ones_own(gpuaas_home: GpuaasHome, tmp_path: Path, last: str) -> None:
    told = tmp_path / "told"
    wrapper = tmp_path / "a wrapper.sh"
    wrapper.write_text(
        "#!/bin/sh\n"
        f"printf '%s\\n' \"$@\" > '{told}'\n"
        'while [ "$1" != -- ]; do shift; done; shift\n'
        "export WRAPPED=yes\n"
        # A shell in between waits for its child, and must not end at an interrupt.
        "trap : INT\n"
        f"{last}\n"
    )
    wrapper.chmod(0o755)
    wrap = f"'{wrapper}' {{work}} {{owner}} --"
    async with running_service(gpuaas_home.path, kernel_wrap=wrap, workdir="session") as service:
        async with roaming(service, relay="never") as roamer:
            assert await roamer.said("import os; print(os.environ['WRAPPED'])") == "yes"
            arguments = told.read_text().splitlines()
            assert arguments[0] == await roamer.said("print(os.getcwd())")
            owner = (await roamer.look()).owner
            assert arguments[1:3] == [owner, "--"] and arguments[3] == sys.executable
            assert await interrupted(service, roamer) == "KeyboardInterrupt"
            assert await roamer.said("print(6 * 7)") == "42"


async def test_kernel_lives_in_mounts_of_its_own(gpuaas_home: GpuaasHome, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("NO unshare, OR NOT ROOT: kernels in namespaces are not tested")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "secret").write_text("x")
    shell = f'mount -t tmpfs none "{hidden}" && exec "$@"'
    wrap = f"{unshare} --mount sh -c '{shell}' sh"
    async with running_service(gpuaas_home.path, kernel_wrap=wrap) as service:
        async with roaming(service) as roamer:
            assert await roamer.said(f"import os; print(os.listdir({str(hidden)!r}))") == "[]"
    assert (hidden / "secret").exists()


async def test_command_that_ends_at_once_fails_the_session_and_says_so(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, kernel_wrap="false") as service:
        view = await service.admin.create_session("never", wait_s=30)
        assert view.session.state == SessionState.FAILED
        assert "exited with status 1" in view.session.cause
