"""The image that a host makes of its session's kernel: rounds of memory while the kernel runs, then all the rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from ..errors import ImageError, MigrationError, StoreError
from ..image.cuda_helper import CudaHelper
from ..image.dump import Dump, ImageName, no_rounds
from ..image.image_kernel import ImageKernel
from ..image.shelf import Shelf
from ..model import Imaged, ImageRound
from .jailed_kernel import JailedKernel
from .kernel_process import Kernel
from .session_host import SessionHost


class Imaging:
    """One image at a time, which lies on ``shelf`` until ``drop``."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self._dump: Dump | None = None
        # A round that its asker has given up goes on to its end: CRIU is not interrupted.
        self._turn = asyncio.Lock()

    async def round(self, session: SessionHost, image: str) -> ImageRound:
        """One round of memory, where there can be one; without, all of it goes when the kernel stands still.

        Raises
        ------
        MigrationError
            This kernel cannot be put into an image at all.
        """
        async with self._turn:
            kernel = self._kernel(session.kernel)
            if not session.standstill.goes_on or kernel.halted:
                return ImageRound(none="the session stands still already")
            if why := no_rounds(kernel.criu):
                return ImageRound(none=why)
            try:
                return ImageRound(image_bytes=await self._begun(session, kernel, image).round())
            except (ImageError, StoreError, OSError) as error:
                return ImageRound(none=str(error).rstrip("."))

    async def take(self, session: SessionHost, image: str, cuda: Callable[[], Awaitable[CudaHelper | None]]) -> Imaged:
        """Put the kernel into an image, wherever it is; it is stopped afterwards.

        Raises
        ------
        MigrationError, ImageError, StoreError
            There is none, and the kernel runs on.
        """

        async def take(asked: Kernel) -> Imaged:
            kernel = self._kernel(asked)
            async with self._turn:
                try:
                    dump = self._begun(session, kernel, image)
                    if (helper := await cuda()) is not None:
                        kernel.use_cuda(helper)
                    began = time.monotonic()
                    manifest = await kernel.finish_image(dump)
                except BaseException:
                    await self._close()
                    raise
            return Imaged(
                image=image,
                image_bytes=manifest.content_bytes,
                took_s=time.monotonic() - began,
                lost=tuple(each.words for each in manifest.belongings.connections),
            )

        return await session.standstill.take_image(take)

    async def drop(self) -> None:
        """The image, if there is one, is not needed any more."""
        async with self._turn:
            await self._close()

    def _begun(self, session: SessionHost, kernel: ImageKernel, image: str) -> Dump:
        if self._dump is None:
            name = ImageName(id=image, session=session.spec.session_id, epoch=session.spec.lease.epoch)
            self._dump = kernel.begin_image(self.shelf, image_key(session), name)
        return self._dump

    async def _close(self) -> None:
        dump, self._dump = self._dump, None
        self.shelf.clear()
        if dump is not None:
            await dump.close()

    @staticmethod
    def _kernel(kernel: Kernel | None) -> ImageKernel:
        if not isinstance(kernel, JailedKernel):
            raise MigrationError(
                "the kernel of this session was not started in a jail, so it cannot be put into an image."
            )
        return kernel.image


def image_key(session: SessionHost) -> bytes:
    """What images of a session are sealed with: who can read its checkpoints can use them."""
    plan = session.spec.checkpoints
    if plan is None:
        raise MigrationError("the session takes no checkpoints, so there is no key for an image.")
    return bytes.fromhex(plan.key)
