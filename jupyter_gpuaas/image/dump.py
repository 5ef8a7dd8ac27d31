"""From a tree of processes to an image."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from pathlib import Path

import msgspec

from ..errors import NotDumpable
from .criu import Criu, dump_arguments, explain
from .jail import HOME, IMAGES, ROOT_PID, Jail
from .manifest import DeviceNeed, ImageManifest, ImageWorld, seal_image
from .pack import Packer, Sink, pack_scratch
from .resumable import LinkState
from .room import check_room
from .sockets import look


class ImageName(msgspec.Struct, frozen=True, kw_only=True):
    """Whose image it is, and under which id."""

    id: str
    session: str = ""
    epoch: int = 0


class Dump:
    """One image in the making: rounds of memory while the tree runs, then ``finish`` while it is stopped.

    Parameters
    ----------
    sink, key
        Where chunks and manifest go, and what the manifest is sealed with. What a sink was told of lies in the image's
        folder until ``close``.
    """

    def __init__(self, jail: Jail, criu: Criu, sink: Sink, key: bytes, name: ImageName) -> None:
        self._jail = jail
        self._criu = criu
        self._sink = sink
        self._key = key
        self._name = name
        self._folder = jail.spec.images / name.id
        self._begin()

    def _begin(self) -> None:
        self._rounds = self._before = 0
        self._folder.mkdir(mode=0o700, parents=True)
        self._sink.begin(self._name.id, self._folder)
        self._packer = Packer(self._sink, self._folder)

    async def round(self) -> int:
        """Write the memory that was changed since the last round, while the tree goes on; gives the bytes.

        Raises
        ------
        NotDumpable, StoreError
            The tree goes on then too. The rounds before are worth nothing any more: some of what was written since the
            last may count as unchanged by now.
        """
        if why := no_rounds(self._criu):
            raise NotDumpable(f"{why}.")
        try:
            await self._criu_dump(pre=True)
            bytes_by_now = await asyncio.to_thread(self._packer.caught_up)
        except BaseException:
            await self.close()
            self._begin()
            raise
        before, self._before = self._before, bytes_by_now
        return bytes_by_now - before

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
        await asyncio.to_thread(self._sink.commit, manifest.id, seal_image(manifest, self._key))
        return manifest

    async def close(self) -> None:
        """Remove what is on disk; what was put into a store without a manifest is garbage there."""
        await asyncio.to_thread(self._packer.abandon)
        await asyncio.to_thread(shutil.rmtree, self._folder, True)

    async def _criu_dump(self, *, pre: bool) -> None:
        number = self._rounds
        if number == 0:
            check_room(self._folder, (process.pid for process in self._jail.processes()))
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
            raise NotDumpable(f"CRIU cannot dump the session to {self._folder}: {why(place, output, status)}.")
        self._rounds += 1


def no_rounds(criu: Criu) -> str:
    """Why memory cannot go in rounds; empty if it can."""
    return "" if criu.dirty_tracking else "Linux does not mark written pages for CRIU here"


def why(place: Path, output: str, status: int) -> str:
    """The reason of a failure, from CRIU's log and what it printed."""
    log = ""
    with contextlib.suppress(OSError):
        log = (place / "criu.log").read_text(errors="replace")
    return explain(log) or explain(output) or output.strip()[-500:] or f"it ended with status {status}"
