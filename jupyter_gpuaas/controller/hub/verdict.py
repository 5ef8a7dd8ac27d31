"""What an answer of the Hub makes of somebody. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import msgspec

from jupyter_gpuaas.controller.catalogue.records import Role
from jupyter_gpuaas.controller.catalogue.users import SCOPES_OF
from jupyter_gpuaas.errors import Forbidden
from jupyter_gpuaas.model import Scope, check_user


class HubUser(msgspec.Struct, frozen=True):
    """Answer of the Hub's ``GET /user``, as far as it matters here; it says more."""

    name: str
    kind: Literal["user", "service"] = "user"
    groups: list[str] = []
    #: Of the token that was shown, with those that they imply.
    scopes: list[str] = []


class Verdict(msgspec.Struct, frozen=True):
    """Who it is here."""

    name: str
    role: Role
    scopes: frozenset[Scope]


def judge(seen: HubUser, *, service: str, admin_group: str, not_these: Collection[str] = ()) -> Verdict:
    """Who somebody of the Hub is for this service.

    Parameters
    ----------
    service
        Name of this service in the Hub. A token that was made for another one must not open this.
    admin_group
        Group of the Hub whose members are admins here; empty for none.
    not_these
        Names that nobody of the Hub may have.

    Raises
    ------
    Forbidden
    """
    if seen.kind != "user":
        raise Forbidden(f"{seen.name!r} is a service of the Hub, not a user.")
    try:
        name = check_user(seen.name)
    except ValueError as error:
        raise Forbidden(f"{error}.") from error
    if name in not_these:
        raise Forbidden(
            f"user {name} is whom this service runs as; the Hub's user of that name is somebody else.",
            hint="Run the service as an operating system's user that is nobody's in the Hub.",
        )
    granted = _granted(frozenset(seen.scopes), service)
    if not granted:
        raise Forbidden(
            f"the Hub's token of {name} is not for this service.",
            hint=f"It needs the scope access:services!service={service}: its user's role and its own.",
        )
    if admin_group and admin_group in seen.groups and Scope.SESSIONS in granted:
        granted |= {Scope.ADMIN}
    role = Role.ADMIN if granted - set(SCOPES_OF[Role.USER]) else Role.USER
    return Verdict(name, role, granted)


def _granted(scopes: frozenset[str], service: str) -> frozenset[Scope]:
    table = {
        "access:services": (Scope.READ, Scope.SESSIONS),
        f"access:services!service={service}": (Scope.READ, Scope.SESSIONS),
        f"custom:{service}:read": (Scope.READ,),
        f"custom:{service}:metrics": (Scope.METRICS,),
        f"custom:{service}:admin": (Scope.READ, Scope.SESSIONS, Scope.ADMIN),
    }
    return frozenset(scope for name in scopes & table.keys() for scope in table[name])
