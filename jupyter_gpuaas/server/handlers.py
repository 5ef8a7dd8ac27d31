"""Answers to front ends. What the service says passes; what is our own is in ``link`` and ``kernels``."""

from __future__ import annotations

import os
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import msgspec
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.extension.handler import ExtensionHandlerMixin
from tornado import web

from jupyter_gpuaas.client.choices import Choice, check_choice, drop_choice, read_choice, write_choice
from jupyter_gpuaas.errors import GpuaasError, InvalidRequest, to_wire
from jupyter_gpuaas.server.link import LinkState
from jupyter_gpuaas.server.routes import NotAllowed, for_browsers, query_of, way_of

NAMESPACE = "jupyter-gpuaas"
RESOURCE = "gpuaas"
_ID = r"([A-Za-z0-9_-]{1,128})"


class GpuaasHandler(ExtensionHandlerMixin, APIHandler):
    """What all have in common: who may, and how failures are told."""

    auth_resource = RESOURCE

    @property
    def app(self) -> Any:
        """The extension."""
        return self.extensionapp

    def say(self, content: object, status: int = 200) -> None:
        """Answer with JSON."""
        self.set_status(status)
        self.finish(msgspec.json.encode(content))

    def refuse(self, status: int, error: str, message: str, hint: str = "") -> None:
        """Answer with a reason."""
        self.say({"error": error, "message": message, "hint": hint}, status)

    def fail(self, error: GpuaasError, status: int = 0) -> None:
        """Answer with an error of ours."""
        self.say(to_wire(error), status or error.status)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Jupyter's own refusals, in the same form as ours."""
        raised = kwargs.get("exc_info", (None, None))[1]
        words = HTTPStatus(status_code).phrase
        said = raised.log_message if isinstance(raised, web.HTTPError) and status_code < 500 else ""
        self.refuse(status_code, words.title().replace(" ", ""), str(said or words))

    def update_api_activity(self) -> None:
        """Looking is no activity: a panel that is left open must not keep an idle Jupyter server alive."""
        if self.request.method != "GET":
            super().update_api_activity()


class ServiceHandler(GpuaasHandler):
    """``service``."""

    @web.authenticated
    @authorized("read", resource=RESOURCE)
    async def get(self) -> None:
        self.say(self.app.link.view)


class StartHandler(GpuaasHandler):
    """``service/start``."""

    @web.authenticated
    @authorized("write", resource=RESOURCE)
    async def post(self) -> None:
        link = self.app.link
        if link.view.state is not LinkState.READY:
            try:
                link.start()
            except InvalidRequest as error:
                self.fail(error, 409)
                return
        ready = link.view.state is LinkState.READY
        self.say(
            link.view if ready else msgspec.structs.replace(link.view, state=LinkState.STARTING), 200 if ready else 202
        )


class PassHandler(GpuaasHandler):
    """``v1/...``: the controller's own routes."""

    @web.authenticated
    @authorized("read", resource=RESOURCE)
    async def get(self, path: str) -> None:
        await self._pass()

    @web.authenticated
    @authorized("write", resource=RESOURCE)
    async def post(self, path: str) -> None:
        await self._pass()

    @web.authenticated
    @authorized("write", resource=RESOURCE)
    async def put(self, path: str) -> None:
        await self._pass()

    @web.authenticated
    @authorized("write", resource=RESOURCE)
    async def patch(self, path: str) -> None:
        await self._pass()

    @web.authenticated
    @authorized("write", resource=RESOURCE)
    async def delete(self, path: str) -> None:
        await self._pass()

    async def _pass(self) -> None:
        method = self.request.method or ""
        # As it came, not as tornado has unquoted it: a quoted slash belongs to a name.
        path = urlsplit(self.request.uri or "").path.partition(f"/{NAMESPACE}/v1/")[2]
        await self.forward(method, path)

    async def forward(self, method: str, path: str) -> None:
        """Pass the request on to a path of the controller."""
        try:
            way = way_of(method, path)
        except NotAllowed as error:
            self.refuse(error.status, "InvalidRequest", str(error))
            return
        most = self.app.gpuaas_settings.request_body_bytes
        if len(self.request.body) > most:
            self.refuse(413, "InvalidRequest", f"body: more than {most} bytes (setting request_body_bytes).")
            return
        given = [(name, value[-1].decode("utf-8", "replace")) for name, value in self.request.query_arguments.items()]
        query, wait_s = query_of(way, given)
        try:
            answer = await self.app.link.ask(method, f"/{path}", query=query, body=self.request.body, wait_s=wait_s)
        except GpuaasError as error:
            self.fail(error)
            return
        if way.guarded:
            answer = for_browsers(answer)
        self.set_status(answer.status)
        self.finish(answer.content, set_content_type=answer.content_type or "application/json")


class MissedHandler(PassHandler):
    """``sessions/{session}/missed``: another name of ``v1/sessions/{session}/cells``."""

    @web.authenticated
    @authorized("read", resource=RESOURCE)
    async def get(self, session: str) -> None:
        quoted = urlsplit(self.request.uri or "").path.partition(f"/{NAMESPACE}/sessions/")[2].removesuffix("/missed")
        await self.forward("GET", f"sessions/{quoted}/cells")

    @web.authenticated
    @authorized("write", resource=RESOURCE)
    async def post(self, session: str) -> None:
        raise web.HTTPError(405)

    put = patch = delete = post


class KernelsHandler(GpuaasHandler):
    """``kernels``."""

    @web.authenticated
    @authorized("read", resource=RESOURCE)
    async def get(self) -> None:
        self.say({"kernels": await self.app.kernels.views()})


class KernelHandler(GpuaasHandler):
    """``kernels/{kernel}``."""

    @web.authenticated
    @authorized("read", resource=RESOURCE)
    async def get(self, kernel_id: str) -> None:
        try:
            self.say(await self.app.kernels.view(kernel_id))
        except LookupError:
            self.refuse(404, "NoSuchKernel", f"this Jupyter server has no kernel {kernel_id!r}.")


class DetachHandler(GpuaasHandler):
    """``kernels/{kernel}/detach``."""

    @web.authenticated
    @authorized("write", resource=RESOURCE)
    async def post(self, kernel_id: str) -> None:
        try:
            self.app.kernels.detach(kernel_id)
        except LookupError:
            self.refuse(404, "NoSuchKernel", f"this Jupyter server has no kernel {kernel_id!r}.")
        except InvalidRequest as error:
            self.fail(error, 409)
        else:
            self.say({"detached": True})


class ChoicesHandler(GpuaasHandler):
    """``choices?path=``."""

    @web.authenticated
    @authorized("read", resource=RESOURCE)
    async def get(self) -> None:
        self._answer(lambda home, name: None)

    @web.authenticated
    @authorized("write", resource=RESOURCE)
    async def put(self) -> None:
        try:
            choice = check_choice(msgspec.json.decode(self.request.body, type=Choice))
        except msgspec.MsgspecError as error:
            self.fail(InvalidRequest(f"body: {error}."))
        except InvalidRequest as error:
            self.fail(error)
        else:
            self._answer(lambda home, name: write_choice(home, name, choice))

    @web.authenticated
    @authorized("write", resource=RESOURCE)
    async def delete(self) -> None:
        self._answer(drop_choice)

    def _answer(self, change: Callable[..., None]) -> None:
        path = self.get_query_argument("path", "").strip("/")
        parts = path.split("/")
        if not path or "\0" in path or any(part in ("", ".", "..") for part in parts):
            self.fail(InvalidRequest("path: must be the path of a notebook in this Jupyter server."))
            return
        # Where the Jupyter server will tell the kernel that its notebook is.
        name = self.session_manager.get_kernel_env(path, parts[-1])["JPY_SESSION_NAME"]
        try:
            home = self.app.gpuaas_settings.make_folder()
            change(home, name)
        except OSError as error:
            self.fail(GpuaasError(f"the choice cannot be kept: {error.strerror or error}."))
        except GpuaasError as error:
            self.fail(error)
        else:
            self.say({"path": path, "name": os.fspath(name), "choice": read_choice(home, name)})


#: Path below the base address -> handler.
HANDLERS: list[tuple[str, type[GpuaasHandler]]] = [
    (rf"/{NAMESPACE}/service", ServiceHandler),
    (rf"/{NAMESPACE}/service/start", StartHandler),
    (rf"/{NAMESPACE}/kernels", KernelsHandler),
    (rf"/{NAMESPACE}/kernels/{_ID}", KernelHandler),
    (rf"/{NAMESPACE}/kernels/{_ID}/detach", DetachHandler),
    (rf"/{NAMESPACE}/choices", ChoicesHandler),
    (rf"/{NAMESPACE}/sessions/([^/]+)/missed", MissedHandler),
    (rf"/{NAMESPACE}/v1/(.*)", PassHandler),
]
