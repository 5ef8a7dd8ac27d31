"""The controller's HTTP face."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from jupyter_gpuaas import __version__
from jupyter_gpuaas.controller import (
    relay,
    routes_checkpoints,
    routes_events,
    routes_health,
    routes_metrics,
    routes_migrations,
    routes_pool,
    routes_reservations,
    routes_sessions,
    routes_usage,
    routes_users,
)
from jupyter_gpuaas.controller.answers import Facts, failure
from jupyter_gpuaas.controller.below import Below
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.controller.gate import OPEN_PATHS, Gate
from jupyter_gpuaas.controller.gateway import routes as gateway_routes
from jupyter_gpuaas.controller.gateway.kernels import Kernels
from jupyter_gpuaas.controller.http_figures import Figures, HttpFigures
from jupyter_gpuaas.controller.hub import visits
from jupyter_gpuaas.controller.openapi import describe
from jupyter_gpuaas.errors import GpuaasError, InvalidRequest
from jupyter_gpuaas.logs import formatter

log = logging.getLogger(__name__)


def make_app(controller: Controller, key: str = "") -> FastAPI:
    """The application over a controller, which its caller opens and closes.

    Parameters
    ----------
    key
        Shown by controllers that stand by; empty where there are none.
    """
    app = FastAPI(
        title="jupyter_gpuaas",
        version=__version__,
        description="Notebook sessions on the GPU nodes of a pool, that outlive their client.",
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.controller = controller
    app.state.key = key
    app.state.kernels = Kernels(lambda session_id: controller.sessions.get(session_id) is not None)
    app.state.figures = Figures()
    app.state.visits = visits.Visits(controller.settings)
    for module in (
        routes_sessions,
        routes_checkpoints,
        routes_migrations,
        routes_metrics,
        routes_pool,
        routes_users,
        routes_usage,
        routes_reservations,
        routes_events,
        routes_health,
        gateway_routes,
        relay,
        visits,
    ):
        app.include_router(module.router)
    app.add_exception_handler(GpuaasError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    app.add_middleware(
        Gate, identity=controller.identity, audit=controller.audit, body_bytes=controller.settings.request_body_bytes
    )
    app.add_middleware(HttpFigures, figures=app.state.figures)
    prefix = urlsplit(controller.settings.public_url).path.rstrip("/")
    if prefix:
        app.add_middleware(Below, prefix=prefix)
    formatter.epoch_of = controller.epoch_of
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GpuaasError)
    return failure(error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    said = []
    for each in error.errors():
        # The first part says body, query or path, which nobody wants to know.
        field = ".".join(str(part) for part in each["loc"][1:]) or str(each["loc"][0])
        # What our own checks say names the field itself.
        why = each["msg"].removeprefix("Value error, ").removeprefix(f"{field}: ")
        said.append(f"{field}: {why}")
    return failure(InvalidRequest("; ".join(said)))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = {"error": "InvalidRequest", "message": str(error.detail), "hint": ""}
    return Facts(body, status_code=error.status_code, headers=error.headers)


async def _on_bug(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return failure(GpuaasError("the service failed; its log says more."))


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = describe(app, OPEN_PATHS)
    return app.openapi_schema
