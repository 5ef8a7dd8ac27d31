"""From a stopped tree to an image in a store."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from pathlib import Path

import msgspec

from ..errors import NotDumpable
from ..store.base import Store
from .criu import Criu, dump_arguments, explain
from .jail import HOME, ROOT_PID, Jail
from .manifest import DeviceNeed, ImageManifest, ImageWorld, seal_image
from .pack import Packer, pack_scratch
from .resumable import LinkState
from .sockets import look

IMAGES = "images"


class ImageName(msgspec.Struct, frozen=True, kw_only=True):
    """Whose image it is, and under which id."""

    id: str
    session: str = ""
    epoch: int = 0


class Dump:
    """One image in the making: rounds of memory while the tree runs, then ``finish`` while it is stopped.

    Parameters
    ----------
    store, key
        Where chunks and manifest go, and what the manifest is sealed with.
    """

    def __init__(self, jail: Jail, criu: Criu, store: Store, key: bytes, name: ImageName) -> None:
        self._jail = jail
        self._criu = criu
        self._store = store
        self._key = key
        self._name = name
        self._rounds = 0
        self._folder = Path(jail.spec.folder) / IMAGES / name.id
        self._folder.mkdir(mode=0o700, parents=True)
        self._packer = Packer(store, self._folder)

    async def round(self) -> None:
        """Write the memory that was changed since the last round; the tree goes on.

        Raises ``NotDumpable``; the tree goes on then too.
        """
        if not self._criu.dirty_tracking:
            raise NotDumpable("this Linux does not mark written pages, so memory goes in one stop.")
        await self._criu_dump(pre=True)

    async def finish(
        self,
        *,
        kernel_pid: int,
        link: LinkState,
        devices: tuple[DeviceNeed, ...] = (),
        device_ids: tuple[str, ...] = (),
    ) -> ImageManifest:
        """Dump the stopped tree, which stays stopped, and commit the image.

        Raises
        ------
        NotDumpable, StoreError
            There is no image. The tree is stopped still.
        """
        jail = self._jail
        processes = jail.processes()
        belongings = look(processes)
        last_pid = jail.last_pid()
        await self._criu_dump(pre=False)
        scratch = jail.spec.scratch
        try:
            elsewhere = frozenset(bind.inside for bind in jail.spec.binds)
            await asyncio.to_thread(pack_scratch, jail.root, scratch, self._folder, elsewhere)
        except OSError as error:
            raise NotDumpable(f"the session's own folders cannot be read: {error}.") from error
        try:
            files = await asyncio.to_thread(self._packer.finish)
        except OSError as error:
            raise NotDumpable(f"the image cannot be read back: {error}.") from error
        manifest = ImageManifest(
            id=self._name.id,
            created_s=time.time(),
            session=self._name.session,
            epoch=self._name.epoch,
            criu=self._criu.version,
            world=ImageWorld.here(),
            rounds=self._rounds,
            files=files,
            last_pid=last_pid,
            kernel_pid=kernel_pid,
            binds=tuple(bind.inside for bind in jail.spec.binds),
            scratch=scratch,
            cwd=jail.spec.cwd,
            belongings=belongings,
            link=link,
            devices=devices,
            device_ids=device_ids,
        )
        await asyncio.to_thread(self._store.commit, manifest.id, seal_image(manifest, self._key))
        return manifest

    async def close(self) -> None:
        """Remove what is on disk; what was put into the store without a manifest is garbage there."""
        await asyncio.to_thread(self._packer.abandon)
        await asyncio.to_thread(shutil.rmtree, self._folder, True)

    async def _criu_dump(self, *, pre: bool) -> None:
        number = self._rounds
        place = self._folder / str(number)
        place.mkdir(mode=0o700)
        arguments = dump_arguments(
            self._criu,
            root_pid=ROOT_PID,
            folder=f"{HOME}/{IMAGES}/{self._name.id}/{number}",
            parent=f"../{number - 1}" if number else "",
            track=self._criu.dirty_tracking and pre,
            pre=pre,
        )
        status, output = await self._jail.run(arguments)
        if status != 0:
            raise NotDumpable(f"CRIU cannot dump the session: {why(place, output, status)}.")
        self._rounds += 1


def why(place: Path, output: str, status: int) -> str:
    """The reason of a failure, from CRIU's log and what it printed."""
    log = ""
    with contextlib.suppress(OSError):
        log = (place / "criu.log").read_text(errors="replace")
    return explain(log) or explain(output) or output.strip()[-500:] or f"it ended with status {status}"
