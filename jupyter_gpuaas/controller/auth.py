"""Who calls: tokens, users and what they may touch."""

from __future__ import annotations

import getpass
import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path

import msgspec

from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.records import Role, TokenRecord
from jupyter_gpuaas.errors import Forbidden, Unauthorized
from jupyter_gpuaas.model import GpuSession, NewToken


class User(msgspec.Struct, frozen=True):
    """Somebody who has shown a valid token."""

    name: str
    role: Role

    @property
    def is_admin(self) -> bool:
        return self.role is Role.ADMIN

    @property
    def sees(self) -> str | None:
        """Whose sessions the user sees; None means everybody's."""
        return None if self.is_admin else self.name

    def may_touch(self, session: GpuSession) -> None:
        """Raise Forbidden where the session is somebody else's."""
        if not self.is_admin and session.owner != self.name:
            raise Forbidden(f"session {session.id} belongs to another user.")

    def must_be_admin(self) -> None:
        """Raise Forbidden for a user without the role."""
        if not self.is_admin:
            raise Forbidden("this needs a token with the role admin.")


class Tokens:
    """The tokens of the service, held in memory by their digests."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known = {record.digest: record for record in database.tokens()}
        now_s = time.time()
        expired = [key for key, record in self._known.items() if _is_over(record, now_s)]
        for digest in expired:
            del self._known[digest]
        database.drop_tokens(expired)

    def check(self, authorization: str) -> User:
        """The user of an ``Authorization`` header.

        Raises
        ------
        Unauthorized
            No token, an unknown one, or one that has expired.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized("token: missing.", hint="Send it as `Authorization: Bearer TOKEN`; see GPUAAS_TOKEN.")
        digest = _digest(token.strip())
        record = self._known.get(digest)
        if record is None or not hmac.compare_digest(record.digest, digest):
            raise Unauthorized("token: not known to this service.", hint="Check GPUAAS_TOKEN.")
        if _is_over(record, time.time()):
            raise Unauthorized("token: has expired.", hint="Ask an admin for a new one.")
        return User(record.user, record.role)

    def create(self, user: str, role: Role, *, ttl_s: float = 0.0) -> NewToken:
        """Make a token; this answer is the only place where it can be read."""
        token = secrets.token_urlsafe(32)
        record = self._add(token, user, role, ttl_s)
        return NewToken(token=token, user=user, role=role.value, expires_s=record.expires_s)

    def ensure_file(self, path: Path) -> None:
        """Make sure that the token in this 0600 file is one of an admin, and that there is one."""
        try:
            token = path.read_text("utf-8").strip()
        except FileNotFoundError:
            token = ""
        if not token:
            token = secrets.token_urlsafe(32)
            draft = path.with_suffix(".new")
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(token + "\n")
            draft.replace(path)
        if _digest(token) not in self._known:
            self._add(token, getpass.getuser(), Role.ADMIN, 0.0)

    def _add(self, token: str, user: str, role: Role, ttl_s: float) -> TokenRecord:
        now_s = time.time()
        record = TokenRecord(
            digest=_digest(token),
            user=user,
            role=role,
            created_s=now_s,
            expires_s=now_s + ttl_s if ttl_s else 0.0,
        )
        self._database.add_token(record)
        self._known[record.digest] = record
        return record


def _digest(token: str) -> str:
    # Unsalted and fast is right here: the tokens are 256 random bits, not words that people choose.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _is_over(record: TokenRecord, now_s: float) -> bool:
    return 0.0 < record.expires_s <= now_s
