"""REST: users, their tokens and limits, and the audit log."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from jupyter_gpuaas.controller.answers import Facts, responses
from jupyter_gpuaas.controller.callers import Admin, Caller, TheController, note_look
from jupyter_gpuaas.controller.catalogue.records import Role
from jupyter_gpuaas.controller.catalogue.users import UserRecord
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.controller.fields import Amount, UserName
from jupyter_gpuaas.controller.gate import segment
from jupyter_gpuaas.controller.routes_sessions import Text
from jupyter_gpuaas.errors import InvalidRequest
from jupyter_gpuaas.model import (
    Account,
    AuditEntry,
    Limits,
    NewToken,
    Scope,
    TokenView,
    UserView,
    check_user,
)

router = APIRouter(tags=["users"])

MOST_AT_ONCE = 10_000

_Count = Annotated[int, Field(ge=0, le=2**53)]


class TokenWanted(BaseModel):
    """A token to make."""

    model_config = ConfigDict(extra="forbid")

    user: UserName
    role: Role = Role.USER
    ttl_s: Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)] = Field(
        0.0, description="Seconds until it ends; 0 means that it does not."
    )
    scopes: list[Scope] | None = Field(None, max_length=16, description="What it may be used for; null: what is usual.")
    label: Text = Field("", max_length=256, description="A note, to know it by in the list.")


class LimitsWanted(BaseModel):
    """What a user may have; null means what the settings say."""

    model_config = ConfigDict(extra="forbid")

    sessions: _Count | None = None
    devices: _Count | None = None
    device_hours: Amount | None = None
    checkpoint_bytes: _Count | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] | None = None
    share: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None


class UserWanted(BaseModel):
    """A user to make, or what is to change of one."""

    model_config = ConfigDict(extra="forbid")

    blocked: bool | None = Field(None, description="Accept none of the user's tokens.")
    limits: LimitsWanted | None = Field(None, description="Fields that are not given stay as they are.")


@router.get("/me", summary="Who calls", responses=responses(UserView))
async def me(controller: TheController, user: Caller) -> Response:
    """Whose token it is, what it may be used for, and what the user may have."""
    scopes = tuple(sorted(user.scopes))
    limits = controller.limits.of(user.name)
    return Facts(UserView(user=user.name, role=user.role.value, scopes=scopes, limits=limits))


# -- users ---------------------------------------------------------------------------------------------------


@router.get("/users", summary="List users", responses=responses(Account, many=True))
async def users(controller: TheController, user: Admin) -> Response:
    """For admins. All users, with what they hold and have used."""
    return Facts(await asyncio.to_thread(_accounts, controller, controller.tokens.users()))


@router.put("/users/{name}", summary="Make or change a user", responses=responses(Account))
async def user_put(name: str, wanted: UserWanted, request: Request, controller: TheController, user: Admin) -> Response:
    """For admins. Makes the user where there is none, and changes what is given."""
    name = _checked(segment(name))
    if wanted.blocked and name == user.name:
        raise InvalidRequest("blocked: nobody can block himself.")
    limits: Limits | None = None
    if wanted.limits is not None:
        given = wanted.limits.model_dump(exclude_unset=True)
        limits = controller.limits.changed(name, given)
        request.state.note = f"limits {given}"
    if wanted.blocked is not None:
        request.state.note = f"{getattr(request.state, 'note', '')} blocked={wanted.blocked}".strip()
    record = controller.tokens.put_user(name, blocked=wanted.blocked, limits=limits)
    controller.scheduler.look()
    return Facts((await asyncio.to_thread(_accounts, controller, [record]))[0])


@router.delete("/users/{name}", summary="Forget a user", responses=responses(None))
async def user_dropped(name: str, request: Request, controller: TheController, user: Admin) -> Response:
    """For admins. Revokes the user's tokens, and removes the user's checkpoints, reservations and ended sessions, so
    that who gets the name next finds none of them. One who has live sessions stays.
    """
    name = segment(name)
    count = await controller.forget_user(name, user.name)
    request.state.note = f"{count} checkpoints removed"
    return Facts({})


def _accounts(controller: Controller, records: list[UserRecord]) -> list[Account]:
    tokens = controller.tokens.views()
    return [
        Account(
            user=record.name,
            created_s=record.created_s,
            blocked=record.blocked,
            limits=record.limits,
            tokens=sum(each.user == record.name for each in tokens),
            sessions=controller.sessions.count(record.name),
            devices=controller.meter.devices(record.name),
            device_seconds=round(controller.limits.used_s(record.name), 3),
        )
        for record in records
    ]


def _checked(name: str) -> str:
    try:
        return check_user(name)
    except ValueError as error:
        raise InvalidRequest(f"{error}.") from error


# -- tokens --------------------------------------------------------------------------------------------------


@router.get("/tokens", summary="List tokens", responses=responses(TokenView, many=True))
async def tokens(
    request: Request,
    controller: TheController,
    user: Admin,
    of: Annotated[Text, Query(max_length=256, description="Whose.")] = "",
) -> Response:
    """For admins. Tokens that are valid; none can be read from the list."""
    if of not in ("", user.name):
        note_look(request, f"tokens of {of}")
    return Facts(controller.tokens.views(of))


@router.post("/tokens", summary="Make a token", status_code=201, responses=responses(NewToken, status=201))
async def new_token(wanted: TokenWanted, request: Request, controller: TheController, user: Admin) -> Response:
    """For admins. The answer is the only place where the token can be read."""
    made = controller.tokens.create(
        wanted.user,
        wanted.role,
        ttl_s=wanted.ttl_s,
        scopes=wanted.scopes,
        label=wanted.label,
        made_by=user.name,
    )
    request.state.note = f"token {made.id} of {made.user}, role {made.role}, scopes {' '.join(made.scopes)}"
    return Facts(made, status_code=201)


@router.delete("/tokens/{token}", summary="Revoke a token", responses=responses(TokenView))
async def token_revoked(token: str, request: Request, controller: TheController, user: Admin) -> Response:
    """For admins. Channels and streams that were opened with it through the service end at once."""
    view = controller.tokens.revoke(segment(token))
    request.state.note = f"token {view.id} of {view.user}"
    return Facts(view)


# -- audit ---------------------------------------------------------------------------------------------------


@router.get("/audit", summary="Audit log", responses=responses(AuditEntry, many=True))
async def audited(
    controller: TheController,
    user: Admin,
    after: Annotated[int, Query(ge=0, le=2**63 - 1, description="Only entries above this number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_AT_ONCE)] = 1000,
    by: Annotated[Text, Query(max_length=256, description="Only what this user did.")] = "",
    target: Annotated[Text, Query(max_length=512, description="Only where the path contains this.")] = "",
    last: Annotated[bool, Query(description="The newest of them, not the oldest.")] = False,
) -> Response:
    """For admins. Who did what, to what, from where, and what came of it, oldest first."""
    found = await asyncio.to_thread(
        controller.audit.entries, after=after, limit=limit, user=by, target=target, last=last
    )
    return Facts(found)
