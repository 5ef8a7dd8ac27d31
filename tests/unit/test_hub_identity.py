"""The Hub as identity without a Hub: what its answers mean, when it is asked, and what its silence does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette import types
from starlette._utils import get_route_path

from jupyter_gpuaas.config import Settings, inherited, load
from jupyter_gpuaas.controller.auth import Tokens, User
from jupyter_gpuaas.controller.below import Below, inside
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.records import Role
from jupyter_gpuaas.controller.hub import identity as identity_module
from jupyter_gpuaas.controller.hub.identity import HubIdentity
from jupyter_gpuaas.controller.hub.page import page, refusal
from jupyter_gpuaas.controller.hub.verdict import HubUser, judge
from jupyter_gpuaas.controller.identity import Identity
from jupyter_gpuaas.errors import Forbidden, ServiceUnreachable, Unauthorized
from jupyter_gpuaas.model import GpuSession, ResourceRequest, Scope, SessionState

ACCESS = "access:services!service=gpuaas"
READ, SESSIONS, METRICS, ADMIN = Scope.READ, Scope.SESSIONS, Scope.METRICS, Scope.ADMIN
TOKEN = "a" * 32


@pytest.mark.parametrize(
    ("scopes", "groups", "role", "granted"),
    [
        ([ACCESS], [], Role.USER, {READ, SESSIONS}),
        (["access:services"], ["others"], Role.USER, {READ, SESSIONS}),
        (["custom:gpuaas:read", "read:users"], [], Role.USER, {READ}),
        (["custom:gpuaas:metrics"], [], Role.ADMIN, {METRICS}),
        (["custom:gpuaas:admin"], [], Role.ADMIN, {READ, SESSIONS, ADMIN}),
        ([ACCESS], ["gpu-admins"], Role.ADMIN, {READ, SESSIONS, ADMIN}),
        # A token that only looks does so for an admin, too.
        (["custom:gpuaas:read"], ["gpu-admins"], Role.USER, {READ}),
    ],
)
def test_scopes_of_the_hub_are_scopes_of_the_service(
    scopes: list[str], groups: list[str], role: Role, granted: set[Scope]
) -> None:
    found = judge(HubUser("ann", groups=groups, scopes=scopes), service="gpuaas", admin_group="gpu-admins")
    assert (found.name, found.role, found.scopes) == ("ann", role, granted)


@pytest.mark.parametrize(
    "seen",
    [
        HubUser("ann"),
        HubUser("ann", scopes=["access:services!service=other", "access:servers!user=ann", "self", "inherit"]),
        HubUser("ann", groups=["gpu-admins"], scopes=["read:users"]),
        HubUser("ann", scopes=["custom:other:admin", "custom:gpuaas", "access:services!service=gpuaas2"]),
        HubUser("gpuaas", kind="service", scopes=[ACCESS]),
        HubUser("root", scopes=[ACCESS]),
        HubUser("", scopes=[ACCESS]),
        HubUser("a\nb", scopes=[ACCESS]),
        HubUser("x" * 300, scopes=[ACCESS]),
    ],
)
def test_whom_the_hub_knows_is_not_yet_a_user(seen: HubUser) -> None:
    with pytest.raises(Forbidden):
        judge(seen, service="gpuaas", admin_group="gpu-admins", not_these={"root"})


def test_empty_admin_group_makes_nobody_an_admin() -> None:
    assert judge(HubUser("ann", groups=[""], scopes=[ACCESS]), service="gpuaas", admin_group="").role is Role.USER


class Asked:
    """A Hub that answers what it is told to, and counts."""

    def __init__(self, **settings: float) -> None:
        self.now_s = 1000.0
        self.count = 0
        self.answer: HubUser | Exception = HubUser("ann", scopes=[ACCESS])
        self.waits: asyncio.Event | None = None
        given = Settings(hub_api_url="http://127.0.0.1:9/hub/api", hub_cache_s=60, hub_away_s=600)
        self.identity = HubIdentity(given, lambda: {"root"}, lambda: self.now_s)
        self.identity.api.whose = self._whose  # type: ignore[method-assign]

    async def _whose(self, token: str) -> HubUser:
        self.count += 1
        if self.waits is not None:
            await self.waits.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_hub_is_asked_once_in_a_while() -> None:
    hub = Asked()
    assert (await hub.identity.check(TOKEN)).name == "ann"
    hub.now_s += 59
    assert (await hub.identity.check(TOKEN)).name == "ann"
    assert hub.count == 1
    hub.now_s += 1
    hub.answer = Unauthorized("token: gone.")
    with pytest.raises(Unauthorized):
        await hub.identity.check(TOKEN)
    assert hub.count == 2
    # What was refused is refused for a moment without asking, and then asked about again.
    with pytest.raises(Unauthorized, match="gone"):
        await hub.identity.check(TOKEN)
    assert hub.count == 2
    hub.now_s += identity_module.REFUSED_S
    hub.answer = HubUser("ann", scopes=[ACCESS])
    assert (await hub.identity.check(TOKEN)).name == "ann"
    await hub.identity.close()


async def test_hub_is_asked_once_for_all_who_come_at_a_time() -> None:
    hub = Asked()
    hub.waits = asyncio.Event()
    asking = [asyncio.create_task(hub.identity.check(TOKEN)) for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()
    hub.waits.set()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert {each.name for each in found[1:] if isinstance(each, User)} == {"ann"} and hub.count == 1
    await hub.identity.close()


async def test_silent_hub_throws_nobody_out_for_a_while() -> None:
    hub = Asked()
    await hub.identity.check(TOKEN)
    hub.answer = ServiceUnreachable("the Hub cannot be asked.")
    hub.now_s += 600
    assert (await hub.identity.check(TOKEN)).name == "ann"
    with pytest.raises(ServiceUnreachable):
        await hub.identity.check("b" * 32)
    hub.now_s += 6
    with pytest.raises(ServiceUnreachable):
        await hub.identity.check(TOKEN)
    await hub.identity.close()


async def test_real_silence_is_an_error_of_ours() -> None:
    identity = HubIdentity(Settings(hub_api_url="http://127.0.0.1:9/hub/api"), set)
    with pytest.raises(ServiceUnreachable, match="the Hub cannot be asked"):
        await identity.check(TOKEN)
    await identity.close()


async def test_invented_tokens_do_not_fill_memory_nor_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_module, "MOST", 10)
    monkeypatch.setattr(identity_module, "MOST_ASKED", 20)
    hub = Asked()
    hub.answer = Unauthorized("token: unknown.")
    for number in range(30):
        with pytest.raises(Unauthorized):
            await hub.identity.check(f"token-{number:08}")
    assert len(hub.identity._refused) == 10
    # What could be no token, or no header, is not asked about.
    asked = hub.count
    for odd in ("", "short", "x" * 5000, "a b" * 10, "a\r\nHost: b" + "x" * 20, "\udcff" * 10, "ä" * 20):
        with pytest.raises(Unauthorized):
            await hub.identity.check(odd)
    assert hub.count == asked
    hub.waits = asyncio.Event()
    waiting = [asyncio.create_task(hub.identity.check(f"other-{number:08}")) for number in range(20)]
    await asyncio.sleep(0)
    with pytest.raises(ServiceUnreachable, match="too many"):
        await hub.identity.check("one-more-token")
    await hub.identity.close()
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*waiting, return_exceptions=True)
    )


async def test_tokens_of_both_kinds_make_users_who_can_be_blocked(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db", events_kept=10)
    tokens = Tokens(database)
    tokens.ensure_file(tmp_path / "token")
    hub = Asked()
    identity = Identity(tokens, Settings(hub_api_url="http://127.0.0.1:9/hub/api"))
    assert identity.hub is not None and identity.hub._not_these() == tokens.whom_it_runs_as() != set()
    await identity.close()
    identity.hub = hub.identity
    ours = tokens.create("bob", Role.USER).token
    assert (await identity.check(f"token {ours}")).name == "bob" and hub.count == 0
    user = await identity.check(f"Bearer {TOKEN}")
    assert user.name == "ann" and "ann" in {each.name for each in Tokens(database).users()}
    with pytest.raises(Unauthorized, match="missing"):
        await identity.check(TOKEN)
    # What lasts ends when the user is blocked, or when the Hub says another thing.
    lasting = asyncio.create_task(identity.void(user))
    await asyncio.sleep(0)
    tokens.put_user("ann", blocked=True)
    await asyncio.wait_for(lasting, 10)
    with pytest.raises(Forbidden, match="blocked"):
        await identity.check(f"Bearer {TOKEN}")
    tokens.put_user("ann", blocked=False)
    for said in (HubUser("ann", scopes=["custom:gpuaas:read"]), HubUser("eve", scopes=[ACCESS]), Unauthorized("no.")):
        hub.answer, hub.now_s = HubUser("ann", scopes=[ACCESS]), hub.now_s + 100
        user = await identity.check(f"Bearer {TOKEN}")
        hub.answer, hub.now_s = said, hub.now_s + 61
        await asyncio.wait_for(identity.void(user), 10)
    await identity.close()
    database.close()


def test_page_escapes_what_users_have_named() -> None:
    session = GpuSession(
        id="1",
        name="<img src=x>",
        owner="a",
        state=SessionState.IDLE,
        epoch=1,
        request=ResourceRequest(),
        created_s=0.0,
    )
    text = page("<i>", False, [session], base='https://x/"><s>', hub="https://h/hub") + refusal("<u>", "<u>")
    for bad in ("<img", "<i>", '"><s>', "<u>"):
        assert bad not in text


async def test_paths_below_a_prefix() -> None:
    seen: list[tuple[str, str, str]] = []

    async def app(scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
        seen.append((inside(scope), get_route_path(scope), scope.get("root_path", "")))

    below = Below(app, prefix="/services/gpuaas")
    for path in (
        "/services/gpuaas/sessions/a/b",
        "/services/gpuaas",
        "/services/gpuaas/services/gpuaas/me",
        "/services/gpuaas2/me",
        "/me",
    ):
        await below({"type": "http", "path": path}, None, None)  # type: ignore[arg-type]
    prefix = "/services/gpuaas"
    assert seen == [
        ("/sessions/a/b", "/sessions/a/b", prefix),
        ("/", "/", prefix),
        ("/services/gpuaas/me", "/services/gpuaas/me", prefix),
        ("/services/gpuaas2/me", "/services/gpuaas2/me", ""),
        ("/me", "/me", ""),
    ]


def test_token_comes_from_the_variable_that_is_named(tmp_path: Path) -> None:
    base = {"GPUAAS_HOME": str(tmp_path), "JUPYTERHUB_API_TOKEN": "of the hub"}
    assert load(base).token == ""
    named = base | {"GPUAAS_TOKEN_VARIABLE": "JUPYTERHUB_API_TOKEN"}
    assert load(named).token == "of the hub"
    assert load(named | {"GPUAAS_TOKEN": "mine"}).token == "mine"
    assert load(base | {"GPUAAS_TOKEN_VARIABLE": "NOT_THERE"}).token == ""
    assert "JUPYTERHUB_API_TOKEN" not in inherited(base)
    assert "GPUAAS_HUB_API_TOKEN" not in Settings(hub_api_token="x").environment(secrets=False)
