"""Who calls: tokens, users and what they may touch."""

from __future__ import annotations

import getpass
import hashlib
import hmac
import os
import secrets
import socket
import time
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec

from jupyter_gpuaas.controller.bell import Bell
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.records import Role, TokenRecord
from jupyter_gpuaas.controller.catalogue.users import (
    DEFAULT_SCOPES,
    SCOPES_OF,
    TokenDetail,
    UserRecord,
    UserRows,
)
from jupyter_gpuaas.errors import Forbidden, InvalidRequest, Unauthorized
from jupyter_gpuaas.model import GpuSession, Limits, NewToken, Scope, TokenView

ID_CHARS = 16
#: Label of a token that lies in a home folder; which one's, stands behind it. Earlier versions left that out.
OF_A_FOLDER = "token of the home folder"
#: File beside that token with the name of the folder. Several controllers with folders of their own may use a database.
FOLDER_NAME = "folder-name"
#: How long at most nobody looks whether a token has ended.
LOOK_S = 3600.0
#: For so long after its end the owner of a token is told that it has expired, not that nobody knows it.
ENDED_S = 86400.0


class User(msgspec.Struct, frozen=True):
    """Somebody who has shown a valid token."""

    name: str
    role: Role
    scopes: frozenset[Scope] = frozenset({Scope.READ, Scope.SESSIONS})
    #: Id of the token.
    token: str = ""
    #: When it ends, seconds since the epoch; 0 where it does not.
    expires_s: float = 0.0

    @property
    def is_admin(self) -> bool:
        """An admin whose token is for that: with a narrower one, somebody like any other."""
        return self.role is Role.ADMIN and Scope.ADMIN in self.scopes

    @property
    def sees(self) -> str | None:
        """Whose sessions the user sees; None means everybody's."""
        # A token for metrics alone opens no other route.
        return None if self.is_admin or self.scopes == {Scope.METRICS} else self.name

    @property
    def may_use(self) -> bool:
        """Whether the token opens channels."""
        return Scope.SESSIONS in self.scopes

    def may_touch(self, session: GpuSession) -> None:
        """Raise Forbidden where the session is somebody else's."""
        if not self.is_admin and session.owner != self.name:
            raise Forbidden(f"session {session.id} belongs to another user.")

    def must_be_admin(self) -> None:
        """Raise Forbidden for a user without the role."""
        if not self.is_admin:
            raise Forbidden("this needs a token with the role and the scope admin.")

    def must_have(self, scopes: Collection[Scope]) -> None:
        """Raise Forbidden where the token has none of these scopes."""
        if self.scopes.isdisjoint(scopes):
            raise Forbidden(
                f"this needs a token with the scope {' or '.join(sorted(scopes))}; this one has "
                f"{', '.join(sorted(self.scopes)) or 'none'}."
            )


class Tokens:
    """The tokens of the service, held in memory by their digests, and the users whose they are."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = UserRows(database)
        self._known = {record.digest: record for record in database.tokens()}
        self._details = self._rows.details()
        self._forget_ended(time.time())
        self._users = {record.name: record for record in self._rows.all()}
        for name in {record.user for record in self._known.values()} - self._users.keys():
            self._users[name] = self._rows.ensure(name)
        #: Label of the token in this controller's home folder.
        self._mine = OF_A_FOLDER
        #: Rung when tokens or users have changed.
        self._changed = Bell()

    # -- who calls -------------------------------------------------------------------------------------------

    def check(self, authorization: str) -> User:
        """The user of an ``Authorization`` header; Jupyter's scheme ``token`` is as good as ``Bearer``.

        Raises
        ------
        Unauthorized
            No token, an unknown one, or one that has expired.
        Forbidden
            The user is blocked.
        """
        digest = _digest(shown(authorization))
        record = self._known.get(digest)
        if record is None or not hmac.compare_digest(record.digest, digest):
            raise Unauthorized("token: not known to this service.", hint="Check GPUAAS_TOKEN.")
        if _is_over(record, time.time()):
            raise Unauthorized("token: has expired.", hint="Ask an admin for a new one.")
        if self._is_blocked(record.user):
            raise Forbidden(f"user {record.user} is blocked.", hint="Ask an admin.")
        scopes = frozenset(self._scopes(record))
        return User(record.user, record.role, scopes, digest[:ID_CHARS], record.expires_s)

    def knows(self, token: str) -> bool:
        """Whether it is, or was until it expired, one of these tokens."""
        return _digest(token) in self._known

    def has(self, user: User) -> bool:
        """Whether this user has shown one of these tokens."""
        return self._of(user.token) is not None

    def admit(self, name: str) -> None:
        """Make sure that somebody whom others vouch for is a user; raises Forbidden where the user is blocked."""
        if name not in self._users:
            self._users[name] = self._rows.ensure(name)
        if self._is_blocked(name):
            raise Forbidden(f"user {name} is blocked.", hint="Ask an admin.")

    async def blocks(self, name: str, timeout_s: float) -> bool:
        """Wait until a user is blocked; False when time is up."""
        return await self._changed.until(lambda: self._is_blocked(name), timeout_s)

    def whom_it_runs_as(self) -> set[str]:
        """Of whom the tokens in home folders are."""
        marked = (key for key, each in self._details.items() if each.label.startswith(OF_A_FOLDER))
        return {self._known[key].user for key in marked if key in self._known}

    async def void(self, user: User) -> None:
        """Return when the token that this user has shown is not valid any more."""
        while self._stands(user):
            left_s = user.expires_s - time.time() if user.expires_s else LOOK_S
            await self._changed.until(lambda: not self._stands(user), min(max(0.0, left_s), LOOK_S))

    def _stands(self, user: User) -> bool:
        found = self._of(user.token)
        return found is not None and not _is_over(found, time.time()) and not self._is_blocked(found.user)

    def _is_blocked(self, name: str) -> bool:
        found = self._users.get(name)
        return found is not None and found.blocked

    # -- tokens ----------------------------------------------------------------------------------------------

    def create(
        self,
        user: str,
        role: Role,
        *,
        ttl_s: float = 0.0,
        scopes: Iterable[Scope] | None = None,
        label: str = "",
        made_by: str = "",
    ) -> NewToken:
        """Make a token; this answer is the only place where it can be read.

        Raises
        ------
        InvalidRequest
            Its role may not have one of the scopes.
        """
        wanted = tuple(DEFAULT_SCOPES[role] if scopes is None else sorted(set(scopes)))
        beyond = set(wanted) - set(SCOPES_OF[role])
        if beyond or not wanted:
            told = ", ".join(sorted(beyond)) or "none"
            raise InvalidRequest(
                f"scopes: {told}: a token with the role {role} may have {', '.join(SCOPES_OF[role])}, at least one."
            )
        token = secrets.token_urlsafe(32)
        record = self._add(token, user, role, ttl_s, wanted, label, made_by)
        return NewToken(
            token=token,
            user=user,
            role=role.value,
            expires_s=record.expires_s,
            id=record.digest[:ID_CHARS],
            scopes=wanted,
        )

    def views(self, user: str = "") -> list[TokenView]:
        """Tokens that are valid, of one user or of all, the oldest first."""
        now_s = time.time()
        mine = (each for each in self._known.values() if user in ("", each.user) and not _is_over(each, now_s))
        return sorted((self._view(each) for each in mine), key=lambda each: (each.created_s, each.id))

    def revoke(self, token_id: str) -> TokenView:
        """Make a token invalid from now on.

        Raises
        ------
        InvalidRequest
            There is none of this id, or it is the one in this controller's home folder.
        """
        record = self._of(token_id)
        if record is None:
            raise InvalidRequest(
                f"token: there is none with the id {token_id[:64]!r}.", hint="They are listed with it."
            )
        view = self._view(record)
        if view.label == self._mine:
            raise InvalidRequest(
                f"token: {token_id} is that of the service's own folder.",
                hint="Remove the file `token` there and start the service again: it makes another.",
            )
        if view.label.startswith(OF_A_FOLDER):
            # Its details stay, so that the controller of that folder does not take it for a new one.
            self._database.drop_tokens([record.digest])
            del self._known[record.digest]
        else:
            self._forget([record.digest])
        self._changed.ring()
        return view

    def ensure_file(self, path: Path) -> None:
        """Make sure that the token in this 0600 file is one of an admin, and that there is one."""
        self._mine = f"{OF_A_FOLDER} {_folder_name(path.with_name(FOLDER_NAME))}"
        token = _read(path)
        if not token or self._is_revoked(token):
            token = secrets.token_urlsafe(32)
            _write(path, token)
        digest, scopes = _digest(token), DEFAULT_SCOPES[Role.ADMIN]
        # The one before it, if somebody has removed the file to be rid of it.
        self._forget([key for key, each in self._details.items() if key != digest and self._lay_here(each)])
        detail = self._details.get(digest)
        if digest not in self._known:
            self._add(token, getpass.getuser(), Role.ADMIN, 0.0, scopes, self._mine, "")
        elif detail is None or (detail.label.startswith(OF_A_FOLDER) and detail.label != self._mine):
            self._rows.drop_details([digest])
            self._detail(digest, scopes, self._mine, "")

    def _is_revoked(self, token: str) -> bool:
        """Whether it was revoked while another controller acted."""
        digest = _digest(token)
        return digest in self._details and digest not in self._known

    def _lay_here(self, detail: TokenDetail) -> bool:
        """Whether it is of a token of this home folder. On a database of one's own, all are of this one."""
        return detail.label.startswith(OF_A_FOLDER) and (detail.label == self._mine or not self._database.is_shared)

    def _add(
        self, token: str, user: str, role: Role, ttl_s: float, scopes: tuple[Scope, ...], label: str, made_by: str
    ) -> TokenRecord:
        now_s = time.time()
        self._forget_ended(now_s - ENDED_S)
        record = TokenRecord(
            digest=_digest(token),
            user=user,
            role=role,
            created_s=now_s,
            expires_s=now_s + ttl_s if ttl_s else 0.0,
        )
        self._users[user] = self._rows.ensure(user)
        # Before the token itself: one without details may do all that its role may.
        self._detail(record.digest, scopes, label, made_by)
        self._database.add_token(record)
        self._known[record.digest] = record
        return record

    def _detail(self, digest: str, scopes: tuple[Scope, ...], label: str, made_by: str) -> None:
        detail = TokenDetail(digest=digest, scopes=scopes, label=label, made_by=made_by)
        self._rows.add_detail(detail)
        self._details[digest] = detail

    def _forget_ended(self, before_s: float) -> None:
        self._forget([key for key, record in self._known.items() if _is_over(record, before_s)])

    def _forget(self, digests: list[str]) -> None:
        if not digests:
            return
        self._database.drop_tokens(digests)
        self._rows.drop_details(digests)
        for digest in digests:
            self._known.pop(digest, None)
            self._details.pop(digest, None)

    def _of(self, token_id: str) -> TokenRecord | None:
        if len(token_id) != ID_CHARS:
            return None
        return next((each for key, each in self._known.items() if key.startswith(token_id)), None)

    def _scopes(self, record: TokenRecord) -> tuple[Scope, ...]:
        detail = self._details.get(record.digest)
        return DEFAULT_SCOPES[record.role] if detail is None else detail.scopes

    def _view(self, record: TokenRecord) -> TokenView:
        detail = self._details.get(record.digest)
        return TokenView(
            id=record.digest[:ID_CHARS],
            user=record.user,
            role=record.role.value,
            scopes=self._scopes(record),
            created_s=record.created_s,
            expires_s=record.expires_s,
            label=detail.label if detail is not None else "",
            made_by=detail.made_by if detail is not None else "",
        )

    # -- users -----------------------------------------------------------------------------------------------

    def users(self) -> list[UserRecord]:
        """All users, by name."""
        return sorted(self._users.values(), key=lambda each: each.name)

    def limits(self, user: str) -> Limits:
        """What was said about this user; None in it means what the settings say."""
        found = self._users.get(user)
        return found.limits if found is not None else Limits()

    def put_user(self, name: str, *, blocked: bool | None = None, limits: Limits | None = None) -> UserRecord:
        """Make a user, or change what is given of one."""
        record = self._rows.ensure(name)
        record = msgspec.structs.replace(
            record,
            blocked=record.blocked if blocked is None else blocked,
            limits=record.limits if limits is None else limits,
        )
        self._rows.put(record)
        self._users[name] = record
        self._changed.ring()
        return record

    def check_drop(self, name: str) -> None:
        """Raise InvalidRequest where there is no such user, or the token in the home folder is the user's."""
        if name not in self._users:
            raise InvalidRequest(f"user: there is no {name[:64]!r}.", hint="`jupyter gpuaas users list` shows them.")
        if name in self.whom_it_runs_as():
            raise InvalidRequest(f"user: {name} is whom the service runs as.")

    def drop_user(self, name: str) -> None:
        """Forget a user and all of the user's tokens; raises as ``check_drop``."""
        self.check_drop(name)
        self._forget([each.digest for each in self._known.values() if each.user == name])
        self._rows.drop(name)
        del self._users[name]
        self._changed.ring()


def shown(authorization: str) -> str:
    """The token in an ``Authorization`` header; raises Unauthorized where there is none."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() not in ("bearer", "token") or not token.strip():
        raise Unauthorized("token: missing.", hint="Send it as `Authorization: Bearer TOKEN`; see GPUAAS_TOKEN.")
    return token.strip()


def _folder_name(path: Path) -> str:
    """The name of a home folder, kept in this file: no other has it, and people see where it is."""
    name = _read(path)
    if not name:
        name = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        _write(path, name)
    return name


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return ""


def _write(path: Path, line: str) -> None:
    draft = path.with_suffix(".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(line + "\n")
    draft.replace(path)


def _digest(token: str) -> str:
    # Unsalted and fast is right here: the tokens are 256 random bits, not words that people choose.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _is_over(record: TokenRecord, now_s: float) -> bool:
    return 0.0 < record.expires_s <= now_s
