"""Manifests and group records as bytes: sealed, checked, and refused for every reason to refuse them.

Restoring unpickles, and unpickling runs code. So a manifest carries a MAC with its owner's key, which is checked
before anything of its body is read; and all that it names is bound to it by digests.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import struct
from collections.abc import Iterable

import msgspec

from ..wire.unreadable import UNREADABLE
from .base import Buffer
from .blob import RECORD_BYTES, check_blob
from .defects import (
    BadNumber,
    BadText,
    Forged,
    Malformed,
    NameTwice,
    NoManifest,
    NoVerdict,
    OtherCheckpoint,
    SpanOutside,
    TooLarge,
    UnknownFormat,
    UnknownMaker,
    UnknownOutcome,
    WrongLength,
)
from .manifest import FORMAT, GroupEntry, GroupRecord, Manifest, Region
from .manifests import MANIFEST_BYTES

_ENVELOPE = struct.Struct("<8sIIQ")  # magic, version, reserved, bytes of the body
_MAGIC = b"GPUMNFT\n"
_MAC_BYTES = hashlib.sha256().digest_size
ENVELOPE_BYTES = _ENVELOPE.size + _MAC_BYTES

KEY_BYTES = 16  # at least
OUTCOMES = ("stored", "rebuilt", "replayed", "lost")
NAMES = 1_000_000
NAME_CHARS = 4096
NOTE_CHARS = 65_536
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DEVICE = re.compile(r"[a-z]{1,16}(:[0-9]{1,4})?")
_DIMENSIONS = 64
#: As numpy's ``dtype.str`` has it: byte order, kind, bytes (of ``U``: characters), unit of time.
_DTYPE = re.compile(r"[<>|=]([biufcmMSUV])([0-9]{1,12})(?:\[[^\]]{1,16}\])?")

_manifest = msgspec.msgpack.Decoder(Manifest)
_record = msgspec.msgpack.Decoder(GroupRecord)


def seal(manifest: Manifest, key: bytes) -> bytes:
    """The bytes of a manifest, which only who has the key can make."""
    body = msgspec.msgpack.encode(manifest)
    envelope = _ENVELOPE.pack(_MAGIC, manifest.format, 0, len(body))
    return envelope + _mac(key, envelope, body) + body


def validate(data: Buffer, key: bytes, *, expected_id: str = "") -> Manifest:
    """Give the manifest, or raise the ``ManifestError`` that says what is wrong with it.

    Parameters
    ----------
    expected_id
        The id that it was asked for by; empty when any will do.
    """
    view = memoryview(data)
    if len(view) > MANIFEST_BYTES:
        raise TooLarge(f"a manifest of {len(view)} bytes is larger than {MANIFEST_BYTES}.")
    if len(view) < ENVELOPE_BYTES:
        raise WrongLength(f"{len(view)} bytes are too few for a manifest.")
    magic, version, reserved, length = _ENVELOPE.unpack_from(view)
    if magic != _MAGIC:
        raise NoManifest("it does not begin like a manifest.")
    if version != FORMAT or reserved:
        raise UnknownFormat(f"it is of format {version}, this program reads format {FORMAT}.")
    body = view[ENVELOPE_BYTES:]
    if length != len(body):
        raise WrongLength(f"it announces {length} bytes and has {len(body)}.")
    mac = _mac(key, view[: _ENVELOPE.size], body)
    if not hmac.compare_digest(mac, view[_ENVELOPE.size : ENVELOPE_BYTES]):
        raise Forged("it was changed, or sealed with another key.", hint="Only its owner can use a checkpoint.")
    try:
        manifest = _manifest.decode(body)
    except UNREADABLE as error:
        raise Malformed(f"its body cannot be read: {error}.") from error
    _check_manifest(manifest)
    if expected_id and manifest.id != expected_id:
        raise OtherCheckpoint(f"it is the manifest of {manifest.id}, not of {expected_id}.")
    return manifest


def seal_record(record: GroupRecord) -> bytes:
    """The bytes of a group's record. They need no MAC: a manifest names them by their digest."""
    return msgspec.msgpack.encode(record)


def validate_record(data: Buffer) -> GroupRecord:
    """Give the record, or raise the ``ManifestError`` that says what is wrong with it."""
    if len(data) > RECORD_BYTES:
        raise TooLarge(f"a group record of {len(data)} bytes is larger than {RECORD_BYTES}.")
    try:
        record = _record.decode(data)
    except UNREADABLE as error:
        raise Malformed(f"the group record cannot be read: {error}.") from error
    _check_names(record.names, set())
    _check_names(record.references, set(record.names))
    check_blob(record.stream, "stream")
    for region in record.regions:
        _check_region(region)
    for span in record.spans:
        if not 0 <= span.region < len(record.regions):
            raise SpanOutside(f"there is no region {span.region}.")
        size = record.regions[span.region].content.size
        if span.offset < 0 or span.length < 0 or span.offset + span.length > size:
            raise SpanOutside(f"{span.length} bytes at {span.offset} are not in a region of {size} bytes.")
    return record


def _mac(key: bytes, envelope: Buffer, body: Buffer) -> bytes:
    if len(key) < KEY_BYTES:
        raise ValueError(f"the key for checkpoints has {len(key)} bytes; it needs at least {KEY_BYTES}")
    mac = hmac.new(key, envelope, hashlib.sha256)
    mac.update(body)
    return mac.digest()


def _check_manifest(manifest: Manifest) -> None:
    if manifest.format != FORMAT:
        raise UnknownFormat(f"its body is of format {manifest.format}.")
    for text, optional in ((manifest.id, False), (manifest.parent, True)):
        if not (_ID.fullmatch(text) or (optional and not text)):
            raise BadText(f"{text[:80]!r} is no id of a checkpoint.")
    for text in (
        manifest.owner,
        manifest.session,
        manifest.label,
        manifest.world.python,
        manifest.world.platform,
        manifest.world.work,
    ):
        _check_text(text)
    if manifest.epoch < 0 or manifest.cell < 0 or not math.isfinite(manifest.created_s):
        raise BadNumber("epoch, cell and time of creation must be numbers from 0.")
    if len(manifest.names) > NAMES:
        raise TooLarge(f"{len(manifest.names)} names are more than {NAMES}.")
    for name, verdict in manifest.names.items():
        _check_text(name, empty=False)
        _check_text(verdict.note, most=NOTE_CHARS)
        if verdict.outcome not in OUTCOMES:
            raise UnknownOutcome(f"{name} is said to be {verdict.outcome[:80]!r}.")
    without = _check_groups(manifest.groups) - manifest.names.keys()
    if without:
        raise NoVerdict(f"it does not say what became of {min(without)}.")
    _check_groups(manifest.hidden)


def _check_groups(groups: Iterable[GroupEntry]) -> set[str]:
    """Gives all names."""
    names: set[str] = set()
    for entry in groups:
        if not entry.names:
            raise BadText("a group has no name.")
        _check_names(entry.names, names)
        names.update(entry.names)
        check_blob(entry.record, f"record of {entry.names[0]}", most=RECORD_BYTES)
    return names


def _check_names(names: tuple[str, ...], taken: set[str]) -> None:
    for name in names:
        _check_text(name, empty=False)
    if len(set(names)) != len(names) or not taken.isdisjoint(names):
        raise NameTwice(f"a name of {', '.join(names[:5])} is there twice.")


def _check_text(text: str, *, most: int = NAME_CHARS, empty: bool = True) -> None:
    if len(text) > most or not (text or empty):
        raise BadText(f"{text[:80]!r} has {len(text)} characters.")


def _check_region(region: Region) -> None:
    check_blob(region.content, "region")
    if not _DEVICE.fullmatch(region.device):
        raise BadText(f"{region.device[:80]!r} is no device.")
    kind, *arguments = region.maker or ("",)
    if kind in ("bytes", "device") and not arguments:
        return
    if kind == "storage" and arguments == [region.content.size]:
        return
    if kind == "ndarray" and len(arguments) == 3:
        dtype, shape, order = arguments
        if isinstance(dtype, str) and isinstance(shape, tuple) and order in ("C", "F"):
            if 0 <= _array_bytes(dtype, shape) <= region.content.size:
                return
    raise UnknownMaker(f"a region is to be made by {str(region.maker)[:200]}.")


def _array_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """What an array takes, so that nothing larger than its content is allocated; -1 when it cannot be."""
    item = _DTYPE.fullmatch(dtype)
    if item is None or len(shape) > _DIMENSIONS or any(extent < 0 for extent in shape):
        return -1
    return math.prod(shape) * int(item[2]) * (4 if item[1] == "U" else 1)
