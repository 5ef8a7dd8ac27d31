"""What a process image is made of, sealed with the key of its owner.

CRIU believes what it is given: whoever can change an image runs code as root. So nothing of an image is looked at
before its manifest's MAC was checked, and no file of it is complete before all its chunks had the digests that the
manifest names.
"""

from __future__ import annotations

import hashlib
import hmac
import platform
import re
import struct
import sys
from pathlib import Path

import msgspec

from ..errors import ManifestError, WorldMismatch
from ..store.base import Buffer
from ..store.blob import check_blob, chunk_digests
from ..store.defects import (
    BadText,
    Forged,
    Malformed,
    NameTwice,
    NoManifest,
    OtherCheckpoint,
    TooLarge,
    UnknownFormat,
    WrongLength,
)
from ..store.manifest import Blob
from ..store.manifests import MANIFEST_BYTES
from ..wire.unreadable import UNREADABLE
from .resumable import LinkState
from .sockets import Belongings

FORMAT = 1
KEY_BYTES = 16
FILES = 100_000
_ENVELOPE = struct.Struct("<8sIIQ")  # magic, version, reserved, bytes of the body
_MAGIC = b"GPUIMAG\n"
_MAC_BYTES = hashlib.sha256().digest_size
#: ``<round>/<file of CRIU>``, or a file of our own.
FILE_NAME = re.compile(r"([0-9]{1,3}/)?[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class ImageFile(msgspec.Struct, frozen=True, array_like=True):
    """One file of an image's folder."""

    name: str
    content: Blob


class ImageWorld(msgspec.Struct, frozen=True):
    """What a node must have alike."""

    machine: str
    #: Path and version of the interpreter that runs the kernel; CRIU compares what it has mapped.
    python: str
    version: str
    #: Of the processor, as Linux names them; programs may have chosen code by them.
    cpu_flags: frozenset[str]

    @classmethod
    def here(cls) -> ImageWorld:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text()
        except OSError:
            cpuinfo = ""
        return cls(platform.machine(), sys.executable, sys.version, read_cpu_flags(cpuinfo))


class DeviceNeed(msgspec.Struct, frozen=True):
    """A process that had device memory, which the driver put into the process's own memory."""

    inner_pid: int
    #: UUID of a device of the source, in hex -> bytes.
    needs: dict[str, int]


class ImageManifest(msgspec.Struct, frozen=True, kw_only=True):
    """One process image."""

    format: int = FORMAT
    id: str
    created_s: float
    session: str = ""
    epoch: int = 0
    #: The CRIU that made it, for reports.
    criu: str
    world: ImageWorld
    #: Rounds of memory, the last one with everything else; folders ``0`` to ``rounds - 1``.
    rounds: int
    files: tuple[ImageFile, ...]
    #: Pids that must be free in the jail.
    last_pid: int
    #: The kernel, as the jail numbers it.
    kernel_pid: int
    #: Paths inside that the jail must have as folders of the node, apart from its own.
    binds: tuple[str, ...]
    scratch: tuple[str, ...]
    cwd: str
    belongings: Belongings
    link: LinkState
    devices: tuple[DeviceNeed, ...] = ()
    #: UUIDs of all devices of the source, in hex.
    device_ids: tuple[str, ...] = ()

    @property
    def content_bytes(self) -> int:
        return sum(file.content.size for file in self.files)


_decoder = msgspec.msgpack.Decoder(ImageManifest)


def seal_image(manifest: ImageManifest, key: bytes) -> bytes:
    """The bytes of a manifest, which only who has the key can make."""
    body = msgspec.msgpack.encode(manifest)
    envelope = _ENVELOPE.pack(_MAGIC, manifest.format, 0, len(body))
    return envelope + _mac(key, envelope, body) + body


def validate_image(data: Buffer, key: bytes, *, expected_id: str = "") -> ImageManifest:
    """Give the manifest, or raise the ``ManifestError`` that says what is wrong with it."""
    body = _body(data)
    view = memoryview(data)
    mac = _mac(key, view[: _ENVELOPE.size], body)
    if not hmac.compare_digest(mac, view[_ENVELOPE.size : _ENVELOPE.size + _MAC_BYTES]):
        raise Forged("it was changed, or sealed with another key.", hint="Only its owner can use a process image.")
    manifest = _decode(body)
    names = [file.name for file in manifest.files]
    if len(names) > FILES:
        raise TooLarge(f"{len(names)} files are more than {FILES}.")
    if len(set(names)) != len(names):
        raise NameTwice("a file is there twice.")
    for file in manifest.files:
        if not FILE_NAME.fullmatch(file.name):
            raise BadText(f"{file.name[:80]!r} is no name of a file of an image.")
        check_blob(file.content, file.name)
    if expected_id and manifest.id != expected_id:
        raise OtherCheckpoint(f"it is the manifest of {manifest.id}, not of {expected_id}.")
    return manifest


def references(data: Buffer) -> list[bytes]:
    """Digests of all chunks that an image needs, for ``Store.collect``; unverified, so good for keeping only."""
    return [digest for file in _decode(_body(data)).files for digest in chunk_digests(file.content)]


def is_image(data: Buffer) -> bool:
    """Whether these are the bytes of a manifest of this kind."""
    return bytes(memoryview(data)[: len(_MAGIC)]) == _MAGIC


def check_world(needed: ImageWorld, here: ImageWorld) -> None:
    """Raise ``WorldMismatch`` that says what differs."""
    differs = []
    if needed.machine != here.machine:
        differs.append(f"it is of a {needed.machine}, this is a {here.machine}")
    if (needed.python, needed.version) != (here.python, here.version):
        differs.append(f"it runs {needed.python} ({needed.version}), here is {here.python} ({here.version})")
    lacking = sorted(needed.cpu_flags - here.cpu_flags)
    if lacking:
        differs.append(f"the processor lacks {', '.join(lacking[:8])}{' and more' if len(lacking) > 8 else ''}")
    if differs:
        raise WorldMismatch(f"the process image cannot be restored here: {'; '.join(differs)}.")


def read_cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Flags of the first processor in /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _body(data: Buffer) -> memoryview:
    view = memoryview(data)
    if len(view) > MANIFEST_BYTES:
        raise TooLarge(f"a manifest of {len(view)} bytes is larger than {MANIFEST_BYTES}.")
    if len(view) < _ENVELOPE.size + _MAC_BYTES:
        raise WrongLength(f"{len(view)} bytes are too few for a manifest.")
    magic, version, reserved, length = _ENVELOPE.unpack_from(view)
    if magic != _MAGIC:
        raise NoManifest("it does not begin like the manifest of a process image.")
    if version != FORMAT or reserved:
        raise UnknownFormat(f"it is of format {version}, this program reads format {FORMAT}.")
    body = view[_ENVELOPE.size + _MAC_BYTES :]
    if length != len(body):
        raise WrongLength(f"it announces {length} bytes and has {len(body)}.")
    return body


def _decode(body: Buffer) -> ImageManifest:
    try:
        return _decoder.decode(body)
    except UNREADABLE as error:
        raise Malformed(f"its body cannot be read: {error}.") from error


def _mac(key: bytes, envelope: Buffer, body: Buffer) -> bytes:
    if len(key) < KEY_BYTES:
        raise ValueError(f"the key for process images has {len(key)} bytes; it needs at least {KEY_BYTES}")
    mac = hmac.new(key, envelope, hashlib.sha256)
    mac.update(body)
    return mac.digest()


__all__ = ["ImageFile", "ImageManifest", "ImageWorld", "ManifestError", "check_world", "references", "seal_image"]
