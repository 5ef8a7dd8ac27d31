"""Images whose memory goes in rounds, and that are fetched while they are made: over a stand-in for CRIU, which needs a
Linux that marks written pages."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from jupyter_gpuaas.errors import ChunkCorrupt, ImageError, NotDumpable
from jupyter_gpuaas.image.criu import Criu, restore_arguments
from jupyter_gpuaas.image.dump import Dump, ImageName
from jupyter_gpuaas.image.follow import Follower
from jupyter_gpuaas.image.jail import HOME, JailSpec, Process
from jupyter_gpuaas.image.manifest import ImageFile, ImageManifest, validate_image
from jupyter_gpuaas.image.pack import StoredImage
from jupyter_gpuaas.image.resumable import LinkState
from jupyter_gpuaas.image.room import own_bytes
from jupyter_gpuaas.image.shelf import Known, Shelf
from jupyter_gpuaas.store import MemoryStore
from jupyter_gpuaas.store.base import CHUNK_BYTES
from jupyter_gpuaas.store.manifest import Blob
from tests.peers import Source

from . import stand_in_criu

KEY = b"k" * 32
PAGE = stand_in_criu.PAGE


class PlainJail:
    """What a dump needs of a jail, without namespaces: the folder that a jail shows as its home is named as it is."""

    def __init__(self, folder: Path) -> None:
        self.spec = JailSpec(folder=str(folder), scratch=(), cwd="/")
        self.root = folder
        self.commands: list[list[str]] = []

    def processes(self) -> list[Any]:
        return []

    def last_pid(self) -> int:
        return 2

    async def run(self, command: Sequence[str]) -> tuple[int, str]:
        self.commands.append(list(command))
        told = [word.replace(HOME, self.spec.folder) for word in command]
        done = await asyncio.to_thread(subprocess.run, told, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr


class Tree:
    """A tree whose memory a test writes to, on a Linux that marks written pages or does not."""

    def __init__(self, folder: Path, *, marks: bool = True) -> None:
        folder.mkdir()
        program = folder / "criu"
        program.write_text(f"#!{sys.executable}\n{Path(stand_in_criu.__file__).read_text()}")
        program.chmod(0o755)
        self.folder = folder
        self.jail = PlainJail(folder)
        self.criu = Criu(path=str(program), version="4.2", dirty_tracking=marks, lazy_pages=False)
        self.memory = bytearray(os.urandom(3 * CHUNK_BYTES))
        self.write(0)

    def write(self, *numbers: int) -> None:
        """Change these pages."""
        for number in numbers:
            self.memory[number * PAGE : (number + 1) * PAGE] = os.urandom(PAGE)
        (self.folder / "memory").write_bytes(self.memory)

    def dump(self, sink: Any) -> Dump:
        return Dump(self.jail, self.criu, sink, KEY, ImageName(id="image"))  # type: ignore[arg-type]

    async def finish(self, dump: Dump) -> ImageManifest:
        return await dump.finish(kernel_pid=3, link=LinkState())

    def restored(self, folder: Path, rounds: int) -> bytes:
        """What a restore from this folder makes of it."""
        command = restore_arguments(self.criu, folder=str(folder / str(rounds - 1)))
        subprocess.run(command, check=True, capture_output=True)
        return (self.folder / "restored").read_bytes()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "tree")


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    yield shelf
    shelf.close()


@pytest.fixture
def source(request: pytest.FixtureRequest, shelf: Shelf) -> Iterator[Source]:
    source = Source(None, shelf=shelf, far=getattr(request, "param", None))
    yield source
    shelf.close()
    source.close()


@pytest.mark.parametrize("source", [None, True], ids=["near", "far"], indirect=True)
async def test_rounds_bring_what_was_written_and_a_restore_finds_the_rest_in_those_before(
    tree: Tree, shelf: Shelf, source: Source, tmp_path: Path
) -> None:
    follower = Follower(source.peer, "image", tmp_path / "coming")
    try:
        assert await asyncio.to_thread(follower.caught_up) < 1000, "nothing is there yet"
        dump = tree.dump(shelf)
        assert await dump.round() == len(tree.memory)
        first = await asyncio.to_thread(follower.caught_up)
        assert first > len(tree.memory), "the first round has come, while the tree goes on"
        tree.write(*range(300))
        assert await dump.round() == CHUNK_BYTES  # of 300 pages, in whole chunks; the rest comes at the end
        assert CHUNK_BYTES < await asyncio.to_thread(follower.caught_up) < 2 * CHUNK_BYTES
        tree.write(5, 700)
        manifest = await tree.finish(dump)
        assert manifest.rounds == 3
        sealed = await asyncio.to_thread(follower.manifest, "image")
        assert validate_image(sealed, KEY, expected_id="image") == manifest
        target = tmp_path / "target" / "image"
        await asyncio.to_thread(follower.bring, manifest, target)
        assert (target / "2" / "pages-1.img").stat().st_size == 2 * PAGE
        await dump.close()
        assert tree.restored(target, manifest.rounds) == tree.memory
    finally:
        follower.close()


async def test_chain_that_comes_out_of_a_store_is_the_same(tree: Tree, tmp_path: Path) -> None:
    stored = StoredImage(MemoryStore())
    dump = tree.dump(stored)
    await dump.round()
    tree.write(1, 2)
    manifest = await tree.finish(dump)
    await dump.close()
    stored.bring(manifest, tmp_path / "target")
    assert tree.restored(tmp_path / "target", manifest.rounds) == tree.memory


async def test_round_that_fails_takes_those_before_with_it(
    tree: Tree, shelf: Shelf, source: Source, tmp_path: Path
) -> None:
    follower = Follower(source.peer, "image", tmp_path / "coming")
    try:
        await asyncio.to_thread(follower.caught_up)
        dump = tree.dump(shelf)
        await dump.round()
        await asyncio.to_thread(follower.caught_up)
        tree.write(7)
        (tree.folder / "refuse").touch()
        with pytest.raises(NotDumpable, match="something that CRIU does not know"):
            await dump.round()
        # Page 7 counts as unchanged by now; a dump onto the first round would lose it.
        manifest = await tree.finish(dump)
        assert manifest.rounds == 1 and "--prev-images-dir" not in tree.jail.commands[-1]
        await asyncio.to_thread(follower.bring, manifest, tmp_path / "target")
        assert tree.restored(tmp_path / "target", 1) == tree.memory
        await dump.close()
    finally:
        follower.close()


async def test_no_round_where_linux_marks_nothing(tmp_path: Path, shelf: Shelf) -> None:
    tree = Tree(tmp_path / "tree", marks=False)
    dump = tree.dump(shelf)
    with pytest.raises(NotDumpable, match="does not mark written pages"):
        await dump.round()
    manifest = await tree.finish(dump)
    await dump.close()
    assert manifest.rounds == 1
    (only,) = tree.jail.commands
    assert only[1] == "dump" and "--track-mem" not in only


async def test_chunks_come_while_the_image_is_being_written(shelf: Shelf, source: Source, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "pages-1.img").write_bytes(os.urandom(CHUNK_BYTES))
    came = threading.Event()
    follower = Follower(source.peer, "image", tmp_path / "coming")
    real = follower._write

    def write(name: str, views: list[memoryview]) -> None:
        real(name, views)
        came.set()

    follower._write = write  # type: ignore[method-assign]
    try:
        await asyncio.to_thread(follower.caught_up)
        shelf.begin("image", folder)
        data = (folder / "pages-1.img").read_bytes()
        shelf.put("pages-1.img", 0, [(blake3(data).digest(), data)])
        assert await asyncio.to_thread(came.wait, 60), "nothing came before the image was complete"
    finally:
        follower.close()
    assert not (tmp_path / "coming").exists()


async def test_what_did_not_come_as_it_was_sealed_is_not_used(
    tree: Tree, shelf: Shelf, source: Source, tmp_path: Path
) -> None:
    dump = tree.dump(shelf)
    manifest = await tree.finish(dump)
    follower = Follower(source.peer, "image", tmp_path / "coming")
    try:
        await asyncio.to_thread(follower.caught_up)
        # As who could make the peer name other chunks would have it: each is what its digest says.
        pages = next(file for file in manifest.files if file.name == "0/pages-1.img")
        blob = Blob(
            pages.content.size, pages.content.digests[32:64] + pages.content.digests[:32] + pages.content.digests[64:]
        )
        without = tuple(file for file in manifest.files if file is not pages)
        for files in ((*without, ImageFile(pages.name, blob)), without):
            other = msgspec.structs.replace(manifest, files=files)
            with pytest.raises(ImageError if files is without else ChunkCorrupt):
                await asyncio.to_thread(follower.bring, other, tmp_path / "target")
        assert not (tmp_path / "target").exists()
        await asyncio.to_thread(follower.bring, manifest, tmp_path / "target")
    finally:
        follower.close()
    await dump.close()


async def test_disk_that_is_full_is_told_and_does_not_end_it(
    tree: Tree, shelf: Shelf, source: Source, tmp_path: Path
) -> None:
    follower = Follower(source.peer, "image", tmp_path / "coming")
    real, full = follower._write, [True]

    def write(name: str, views: list[memoryview]) -> None:
        real(name, [views[0][:1000]] if full else views)
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    follower._write = write  # type: ignore[method-assign]
    try:
        dump = tree.dump(shelf)
        manifest = await tree.finish(dump)
        with pytest.raises(ImageError, match="No space left"):
            await asyncio.to_thread(follower.caught_up)
        full.clear()
        await asyncio.to_thread(follower.caught_up)
        await asyncio.to_thread(follower.bring, manifest, tmp_path / "target")
        assert tree.restored(tmp_path / "target", 1) == tree.memory
        await dump.close()
    finally:
        follower.close()


def test_who_knows_nothing_of_an_image_is_answered_at_once_when_in_a_hurry(shelf: Shelf) -> None:
    news = shelf.news("image", Known(hurry=True))
    assert (news.attempt, news.parts, news.total, news.complete) == (0, (), 0, False)


async def test_image_that_does_not_fit_is_refused_before_criu_begins_and_the_folder_is_named(
    tree: Tree, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Process(os.getpid(), 2, "S")
    tree.jail.processes = lambda: [mine]  # type: ignore[method-assign]
    wants_bytes = own_bytes(mine.pid)
    free = SimpleNamespace(free=wants_bytes // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
    dump = tree.dump(shelf)
    for attempt in (dump.round, lambda: tree.finish(dump)):
        with pytest.raises(NotDumpable, match="no room for an image") as refused:
            await attempt()
        assert str(tree.jail.spec.images) in str(refused.value) and "image_folder" in refused.value.hint
    assert not tree.jail.commands
    free.free = 2 * wants_bytes
    await tree.finish(dump)
    await dump.close()


async def test_images_and_what_is_large_lie_on_the_disk_that_a_jail_is_given(
    tree: Tree, shelf: Shelf, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    tree.jail.spec = JailSpec(folder=str(tree.folder), disk=str(disk), scratch=())
    dump = tree.dump(shelf)
    assert [path.name for path in (disk / "images").iterdir()] == ["image"]
    await dump.close()
    assert not (tree.folder / "images").exists()
