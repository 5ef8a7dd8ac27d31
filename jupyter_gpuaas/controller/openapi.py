"""The service's description of itself: the routes as the framework knows them, and what each may refuse.

Which refusals a route may answer with is one table. A route that is added has them by its path and method.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from jupyter_gpuaas.controller.answers import schemas

#: Every status that is no success, and what it means.
MEANINGS: Mapping[int, str] = {
    400: "The body cannot be read",
    401: "No token, or one that is not valid",
    403: "Not with this token, or somebody else's",
    404: "There is none",
    409: "Not in this state, or not any more",
    410: "The session has ended",
    413: "The body is too large",
    422: "A field is not usable; the message names it",
    429: "A quota is used up",
    500: "The service failed; its log says more",
    501: "The node of the session cannot do this",
    502: "The node of the session does not answer",
    503: "The service cannot serve now",
    507: "No room left, or a store that cannot be read or written",
}
_ALWAYS = (401, 403, 422, 500, 503, 507)
_WITH_PARAMETERS = (404,)
_WITH_BODY = (400, 413)
#: Those that are about sessions, nodes or what is moved between these, may say what these said.
_AT_A_NODE = ("/sessions", "/api/kernels", "/nodes", "/rebalance")
_OF_A_NODE = (400, 404, 409, 410, 429, 501, 502)


def refusals(path: str, method: str) -> tuple[int, ...]:
    """The statuses with which a route that needs a token may refuse, rising."""
    found = set(_ALWAYS)
    if "{" in path:
        found.update(_WITH_PARAMETERS)
    if method.upper() not in ("GET", "HEAD"):
        found.update(_WITH_BODY)
    if path.startswith(_AT_A_NODE):
        found.update(_OF_A_NODE)
    return tuple(sorted(found))


def describe(app: FastAPI, open_paths: Collection[str]) -> dict[str, Any]:
    """The OpenAPI description.

    Parameters
    ----------
    open_paths
        Paths that need no token.
    """
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = made.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas())
    # The framework's own form of a refusal, which none of ours has.
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    components["responses"] = {f"Refused{status}": _refusal(meaning) for status, meaning in MEANINGS.items()}
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{"token": []}]
    for path, method, operation in _operations(made):
        answers = operation.setdefault("responses", {})
        answers.pop("422", None)
        if path in open_paths:
            operation["security"] = []
            continue
        for status in refusals(path, method):
            answers.setdefault(str(status), {"$ref": f"#/components/responses/Refused{status}"})
    return made


def _operations(made: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in made["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def _refusal(meaning: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Failure"}
    return {"description": meaning, "content": {"application/json": {"schema": schema}}}
