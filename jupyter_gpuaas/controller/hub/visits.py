"""Visitors with a browser: they log in through the Hub's OAuth, and see one page, their own.

A visit opens nothing but that page. In a Hub all users' servers have one origin, so whatever a cookie opened, a page of
another user's server could have, too. Everything else wants a token in its header.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import Annotated
from urllib.parse import urlencode, urlsplit

import msgspec
from fastapi import APIRouter, Cookie, Query, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.auth import User
from jupyter_gpuaas.controller.callers import TheController
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.controller.hub.page import CALLBACK, HOME, LOGIN, LOGOUT, page, refusal
from jupyter_gpuaas.errors import Forbidden, GpuaasError, InvalidRequest, Unauthorized

router = APIRouter(include_in_schema=False)

VISIT_COOKIE, LOGIN_COOKIE = "gpuaas-visit", "gpuaas-login"
VISIT_S, LOGIN_S = 12 * 3600, 600
#: Visits that are remembered; the oldest go first.
MOST = 10_000

_HEADERS = {
    "Cache-Control": "no-store",
    # The page is of no origin: others of the Hub's must not be able to read it in a window or frame of theirs.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; "
    "sandbox allow-top-navigation-by-user-activation",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Visit(msgspec.Struct, frozen=True):
    token: str
    until_s: float


class Visits:
    """Who has logged in; forgotten when the service ends."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._known: dict[str, _Visit] = {}

    @property
    def is_open(self) -> bool:
        """Whether visitors can log in at all."""
        settings = self.settings
        return all((settings.hub_api_url, settings.hub_url, settings.hub_api_token, settings.public_url))

    @property
    def client_id(self) -> str:
        """The name of this service as a client of the Hub's OAuth, as the Hub gives it."""
        return f"service-{self.settings.hub_service}"

    @property
    def callback(self) -> str:
        """Where the Hub sends visitors back to."""
        return self.settings.public_url.rstrip("/") + CALLBACK

    def begin(self, token: str) -> str:
        """Remember a visitor's token of the Hub; returns the secret of the visit."""
        secret = secrets.token_urlsafe(32)
        self._known[_digest(secret)] = _Visit(token, time.monotonic() + VISIT_S)
        while len(self._known) > MOST:
            del self._known[next(iter(self._known))]
        return secret

    def token(self, secret: str) -> str:
        """The token of a visit that goes on; empty where there is none."""
        visit = self._known.get(_digest(secret))
        return visit.token if visit is not None and time.monotonic() < visit.until_s else ""

    def end(self, secret: str) -> None:
        """Forget a visit."""
        self._known.pop(_digest(secret), None)


def _visits(request: Request) -> Visits:
    visits: Visits = request.app.state.visits
    if not visits.is_open:
        raise InvalidRequest("there is no page for visitors here.", hint="The service's routes are told at /docs.")
    return visits


@router.get(HOME)
async def home(
    request: Request, controller: TheController, secret: Annotated[str, Cookie(alias=VISIT_COOKIE)] = ""
) -> Response:
    """The visitor's page."""
    visits = _visits(request)
    token = visits.token(secret)
    if not token:
        return _to_login(visits)
    try:
        user = await controller.identity.of_hub(token)
    except Unauthorized:
        visits.end(secret)
        return _to_login(visits)
    except GpuaasError as error:
        return _refused(error)
    return HTMLResponse(_page(controller, user, visits), headers=_HEADERS)


@router.get(LOGIN)
async def login(request: Request) -> Response:
    """On to the Hub, which sends the visitor back."""
    visits = _visits(request)
    state = secrets.token_urlsafe(24)
    query = urlencode(
        {
            "client_id": visits.client_id,
            "redirect_uri": visits.callback,
            "response_type": "code",
            "state": state,
        }
    )
    answer = RedirectResponse(f"{visits.settings.hub_url.rstrip('/')}/api/oauth2/authorize?{query}", headers=_HEADERS)
    _set(visits, answer, LOGIN_COOKIE, state, LOGIN_S)
    return answer


@router.get(CALLBACK)
async def back(
    request: Request,
    controller: TheController,
    code: Annotated[str, Query(max_length=1024)] = "",
    state: Annotated[str, Query(max_length=256)] = "",
    error: Annotated[str, Query(max_length=256)] = "",
    begun: Annotated[str, Cookie(alias=LOGIN_COOKIE)] = "",
) -> Response:
    """A visitor comes back from the Hub."""
    visits, hub = _visits(request), controller.identity.hub
    assert hub is not None
    try:
        if error or not code:
            raise Forbidden(f"the Hub did not let you in: {error or 'it sent no code'}.")
        if not begun or not hmac.compare_digest(begun.encode(), state.encode()):
            raise Forbidden("this login was not begun in this browser, or too long ago.", hint="Begin again.")
        token = await hub.api.token_of(
            code, client_id=visits.client_id, secret=visits.settings.hub_api_token, redirect=visits.callback
        )
        await controller.identity.of_hub(token)
    except GpuaasError as refused:
        return _refused(refused)
    answer = RedirectResponse(visits.settings.public_url.rstrip("/") + HOME, status_code=303, headers=_HEADERS)
    _set(visits, answer, VISIT_COOKIE, visits.begin(token), VISIT_S)
    _set(visits, answer, LOGIN_COOKIE, "", 0)
    return answer


@router.get(LOGOUT)
async def logout(request: Request, secret: Annotated[str, Cookie(alias=VISIT_COOKIE)] = "") -> Response:
    """End the visit; the Hub's own login stays."""
    visits = _visits(request)
    visits.end(secret)
    answer = RedirectResponse(visits.settings.hub_url.rstrip("/") + "/home", headers=_HEADERS)
    _set(visits, answer, VISIT_COOKIE, "", 0)
    return answer


def _page(controller: Controller, user: User, visits: Visits) -> str:
    mine = [each for each in controller.list_sessions(user, ended=False) if each.owner == user.name]
    base = visits.settings.public_url.rstrip("/")
    return page(user.name, user.is_admin, mine, base=base, hub=visits.settings.hub_url.rstrip("/"))


def _to_login(visits: Visits) -> Response:
    return RedirectResponse(visits.settings.public_url.rstrip("/") + LOGIN, headers=_HEADERS)


def _refused(error: GpuaasError) -> Response:
    return HTMLResponse(refusal(error.message, error.hint), status_code=error.status, headers=_HEADERS)


def _set(visits: Visits, answer: Response, name: str, value: str, age_s: int) -> None:
    public = urlsplit(visits.settings.public_url)
    answer.set_cookie(
        name,
        value,
        max_age=age_s,
        path=public.path or "/",
        secure=public.scheme == "https",
        httponly=True,
        samesite="lax",
    )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
