"""REST and WebSocket: events."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response, WebSocket, WebSocketDisconnect

from jupyter_gpuaas.controller.answers import Facts, responses
from jupyter_gpuaas.controller.auth import User
from jupyter_gpuaas.controller.callers import Caller, TheController, note_look
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.controller.routes_sessions import Text
from jupyter_gpuaas.model import Event

router = APIRouter(tags=["events"])

MOST_AT_ONCE = 10_000
_GOING_AWAY = 1001

After = Annotated[int, Query(ge=0, le=2**63 - 1, description="Only events above this number.")]


@router.get("/events", summary="List events", responses=responses(Event, many=True))
async def listed(
    request: Request,
    controller: TheController,
    user: Caller,
    after: After = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_AT_ONCE)] = 1000,
    session: Annotated[Text, Query(description="Only those of the session with this id.")] = "",
) -> Response:
    """Events of the caller's sessions, of the nodes and of the service, oldest first."""
    found = await asyncio.to_thread(controller.list_events, user, after=after, limit=limit, session_id=session)
    if session and found and user.sees is None:
        owner = await asyncio.to_thread(controller.owner_of, session)
        if owner != user.name:
            note_look(request, f"events of session {session} of {owner}")
    return Facts(found)


@router.get("/events/last", summary="Newest event", responses=responses(None))
async def newest(controller: TheController, user: Caller) -> Response:
    """Number of the newest event, whomever it concerns: who begins to listen begins behind it."""
    return Facts({"seq": await asyncio.to_thread(controller.database.newest_event)})


@router.websocket("/events/stream")
async def streamed(socket: WebSocket, controller: TheController, user: Caller, after: After = 0) -> None:
    """Events above `after`, then each new one; one JSON text a message."""
    await socket.accept()
    sending = asyncio.create_task(_send(socket, controller, user, after))
    try:
        while True:  # Nothing is expected; this tells when the client has gone.
            await socket.receive_text()
    except (WebSocketDisconnect, KeyError):
        pass
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _send(socket: WebSocket, controller: Controller, user: User, after: int) -> None:
    while not controller.is_closing:
        # Read from the database, not from a queue: a slow client costs nothing and misses nothing.
        news = controller.sessions.news.next()
        found = await asyncio.to_thread(controller.list_events, user, after=after, limit=500, session_id="")
        for event in found:
            await socket.send_text(msgspec.json.encode(event).decode())
            after = event.seq
        if not found:
            await news.wait()
    await socket.close(_GOING_AWAY)
