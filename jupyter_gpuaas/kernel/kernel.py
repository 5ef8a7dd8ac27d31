"""The kernel of a session: IPython's, and the messages that its host and shipped cells need."""

from __future__ import annotations

import os
import traceback
from typing import Any

from ipykernel.ipkernel import IPythonKernel

from ..errors import GpuaasError
from .bundles import BundleStore
from .exchange import Exchange

DATA_SOCKET = "GPUAAS_DATA_SOCKET"


class GpuKernel(IPythonKernel):
    """An IPython kernel that can be started ahead and given to a session later."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.control_handlers["gpuaas_adopt_request"] = self.gpuaas_adopt_request
        self.shell_handlers["gpuaas_request"] = self.gpuaas_request
        self.exchange = Exchange(self.shell, BundleStore(os.environ.get(DATA_SOCKET, "")))

    async def gpuaas_adopt_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Become the kernel of a session: take its environment and working folder."""
        content = parent["content"]
        reply = {"status": "ok"}
        try:
            os.chdir(content["cwd"])
            os.environ.update(content["env"])
        except OSError as error:
            reply = {"status": "error", "evalue": f"the working folder cannot be entered: {error}"}
        assert self.session is not None
        self.session.send(stream, "gpuaas_adopt_reply", reply, parent, ident=ident)

    async def gpuaas_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Carry out one operation of the client half that is not a cell."""
        try:
            content = {"status": "ok", **await self.exchange.request(parent["content"])}
        except Exception as error:
            content = {
                "status": "error",
                "ename": type(error).__name__,
                "evalue": str(error),
                "traceback": _rendered(error),
            }
        assert self.session is not None
        self.session.send(stream, "gpuaas_reply", content, parent, ident=ident)

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = False,
        *,
        cell_meta: dict[str, Any] | None = None,
        cell_id: str | None = None,
    ) -> dict[str, Any]:
        """Run a cell; a shipped one brings variables along and has some sent back."""
        shipped = (cell_meta or {}).get("gpuaas")
        if shipped:
            try:
                self.exchange.before(shipped)
            except Exception as error:
                assert self.shell is not None
                self.shell.showtraceback()
                return {
                    "status": "error",
                    "ename": type(error).__name__,
                    "evalue": str(error),
                    "traceback": _rendered(error),
                    "execution_count": self.execution_count,
                    "user_expressions": {},
                    "payload": [],
                }
        reply: dict[str, Any] = await super().do_execute(
            code,
            silent,
            store_history,
            user_expressions,
            allow_stdin,
            cell_meta=cell_meta,
            cell_id=cell_id,
        )
        if shipped:
            reply["gpuaas"] = self.exchange.after(shipped, reply)
        return reply


def _rendered(error: Exception) -> list[str]:
    """The error as the shell shows it: ours in words, others with their stack."""
    if isinstance(error, GpuaasError):
        return error._render_traceback_()
    return traceback.format_exception(error)
