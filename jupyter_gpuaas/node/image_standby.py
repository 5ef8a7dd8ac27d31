"""A host that takes a session over together with its kernel's process, in the middle of a cell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ..errors import DeviceRefused, MigrationError
from ..image.follow import Follower
from ..model import Channel, Loaded
from .kernel_process import Kernel
from .standby import Standby
from .threads import in_thread


class ImageStandby(Standby):
    """The same operations as of ``Standby``; what they call a checkpoint is the id of an image.

    Parameters
    ----------
    folder
        Where an image is put together; nobody else's.
    restore
        Makes the kernel of an image that has come, stopped.
    moved
        What the kernel is told when it runs here: its epoch, and its environment.
    """

    by_image = True

    def __init__(
        self,
        *arguments: Any,
        folder: Path,
        restore: Callable[[str, Follower], Awaitable[Kernel]],
        moved: Callable[[], dict[str, Any]],
        **more: Any,
    ) -> None:
        super().__init__(*arguments, **more)
        self._folder = folder
        self._restore = restore
        self._follower: Follower | None = None
        self._moved = moved
        self._taken_over = False
        self._telling: asyncio.Task[None] | None = None

    async def preload(self, checkpoint: str, **more: Any) -> Loaded:
        """Bring over what does not come with the image, files and the journal so far; and of the image what there is by
        now. From the first time on it is followed, so that it comes while it is made."""
        async with self._turn:
            began = time.monotonic()
            sent = await self.bring_files_and_journal()
            sent += await in_thread(self._image(checkpoint).caught_up, name="fetch-image")
            return Loaded(checkpoint=checkpoint, sent_bytes=sent, took_s=time.monotonic() - began)

    async def load(self, checkpoint: str, **more: Any) -> Loaded:
        """Make the processes; they are stopped until ``live``. What they have open must be here first."""
        async with self._turn:
            began = time.monotonic()
            sent = await self.bring_files_and_journal()
            if self._session.kernel is None:
                follower = self._image(checkpoint)
                sent += await in_thread(follower.caught_up, name="fetch-image")
                self._session.kernel = await self._restore(checkpoint, follower)
                await in_thread(follower.close, name="fetch-image")
            self._loaded = True
            return Loaded(checkpoint=checkpoint, sent_bytes=sent, took_s=time.monotonic() - began)

    async def succeed(self) -> int:
        """As of ``Standby``. What is known of a host that ended before it could hand over is not enough."""
        received = await super().succeed()
        if self._handover is not None and not self._handover.imaged:
            self._handover = None
            raise MigrationError("the host that had the session is gone, and has not handed it over.")
        return received

    async def live(self) -> None:
        """Be the session's host, and let the processes go on.

        Raises
        ------
        MigrationError, TransportError
            Not everything is here yet, or the kernel is gone; it does not answer. It can be asked again.
        """
        async with self._turn:
            if self._live:
                return
            kernel = self._session.kernel
            if not self._loaded or self._handover is None or kernel is None:
                raise MigrationError("the session has not arrived here yet.")
            if not self._taken_over:
                if not kernel.pid:
                    # Nobody was told, as all of its tree stood still. The session comes back like one that is lost.
                    raise MigrationError("the kernel that was to take the session over is gone.")
                # Before the kernel can say anything: what it says is the session's from its first word on.
                self._taken_over = True
                self._session.take_over(self._handover)
            try:
                await kernel.resume()
            except DeviceRefused as error:
                # The processes run here, and nowhere else any more: they are asked until they have their devices.
                self._session.halted(kernel, str(error))
            self._live = True
            # What the former host had still to say is not known here.
            kernel.take_outputs()
            kernel.remind()
            # The cell that runs may not let it answer for long.
            self._telling = asyncio.get_running_loop().create_task(self._tell(kernel))

    def close(self) -> None:
        """What has come of an image is not needed any more, or not wanted."""
        if self._follower is not None:
            self._follower.close()

    def _image(self, image: str) -> Follower:
        if self._follower is None:
            self._follower = Follower(self._peer, image, self._folder)
        return self._follower

    async def _tell(self, kernel: Kernel) -> None:
        content = {"op": "go_on", **self._moved()}
        try:
            await kernel.ask(Channel.CONTROL, "gpuaas_stand_request", content)
        except RuntimeError:
            return  # it ended; the next kernel is adopted as always
