"""The extension application: its settings, and what begins and ends with the Jupyter server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyter_server.extension.application import ExtensionApp
from traitlets import Bool, Enum

from jupyter_gpuaas import __version__
from jupyter_gpuaas.client.kernel_notes import drop_stale_notes
from jupyter_gpuaas.config import Settings, load
from jupyter_gpuaas.errors import SettingError
from jupyter_gpuaas.server.handlers import HANDLERS
from jupyter_gpuaas.server.kernels import Kernels
from jupyter_gpuaas.server.link import ServiceLink
from jupyter_gpuaas.server.news import Told

EVENTS = Path(__file__).parent / "events"


class GpuaasApp(ExtensionApp):
    """Remote GPU sessions for the front ends of this Jupyter server."""

    name = "jupyter_gpuaas"
    description = "Remote GPU sessions: what they are doing, where, and moving them."
    version = __version__
    load_other_extensions = True

    start_service = Enum(
        ["on_use", "at_start", "never"],
        default_value="on_use",
        config=True,
        help="""When the embedded service is started, where no service is configured (GPUAAS_URL) and none runs:
        with the first request that needs it, with the Jupyter server, or never by this extension. Kernels start it
        in any case.""",
    )
    keep_sessions = Bool(
        True,
        config=True,
        help="""Whether remote sessions go on when this Jupyter server ends. A kernel that is shut down by its user
        ends its session all the same.""",
    )

    def initialize_settings(self) -> None:
        """Read the settings and register what events look like; nothing is started yet."""
        self.gpuaas_settings = self._read_settings()
        self.link = ServiceLink(self.gpuaas_settings, may_start=self.start_service != "never", tell=self._tell)
        self.kernels = Kernels(self.serverapp.kernel_manager, self.gpuaas_settings, self.link)
        for path in sorted(EVENTS.glob("*.yaml")):
            self._register(path.read_text("utf-8"))

    def _register(self, schema: str) -> None:
        logger = self.serverapp.event_logger
        try:
            logger.register_event_schema(schema)
        except Exception:  # jupyter_events before 0.11, for which versions are numbers; another fault fails again
            logger.register_event_schema(schema.replace('version: "1"', "version: 1"))

    def _read_settings(self) -> Settings:
        try:
            return load()
        except SettingError as error:
            self.log.error("jupyter_gpuaas: %s", error)
            raise

    def initialize_handlers(self) -> None:
        """Add the routes, and have the link opened as soon as there is an event loop."""
        self.handlers.extend(HANDLERS)
        if not hasattr(ExtensionApp, "_start_jupyter_server_extension"):  # jupyter_server before 2.15
            self.serverapp.io_loop.add_callback(self._begin)

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        self._begin()

    def _begin(self) -> None:
        drop_stale_notes(self.gpuaas_settings.folder)
        self.link.open()
        if self.start_service == "at_start" and not self.gpuaas_settings.url:
            self.link.start()

    async def stop_extension(self) -> None:
        """The Jupyter server ends: its kernels' sessions go on, and nothing of ours does."""
        if self.keep_sessions:
            self.kernels.detach_all()
        await self.link.close()

    def _tell(self, told: Told) -> None:
        schema, data = told
        try:
            self.serverapp.event_logger.emit(schema_id=schema, data=data)
        except Exception:  # of whoever listens, or of a schema: the next event is told all the same
            self.log.exception("jupyter_gpuaas: an event could not be told")
