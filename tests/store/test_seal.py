"""A manifest and a group record as bytes: one test for each reason to refuse them."""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Any

import msgspec
import pytest

from jupyter_gpuaas.errors import ManifestError
from jupyter_gpuaas.store import (
    CHUNK_BYTES,
    MemoryStore,
    blob,
    defects,
    read_blob,
    seal,
    seal_record,
    validate,
    validate_record,
)
from jupyter_gpuaas.store.manifest import Blob, GroupEntry, GroupRecord, Manifest, Region, Span, Verdict, World
from jupyter_gpuaas.store.manifests import MANIFEST_BYTES

KEY = b"k" * 32
ENVELOPE = struct.Struct("<8sIIQ")

RECORD = GroupRecord(
    names=("a", "b"),
    stream=blob(b"stream")[0],
    regions=(
        Region(blob(bytes(80))[0], "cpu", ("ndarray", "<f8", (2, 5), "C")),
        Region(blob(bytes(8))[0], "cuda:0", ("device",)),
    ),
    spans=(Span(0, 0, 80, False), Span(0, 16, 64, True), Span(1, 8, 0, False)),
    references=("C",),
)
MANIFEST = Manifest(
    id="one",
    parent="zero",
    created_s=12.5,
    world=World(python="cpython-3.11", platform="linux", packages={"numpy": "2.0"}),
    groups=(GroupEntry(("a", "b"), blob(seal_record(RECORD))[0]), GroupEntry(("c",), blob(b"x")[0])),
    hidden=(GroupEntry(("random",), blob(b"y")[0]),),
    names={"a": Verdict("stored"), "b": Verdict("rebuilt", "how"), "c": Verdict("stored"), "d": Verdict("lost", "why")},
)


def other(**changes: Any) -> bytes:
    return seal(msgspec.structs.replace(MANIFEST, **changes), KEY)


def sealed(body: bytes, *, magic: bytes = b"GPUMNFT\n", version: int = 1, reserved: int = 0, length: int = -1) -> bytes:
    """An envelope around any body, with a MAC that holds."""
    envelope = ENVELOPE.pack(magic, version, reserved, len(body) if length < 0 else length)
    return envelope + hmac.new(KEY, envelope + body, hashlib.sha256).digest() + body


def record(**changes: Any) -> bytes:
    return seal_record(msgspec.structs.replace(RECORD, **changes))


def test_what_was_sealed_is_valid() -> None:
    assert validate(seal(MANIFEST, KEY), KEY) == MANIFEST
    assert validate(bytearray(seal(MANIFEST, KEY)), KEY, expected_id="one") == MANIFEST
    assert validate_record(seal_record(RECORD)) == RECORD
    for dtype, count in (("<f8", 10), ("|b1", 80), ("<M8[ns]", 10), ("<U5", 4), ("|V16", 5), ("|S0", 7)):
        validate_record(record(regions=region("ndarray", dtype, (count,), "F")))


REFUSED = [
    (defects.WrongLength, lambda: b""),
    (defects.WrongLength, lambda: seal(MANIFEST, KEY)[:-1]),
    (defects.WrongLength, lambda: seal(MANIFEST, KEY) + b"\0"),
    (defects.WrongLength, lambda: sealed(b"abc", length=2**60)),
    (defects.TooLarge, lambda: bytes(MANIFEST_BYTES + 1)),
    (defects.NoManifest, lambda: sealed(b"abc", magic=b"SOMETHIN")),
    (defects.UnknownFormat, lambda: sealed(b"abc", version=2)),
    (defects.UnknownFormat, lambda: sealed(b"abc", reserved=1)),
    (defects.UnknownFormat, lambda: sealed(msgspec.msgpack.encode(msgspec.structs.replace(MANIFEST, format=2)))),
    (defects.Forged, lambda: seal(MANIFEST, b"another key 12345")),
    (defects.Malformed, lambda: sealed(b"\xc1")),
    (defects.Malformed, lambda: sealed(msgspec.msgpack.encode(MANIFEST) + b"\0")),
    (defects.Malformed, lambda: sealed(msgspec.msgpack.encode({"id": "one"}))),
    (defects.Malformed, lambda: sealed(b"\x91" * 100_000)),
    (defects.Malformed, lambda: sealed(b"\xdd\xff\xff\xff\xff")),
    (defects.OtherCheckpoint, lambda: other(id="two")),
    (defects.BadText, lambda: other(id="../etc")),
    (defects.BadText, lambda: other(parent="a" * 65)),
    (defects.BadText, lambda: other(label="x" * 10_000)),
    (defects.BadText, lambda: other(groups=(GroupEntry((), blob(b"x")[0]),))),
    (defects.BadText, lambda: other(names={**MANIFEST.names, "": Verdict("lost")})),
    (defects.BadNumber, lambda: other(epoch=-1)),
    (defects.BadNumber, lambda: other(created_s=float("nan"))),
    (defects.BadBlob, lambda: other(groups=(GroupEntry(("a",), Blob(5, b"")),))),
    (defects.BadBlob, lambda: other(groups=(GroupEntry(("a",), Blob(CHUNK_BYTES + 1, bytes(32))),))),
    (defects.BadBlob, lambda: other(groups=(GroupEntry(("a",), Blob(-1, b"")),))),
    (defects.BadBlob, lambda: other(hidden=(GroupEntry(("a",), Blob(2**60, bytes(32))),))),
    (defects.TooLarge, lambda: other(groups=(GroupEntry(("a",), Blob(65 * CHUNK_BYTES, bytes(65 * 32))),))),
    (defects.NameTwice, lambda: other(groups=(*MANIFEST.groups, GroupEntry(("a",), blob(b"z")[0])))),
    (defects.NameTwice, lambda: other(groups=(GroupEntry(("a", "a"), blob(b"z")[0]),))),
    (defects.NoVerdict, lambda: other(names={})),
    (defects.UnknownOutcome, lambda: other(names={**MANIFEST.names, "d": Verdict("fine")})),
]


@pytest.mark.parametrize(("defect", "make"), REFUSED)
def test_manifest_is_refused(defect: type[ManifestError], make: Any) -> None:
    with pytest.raises(ManifestError) as caught:
        validate(make(), KEY, expected_id="one")
    assert type(caught.value) is defect


def region(*maker: Any, device: str = "cpu", content: Blob | None = None) -> tuple[Region, ...]:
    return (Region(content or blob(bytes(80))[0], device, maker), RECORD.regions[1])


REFUSED_RECORDS = [
    (defects.TooLarge, lambda: bytes(64 * CHUNK_BYTES + 1)),
    (defects.Malformed, lambda: b""),
    (defects.Malformed, lambda: seal_record(RECORD)[:-1]),
    (defects.NameTwice, lambda: record(names=("a", "a"))),
    (defects.NameTwice, lambda: record(references=("a",))),
    (defects.BadText, lambda: record(names=("x" * 5000,))),
    (defects.BadBlob, lambda: record(stream=Blob(2**60, bytes(32)))),
    (defects.BadBlob, lambda: record(regions=region("bytes", content=Blob(2**60, b"")))),
    (defects.BadText, lambda: record(regions=region("bytes", device="../cpu"))),
    (defects.UnknownMaker, lambda: record(regions=region())),
    (defects.UnknownMaker, lambda: record(regions=region("eval", "1"))),
    (defects.UnknownMaker, lambda: record(regions=region("storage", 2**60))),
    (defects.UnknownMaker, lambda: record(regions=region("ndarray", "<f8", (-1,), "C"))),
    (defects.UnknownMaker, lambda: record(regions=region("ndarray", "<f8", (2**63,), "C"))),
    (defects.UnknownMaker, lambda: record(regions=region("ndarray", "|V9999999", (10,), "C"))),
    (defects.UnknownMaker, lambda: record(regions=region("ndarray", "|O8", (10,), "C"))),
    (defects.UnknownMaker, lambda: record(regions=region("ndarray", "<f8", (11,), "C"))),
    (defects.SpanOutside, lambda: record(spans=(Span(2, 0, 1, False),))),
    (defects.SpanOutside, lambda: record(spans=(Span(-1, 0, 1, False),))),
    (defects.SpanOutside, lambda: record(spans=(Span(0, 79, 2, False),))),
    (defects.SpanOutside, lambda: record(spans=(Span(0, -1, 2, False),))),
    (defects.SpanOutside, lambda: record(spans=(Span(0, 2**60, 2**60, False),))),
]


@pytest.mark.parametrize(("defect", "make"), REFUSED_RECORDS)
def test_record_is_refused(defect: type[ManifestError], make: Any) -> None:
    with pytest.raises(ManifestError) as caught:
        validate_record(make())
    assert type(caught.value) is defect


def test_every_defect_has_a_test() -> None:
    tested = {defect for defect, _ in REFUSED + REFUSED_RECORDS}
    assert {kind for kind in vars(defects).values() if isinstance(kind, type)} - {ManifestError} == tested


def test_short_key_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        seal(MANIFEST, b"short")


def test_read_blob_checks_before_it_takes_memory() -> None:
    store = MemoryStore()
    content, chunks = blob(b"abc" * CHUNK_BYTES)
    store.put(chunks)
    assert read_blob(store, content) == b"abc" * CHUNK_BYTES
    with pytest.raises(defects.BadBlob):
        read_blob(store, Blob(2**60, bytes(32)))
    with pytest.raises(defects.TooLarge):
        read_blob(store, content, most=100)
