"""What users may have, where a session is begun anew from what it once had."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.auth import Role, Scope, User
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.controller.limits import UserLimits
from jupyter_gpuaas.model import Limits, ResourceRequest


@pytest.mark.parametrize(("role", "had", "has"), [(Role.USER, 7, 2), (Role.USER, 1, 1), (Role.ADMIN, 7, 7)])
def test_session_that_begins_with_a_checkpoint_has_a_priority_that_its_user_may_have(
    role: Role, had: int, has: int
) -> None:
    tokens: Any = SimpleNamespace(limits=lambda user: Limits(priority=2))
    meter: Any = None
    told: list[str] = []
    old = SimpleNamespace(owner="ann", request=ResourceRequest(priority=had))
    record: Any = SimpleNamespace(session=old, cwd="", machine="", env={})

    def create(owner: str, name: str, request: ResourceRequest, **_: Any) -> Any:
        return SimpleNamespace(session=SimpleNamespace(owner=owner, name=name, request=request))

    controller: Any = SimpleNamespace(
        limits=UserLimits(tokens, meter, Settings()),
        is_closing=False,
        sessions=SimpleNamespace(
            named=lambda *_: None, count=lambda _: 0, create=create, tell=lambda _s, _k, cause, _d: told.append(cause)
        ),
        scheduler=SimpleNamespace(check=lambda _: None, submit=lambda _: None),
        standbys=SimpleNamespace(look=lambda _: None),
    )
    live = Controller.begin_from(controller, record, "again", "c", User("ann", role, frozenset(Scope)))
    assert live.session.request.priority == has
    assert bool(told) is (had != has)
