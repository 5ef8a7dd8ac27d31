"""What one user finds of another's: over the service's routes, with tickets, and in the store of checkpoints."""

from __future__ import annotations

import hashlib
import shutil
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from jupyter_gpuaas.controller.auth import Tokens
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.records import Role, TokenRecord
from jupyter_gpuaas.errors import (
    Forbidden,
    InvalidRequest,
    NoSuchCheckpoint,
    NoSuchSession,
    QuotaExceeded,
    StoreError,
)
from jupyter_gpuaas.model import ResourceRequest, Scope
from jupyter_gpuaas.state.checkpointer import Checkpointer
from jupyter_gpuaas.state.listing import owners_address
from jupyter_gpuaas.store import open_store, validate
from jupyter_gpuaas.store.defects import Forged
from tests.conftest import GpuaasHome
from tests.service import Service, eventually, running_service


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path, devices="cpu:2") as running:
        yield running


async def test_nothing_of_another_users_session_can_be_read(service: Service) -> None:
    async with service.client("ann") as ann, service.client("eve") as eve:
        hers = (await ann.create_session("work", wait_s=30)).session
        view = await ann.take_checkpoint(hers.id, name="secret")
        mine = (await eve.create_session("work", wait_s=30)).session
        for ask in (
            eve.cells(hers.id),
            eve.log(hers.id),
            eve.checkpoints(hers.id),
            eve.ticket(hers.id),
            eve.diff_checkpoints(hers.id, "-1", "-1"),
            eve.restore(hers.id, view.id, new="stolen"),
            eve.forget_checkpoint(hers.id, view.id),
        ):
            with pytest.raises(Forbidden):
                await ask
        # By a session of her own neither: each owner's checkpoints are a store of their own.
        for name in (view.id, "secret", "-1"):
            with pytest.raises(NoSuchCheckpoint):
                await eve.restore(mine.id, name, new="stolen")
        # At the node: the ticket of one session, and the token of the service, open no other's bundles.
        theirs, way = await ann.ticket(hers.id), await eve.ticket(mine.id)
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            for token in (way.ticket, eve.token, service.token, "x"):
                headers = {"Authorization": f"Bearer {token}"}
                base = theirs.bundle_url.removesuffix("/bundles")
                for path in ("bundles/b1", "transfer/manifest/" + view.id, "transfer/journal?after=0"):
                    assert (await http.get(f"{base}/{path}", headers=headers)).status_code == 401, path
        assert [each.id for each in await ann.checkpoints(hers.id)] == [view.id]
        assert {each.owner for each in (await eve.usage()).sessions} == {"eve"}


@pytest.mark.sqlite
async def test_checkpoint_is_not_read_with_another_users_key(service: Service, tmp_path: Path) -> None:
    async with service.client("ann") as ann:
        hers = (await ann.create_session("work", wait_s=30)).session
        view = await ann.take_checkpoint(hers.id)
    desk, database = service.controller.checkpoints, service.controller.database
    keys = {user: bytes.fromhex(database.checkpoint_key(user)) for user in ("ann", "eve")}
    assert keys["ann"] != keys["eve"]
    # Eve has come by the files, and puts them where hers are looked for.
    copy = tmp_path / "copy"
    shutil.copytree(owners_address(desk.address, "ann"), copy)
    for user, owner in (("eve", "ann"), ("eve", "eve")):
        store = open_store(str(copy))
        with pytest.raises(NoSuchCheckpoint):
            Checkpointer(store, key=keys[user], owner=owner, session=hers.id).find(view.id)
        with pytest.raises(Forged):
            validate(store.manifest(view.id), keys[user])
        store.close()
    store = open_store(str(copy))
    assert Checkpointer(store, key=keys["ann"], owner="ann", session=hers.id).find(view.id).id == view.id
    store.close()
    mode = stat.S_IMODE((service.controller.settings.folder / "controller.db").stat().st_mode)
    assert mode == 0o600


async def test_next_user_of_a_name_finds_nothing_of_the_former_one(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, database = service.controller.checkpoints, service.controller.database
    async with service.client("ann") as ann:
        hers = (await ann.create_session("work", wait_s=30)).session
        view = await ann.take_checkpoint(hers.id, name="secret")
        with pytest.raises(InvalidRequest, match="ann has 1 live sessions"):
            await service.admin.drop_user("ann")
        await ann.release(hers.id)
        await eventually(lambda: service.controller.sessions.get(hers.id) is None)
        await service.admin.reserve("ann", 1, until_s=time.time() + 3600)
        assert [each.id for each in await ann.checkpoints(hers.id)] == [view.id]
    key = database.checkpoint_key("ann")
    with monkeypatch.context() as broken:

        def fails(_: str) -> int:
            raise StoreError("the bucket does not answer.")

        broken.setattr(desk, "forget_owner", fails)
        with pytest.raises(StoreError):
            await service.admin.drop_user("ann")
    assert [each.blocked for each in await service.admin.users() if each.user == "ann"] == [True]
    await service.admin.drop_user("ann")
    store = open_store(owners_address(desk.address, "ann"))
    assert (store.usage().manifests, store.usage().chunks) == (0, 0)
    store.close()
    assert database.checkpoint_key("ann") != key
    async with service.client("ann") as other:
        assert await other.sessions(all=True) == []
        assert await other.reservations() == []
        assert hers.id not in str(await other.events())
        for ask in (other.session(hers.id), other.checkpoints(hers.id), other.restore(hers.id, view.id, new="stolen")):
            with pytest.raises(NoSuchSession):
                await ask
        mine = (await other.create_session("work")).session
        for name in (view.id, "secret", "-1"):
            with pytest.raises(NoSuchCheckpoint):
                await other.restore(mine.id, name, new="stolen")


async def test_quotas_name_themselves_and_their_use(service: Service) -> None:
    async with service.client("ann") as ann:
        await service.admin.put_user("ann", limits={"sessions": 1, "devices": 1, "checkpoint_bytes": 12345})
        assert (await ann.me()).limits.sessions == 1
        with pytest.raises(QuotaExceeded, match=r"request.devices: 2, but ann may hold 1 together \(quota devices"):
            await ann.create_session("both", request=ResourceRequest(devices=2))
        live = service.controller.sessions.get((await ann.create_session("one", wait_s=30)).session.id)
        assert live is not None
        assert service.controller.checkpoints.plan(live.record).quota_bytes == 12345
        with pytest.raises(QuotaExceeded, match=r"ann has 1 live sessions, at most 1 .*quota sessions"):
            await ann.create_session("two")
        await service.admin.put_user("ann", limits={"sessions": None, "device_hours": 0.0})
        with pytest.raises(QuotaExceeded, match=r"quota device_hours: ann has used 0.00 of 0 within 30 days"):
            await ann.create_session("three")
        with pytest.raises(Forbidden, match=r"request.priority: 5, but ann may ask for 0"):
            await ann.create_session("four", request=ResourceRequest(priority=5))
        account = next(each for each in await service.admin.users() if each.user == "ann")
        assert (account.sessions, account.devices, account.limits.device_hours) == (1, 1, 0.0)


def test_tokens_of_an_older_database_may_do_what_their_role_may(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db", events_kept=10)
    digest = hashlib.sha256(b"old").hexdigest()
    database.add_token(TokenRecord(digest=digest, user="ann", role=Role.USER, created_s=1.0))
    tokens = Tokens(database)
    user = tokens.check("Bearer old")
    assert (user.name, user.scopes, user.is_admin) == ("ann", {Scope.READ, Scope.SESSIONS}, False)
    (view,) = tokens.views()
    assert tokens.revoke(view.id).user == "ann"
    assert Tokens(database).views() == []
    database.close()
