"""What each route needs to know of its request."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from jupyter_gpuaas.controller.auth import User
from jupyter_gpuaas.controller.catalogue.records import SessionRecord
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.controller.gate import segment
from jupyter_gpuaas.controller.sessions import LiveSession


def _controller(connection: HTTPConnection) -> Controller:
    return cast(Controller, connection.app.state.controller)


def _user(connection: HTTPConnection) -> User:
    return cast(User, connection.state.user)


def _admin(connection: HTTPConnection) -> User:
    user = _user(connection)
    user.must_be_admin()
    return user


def _live(connection: HTTPConnection, session: str) -> LiveSession:
    live = _controller(connection).find(_user(connection), segment(session))
    note_access(connection, live.record)
    return live


def _known(connection: HTTPConnection, session: str) -> SessionRecord:
    record = _controller(connection).find_record(_user(connection), segment(session))
    note_access(connection, record)
    return record


def note_access(connection: HTTPConnection, record: SessionRecord) -> None:
    """Tell the audit log of somebody who looks at what is not his."""
    session, user = record.session, _user(connection)
    if session.owner != user.name:
        note_look(connection, f"session {session.name!r} of {session.owner}")


def note_look(connection: HTTPConnection, at: str) -> None:
    """An admin who looks at what is somebody else's is written down, too."""
    connection.state.audited = True
    connection.state.note = at


TheController = Annotated[Controller, Depends(_controller)]
Caller = Annotated[User, Depends(_user)]
#: One with the role and the scope admin; others are refused.
Admin = Annotated[User, Depends(_admin)]
#: The session that the path names, by id or name, if the caller may touch it.
TheSession = Annotated[LiveSession, Depends(_live)]
#: The same, of sessions that have ended too.
TheRecord = Annotated[SessionRecord, Depends(_known)]
