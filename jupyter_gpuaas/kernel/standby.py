"""A kernel that is to take a session over: its variables come while they are still in use at another host.

``preload`` brings what a checkpoint needs into memory and imports the packages; it makes no object of the user's, and
may come again with newer checkpoints. ``load`` makes the variables, once.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import re
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import psutil

from ..errors import CheckpointError, MigrationError
from ..model import Loaded, Part, Peer
from ..state.ahead import Ahead, is_large
from ..state.cell_log import is_block
from ..state.hidden import Hidden, called, kinds
from ..state.restore import read_records, restore_names
from ..state.rules.registry import Restoring, find_rule
from ..state.world import check, relocated, world_of
from ..store.base import DIGEST_BYTES, Store
from ..store.blob import chunk_sizes
from ..store.chunkcache import SLAB_BYTES, ChunkCache
from ..store.manifest import GroupRecord, Manifest
from ..store.memory import MemoryStore
from ..store.peer import PeerStore
from ..store.seal import validate
from ..wire.priority import session_steps_back
from .checkpoints import Checkpoints

#: Memory that is left to everything else.
RESERVE_BYTES = 128 * 1024**2
#: Hidden state that packages may read when they are imported.
_BEFORE_IMPORTS = ("environment", "sys.path")


class Standby:
    """Brings one session here.

    Parameters
    ----------
    checkpoints
        Of this kernel, which has run nothing yet.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._peer: PeerStore | None = None
        self._cache = ChunkCache(MemoryStore(), most_bytes=0)
        #: Large memory, where it belongs; what is small is in the cache.
        self._ahead = Ahead(self._cache)
        self._prepared = False
        self._imported: set[str] = set()
        self._loaded: Loaded | None = None

    def request(self, content: dict[str, Any]) -> dict[str, Any]:
        """Carry out what came as a message.

        Raises
        ------
        GpuaasError
            It could not be done. After a failed load, this kernel is of no use.
        """
        op, checkpoint = content.get("op"), str(content["checkpoint"])
        peer = msgspec.convert(content.get("peer"), Peer | None)
        found: dict[str, Any]
        if self._loaded is not None:
            if op != "load" or checkpoint != self._loaded.checkpoint:
                raise MigrationError(f"the variables are those of checkpoint {self._loaded.checkpoint} already.")
            loaded = self._loaded
        elif op == "preload":
            session_steps_back(True)  # until it is here
            without = msgspec.convert(content.get("without") or [], tuple[Part, ...])
            loaded = self.preload(checkpoint, peer, int(content.get("most_bytes") or 0), without)
        elif op == "load":
            session_steps_back(False)
            loaded = self.load(checkpoint, peer)
        else:
            raise CheckpointError(f"op: {op!r} is unknown.")
        found = msgspec.to_builtins(loaded)
        return found

    def preload(self, checkpoint: str, peer: Peer | None, most_bytes: int = 0, without: Sequence[Part] = ()) -> Loaded:
        """Bring what a checkpoint needs and is not here, as far as there is memory for it, or it is allowed.

        Parameters
        ----------
        without
            Only memory is taken for these, as something else is to come there.
        """
        with self._counted(checkpoint, peer) as done:
            manifest, records = self._look_up(checkpoint)
            done.append(sum(map(_size, records)))
            self._bring(manifest, records, most_bytes, without)
        return self._told(done)

    def load(self, checkpoint: str, peer: Peer | None) -> Loaded:
        """Make the variables."""
        with self._counted(checkpoint, peer) as done:
            manifest, records = self._look_up(checkpoint)
            done.append(sum(map(_size, records)))
            self._bring(manifest, records)
            self._cache.give_up(_uses(records))
            report = self._checkpoints.take_over(checkpoint, self._ahead)
        self._loaded = msgspec.structs.replace(self._told(done), lost=report.lost)
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        self._ahead.clear()
        self._cache.clear()
        return self._loaded

    # -- inside ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _counted(self, checkpoint: str, peer: Peer | None) -> Iterator[list[Any]]:
        """Measures what the block brings; what it appends is the size of the state."""
        began = time.monotonic()
        self._open(peer)
        before = self._sent()
        done: list[Any] = [checkpoint]
        yield done
        done += [self._sent() - before, time.monotonic() - began]

    @staticmethod
    def _told(done: list[Any]) -> Loaded:
        checkpoint, state_bytes, sent_bytes, took_s = done
        return Loaded(checkpoint=checkpoint, sent_bytes=sent_bytes, took_s=took_s, state_bytes=state_bytes)

    def _open(self, peer: Peer | None) -> None:
        """Read from this peer, or where there is none, from the store of the session."""
        far: Store
        if peer is None:
            far = self._checkpoints.checkpointer.store
        elif self._peer is not None and self._peer.peer == peer:
            far = self._peer
        else:
            if self._peer is not None:
                self._peer.close()
            far = self._peer = PeerStore(peer, came=self._cache.came)
        self._cache.far = far

    def _sent(self) -> int:
        far = self._cache.far
        return far.sent_bytes if isinstance(far, PeerStore) else self._cache.brought_bytes

    def _look_up(self, checkpoint: str) -> tuple[Manifest, list[GroupRecord]]:
        """What a checkpoint is made of. Chunks that it does not need go."""
        cache = self._cache
        manifest = validate(cache.manifest(checkpoint), self._checkpoints.key, expected_id=checkpoint)
        if manifest.session != self._checkpoints.session:
            raise CheckpointError(f"checkpoint {checkpoint} is of another session.")
        check(manifest.world)
        # Records are small and needed first, so they come before the memory is measured.
        cache.most_bytes = max(cache.most_bytes, cache.held_bytes + SLAB_BYTES)
        cache.keep(chunk for entry in manifest.groups for chunk in chunk_sizes(entry.record))
        records = read_records(manifest, cache)
        cache.keep_only(_small(manifest, records).keys())
        return manifest, records

    def _bring(
        self,
        manifest: Manifest,
        records: list[GroupRecord],
        most_bytes: int = 0,
        without: Sequence[Part] = (),
    ) -> None:
        """Bring what is lacking: what is small as chunks, large regions to where they stay."""
        small = _small(manifest, records)
        sizes = [sum(size for _, size in _chunks(record)) for record in records]
        free_bytes = _free_bytes() + self._cache.held_bytes + self._ahead.held_bytes
        if most_bytes:
            free_bytes = min(free_bytes, most_bytes + RESERVE_BYTES)
        large_bytes = sum(region.content.size for record in records for region in record.regions if is_large(region))
        large_bytes = min(large_bytes, max(0, free_bytes - RESERVE_BYTES))
        self._cache.most_bytes = room(sum(sizes), max(sizes, default=0), free_bytes - large_bytes)
        self._cache.keep(small.items())
        self._prepare(manifest, records)
        names = {entry.record.digests[:DIGEST_BYTES].hex(): entry.names for entry in manifest.groups}
        left = {(names[part.record], part.region) for part in without if part.record in names}
        self._ahead.prepare(records, large_bytes, left)

    def _prepare(self, manifest: Manifest, records: list[GroupRecord]) -> None:
        """Do ahead what a restore would spend its time with. What fails here fails later, or does no harm."""
        modules = _modules(manifest.world.packages.keys() - self._imported)
        self._imported |= manifest.world.packages.keys()
        if self._prepared and not modules:
            return
        self._prepared = True
        shell = self._checkpoints.shell
        world = Hidden(namespace=shell.user_ns, shell=shell, full=True, here=relocated(manifest.world))
        for kind in kinds():
            name = called(kind.kind)
            mine = [record for record in records if record.names == (name,)]
            if kind.kind in _BEFORE_IMPORTS and mine:
                found: dict[str, Any] = {}
                with contextlib.suppress(Exception):
                    restore_names(manifest, self._cache, Restoring({}), records=mine, bind=found.__setitem__)
                    kind.restore(found[name], world)
        for module in modules:
            with contextlib.suppress(Exception, SystemExit):
                importlib.import_module(module)
        for kind in kinds():  # what the packages brought is looked at here, and not while the session stands still
            kind.prepare(world)
        find_rule(object)
        world_of(sys.modules.keys() & {name.partition(".")[0] for name in _modules(manifest.world.packages)})


def room(state_bytes: int, largest_bytes: int, free_bytes: int) -> int:
    """How much of a state may be kept as chunks until its objects are made of them.

    Chunks go as the groups of a state are made, the memory of a group being there before its chunks go. So all may be
    kept if there is room for the state and its largest group. Else no more than what is left beside the whole state,
    as groups whose chunks are not here may be made first.
    """
    free_bytes -= RESERVE_BYTES
    if state_bytes + largest_bytes <= free_bytes:
        # Not all of a piece of memory need be used.
        return min(state_bytes + state_bytes // 8 + 4 * SLAB_BYTES, free_bytes - largest_bytes)
    return max(0, free_bytes - state_bytes)


def _free_bytes() -> int:
    """Memory that this process may still take."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if limit == resource.RLIM_INFINITY or not sys.platform.startswith("linux"):
        return int(psutil.virtual_memory().available)
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        used = next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:")), 0)
    return max(0, min(limit - used, int(psutil.virtual_memory().available)))


def _size(record: GroupRecord) -> int:
    return record.stream.size + sum(region.content.size for region in record.regions)


def _chunks(record: GroupRecord) -> Iterator[tuple[bytes, int]]:
    """Chunks of a group, and their sizes, without those of large regions."""
    yield from chunk_sizes(record.stream)
    for region in record.regions:
        if not is_large(region):
            yield from chunk_sizes(region.content)


def _small(manifest: Manifest, records: list[GroupRecord]) -> dict[bytes, int]:
    """What is kept as chunks: records, streams and small regions, with their sizes."""
    found: dict[bytes, int] = {}
    for entry in manifest.groups:
        found.update(chunk_sizes(entry.record))
    for record in sorted(records, key=_size, reverse=True):
        found.update(_chunks(record))
    return found


def _uses(records: list[GroupRecord]) -> dict[bytes, int]:
    """How often a restore fetches each chunk at most. Blocks of cells are read once more, and are small."""
    found: dict[bytes, int] = {}
    for record in records:
        if not any(is_block(name) for name in record.names):
            for digest in {digest for digest, _ in _chunks(record)}:
                found[digest] = found.get(digest, 0) + 1
    return found


def _modules(packages: Iterable[str]) -> list[str]:
    """The module of each package that is worth importing ahead: the one of its name, or the only one it has."""
    found = []
    for package in packages:
        try:
            distribution = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        listed = (distribution.read_text("top_level.txt") or "").split()
        if not listed:
            paths = [line.partition(",")[0] for line in (distribution.read_text("RECORD") or "").splitlines()]
            listed = sorted({path.partition("/")[0] for path in paths if path.partition("/")[2] == "__init__.py"})
        same = [module for module in listed if _plain(module) == _plain(package)]
        if same or len(listed) == 1:
            found.append((same or listed)[0])
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
