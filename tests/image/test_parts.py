"""What is decided without processes: judging CRIU, naming sockets, manifests, packing."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import msgspec
import pytest

from jupyter_gpuaas.errors import ChunkMissing, ImageUnavailable, ManifestError, NotRestorableHere, WorldMismatch
from jupyter_gpuaas.image import criu as criu_module
from jupyter_gpuaas.image.criu import Criu, candidates, dump_arguments, explain, find_criu, restore_arguments
from jupyter_gpuaas.image.jail import HOME, Bind, JailSpec, check_visible
from jupyter_gpuaas.image.manifest import (
    ImageFile,
    ImageManifest,
    ImageWorld,
    check_world,
    is_image,
    read_cpu_flags,
    references,
    seal_image,
    validate_image,
)
from jupyter_gpuaas.image.pack import Packer, StoredImage, pack_scratch, unpack, unpack_scratch
from jupyter_gpuaas.image.restore import check_spec
from jupyter_gpuaas.image.resumable import LinkState
from jupyter_gpuaas.image.sockets import Belongings, InetSocket, read_table, sort_out
from jupyter_gpuaas.store import CHUNK_BYTES, MemoryStore
from jupyter_gpuaas.store.defects import (
    BadBlob,
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
from jupyter_gpuaas.store.manifest import Blob
from jupyter_gpuaas.store.manifests import MANIFEST_BYTES

KEY = b"k" * 32
CRIU = Criu(path="/criu", version="", dirty_tracking=True, lazy_pages=False)

# -- CRIU ------------------------------------------------------------------------------------------------------


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu_module, "jail_reasons", list)


def test_criu_that_is_named_is_the_only_candidate(tmp_path: Path) -> None:
    named = program(tmp_path / "criu", "exit 0")
    assert candidates({"GPUAAS_CRIU": str(named), "PATH": "/usr/bin"}) == [str(named)]
    assert str(named) in candidates({"PATH": str(tmp_path)})


@pytest.mark.usefixtures("able")
def test_criu_that_fails_its_check_is_refused_with_what_it_said(tmp_path: Path) -> None:
    named = program(
        tmp_path / "criu", 'echo "(00.1) Error (criu/vdso.c:1): vdso: Unexpected rt vDSO area bounds"; exit 1'
    )
    with pytest.raises(ImageUnavailable, match="Unexpected rt vDSO area bounds"):
        find_criu({"GPUAAS_CRIU": str(named)})


@pytest.mark.usefixtures("able")
def test_criu_that_passes_its_check_and_dumps_no_socket_is_refused(tmp_path: Path) -> None:
    said = '[ "$1" = check ] || { echo "Error (x.c:1): Cannot get 1:16 opt"; exit 1; }'
    with pytest.raises(ImageUnavailable, match="1:16 opt"):
        find_criu({"GPUAAS_CRIU": str(program(tmp_path / "criu", said))})


@pytest.mark.usefixtures("able")
def test_criu_abilities_are_what_its_check_says_of_each(tmp_path: Path) -> None:
    said = 'case "$*" in *mem_dirty_track*) exit 1;; --version) echo "Version: 9.9";; esac; exit 0'
    named = program(tmp_path / "criu", said)
    assert find_criu({"GPUAAS_CRIU": str(named)}) == Criu(
        path=str(named), version="9.9", dirty_tracking=False, lazy_pages=True
    )


@pytest.mark.usefixtures("able")
def test_criu_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ImageUnavailable, match="nowhere"):
        find_criu({"GPUAAS_CRIU": str(tmp_path / "nowhere")})


def test_criu_needs_what_jails_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu_module, "jail_reasons", lambda: ["process images need root, and this is another user"])
    with pytest.raises(ImageUnavailable, match="need root"):
        find_criu({})


def test_criu_log_is_told_in_words_and_its_harmless_errors_are_not() -> None:
    harmless = "(00.03) Error (criu/util.c:1): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n"
    assert explain("(00.03) Warn  (criu/x.c:1): whatever\n" + harmless) == ""
    log = harmless + "(00.09) Error (criu/sk-unix.c:8): unix: Can't dump half of stream unix connection.\n"
    assert explain(log).startswith("a process is connected to one outside of its session by a unix socket (unix: Can't")
    assert explain("Error (criu/new.c:1): something new\nError (criu/y.c:2): Dumping FAILED.") == "something new"


def test_criu_rounds_name_the_round_before_and_only_the_last_one_is_a_dump() -> None:
    first = dump_arguments(CRIU, root_pid=2, folder="/i/0", track=True, pre=True)
    second = dump_arguments(CRIU, root_pid=2, folder="/i/1", parent="../0", track=True, pre=True)
    last = dump_arguments(CRIU, root_pid=2, folder="/i/2", parent="../1")
    assert first[1] == second[1] == "pre-dump" and last[1] == "dump"
    assert all("--track-mem" in command for command in (first, second, last))
    assert "--prev-images-dir" not in first
    assert second[second.index("--prev-images-dir") + 1] == "../0"
    assert last[last.index("--prev-images-dir") + 1] == "../1"
    assert "--leave-stopped" in last and "--leave-stopped" not in second
    assert "--track-mem" not in dump_arguments(CRIU, root_pid=2, folder="/i/0")
    # A connection that is to be closed must be so on both sides.
    assert "--tcp-close" in last and "--tcp-close" in restore_arguments(CRIU, folder="/i/2")


# -- what is open ----------------------------------------------------------------------------------------------

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0 0 10 0
   1: 0100007F:9C40 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 20 4 30 10 -1
   2: 0100007F:9C41 0100007F:1F90 07 00000000:00000000 00:00000000 00000000     0        0 333 1 0 20 4 30 10 -1
"""
UDP_TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
   7: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 555 2 0000000000000000 0
"""
TABLE6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr
   0: 00000000000000000000000001000000:0050 00000000000000000000000001000000:0051 08 0:0 00:0 0 0 0 444 1
"""


def test_sockets_are_named_by_process_and_address() -> None:
    table = read_table("TCP", TABLE) | read_table("TCP", TABLE6) | read_table("UDP", UDP_TABLE)
    links = [(3, f"socket:[{inode}]") for inode in (111, 222, 333, 444, 555, 999)]
    found = sort_out([*links, (3, "socket:[222]")], table)
    assert [one.words for one in found.listening] == [
        "process 3 has port 127.0.0.1:8080 (TCP)",
        "process 3 has port 0.0.0.0:53 (UDP)",
    ]
    assert [one.words for one in found.connections] == [
        "process 3: 127.0.0.1:40000 to 127.0.0.1:8080 (TCP, ESTABLISHED)",
        "process 3: [::1]:80 to [::1]:81 (TCP, CLOSE_WAIT)",
    ]


def test_open_files_are_those_that_the_target_must_have() -> None:
    paths = [
        "/work/a",
        "/dev/null",
        "/tmp/gone (deleted)",
        "pipe:[1]",
        "/proc/1/stat",
        "/work/a",
        "anon_inode:[eventpoll]",
    ]
    assert sort_out([(3, path) for path in paths], {}).files == ("/work/a",)


# -- manifests -------------------------------------------------------------------------------------------------

WORLD = ImageWorld("x86_64", "/venv/bin/python", "3.11.7", frozenset({"avx2", "sse4_2"}))


def manifest(**changes: object) -> ImageManifest:
    made = ImageManifest(
        id="image-1",
        created_s=1.0,
        criu="4.2",
        world=WORLD,
        rounds=1,
        files=(ImageFile("0/pages-1.img", Blob(3, b"d" * 32)), ImageFile("scratch0.tar", Blob(0, b""))),
        last_pid=77,
        kernel_pid=5,
        binds=(f"{HOME}/work",),
        scratch=("/tmp", "/dev/shm"),
        cwd=f"{HOME}/work",
        belongings=Belongings(connections=(InetSocket(5, "TCP", "a:1", "b:2", "ESTABLISHED"),)),
        link=LinkState(3, 4, b"waits"),
    )
    return msgspec.structs.replace(made, **changes)


def test_manifest_comes_back_as_it_was_sealed() -> None:
    sealed = seal_image(manifest(), KEY)
    assert validate_image(sealed, KEY, expected_id="image-1") == manifest()
    assert references(sealed) == [b"d" * 32]
    assert is_image(sealed) and not is_image(b"GPUMNFT\n" + sealed[8:]) and not is_image(b"")


SEALED = seal_image(manifest(), KEY)


@pytest.mark.parametrize(
    ("data", "defect"),
    [
        (b"", WrongLength),
        (SEALED[:-1], WrongLength),
        (SEALED + b"x", WrongLength),
        (b"GPUMNFT\n" + SEALED[8:], NoManifest),
        (SEALED[:8] + b"\x02" + SEALED[9:], UnknownFormat),
        (SEALED[:12] + b"\x01" + SEALED[13:], UnknownFormat),
        (SEALED[:30] + bytes([SEALED[30] ^ 1]) + SEALED[31:], Forged),
        (SEALED[:-1] + bytes([SEALED[-1] ^ 1]), Forged),
        (seal_image(manifest(), b"x" * 32), Forged),
        (seal_image(manifest(id="other"), KEY), OtherCheckpoint),
        (seal_image(manifest(files=(ImageFile("../0", Blob(0, b"")),)), KEY), BadText),
        (seal_image(manifest(files=(ImageFile("0/../../x", Blob(0, b"")),)), KEY), BadText),
        (seal_image(manifest(files=(ImageFile("/etc/passwd", Blob(0, b"")),)), KEY), BadText),
        (seal_image(manifest(files=(ImageFile(".x", Blob(0, b"")),)), KEY), BadText),
        (seal_image(manifest(files=(ImageFile("x", Blob(0, b"")),) * 2), KEY), NameTwice),
        (seal_image(manifest(files=(ImageFile("x", Blob(9, b"")),)), KEY), BadBlob),
        (b"\0" * (MANIFEST_BYTES + 1), TooLarge),
    ],
)
def test_manifest_defects_are_refused_each_by_name(data: bytes, defect: type[ManifestError]) -> None:
    with pytest.raises(defect):
        validate_image(data, KEY, expected_id="image-1")


def test_manifest_with_a_body_of_another_kind_is_refused() -> None:
    body = msgspec.msgpack.encode({"id": 3})
    envelope = SEALED[:16] + len(body).to_bytes(8, "little")
    import hashlib
    import hmac

    mac = hmac.new(KEY, envelope + body, hashlib.sha256).digest()
    with pytest.raises(Malformed):
        validate_image(envelope + mac + body, KEY)


def test_key_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="16"):
        seal_image(manifest(), b"short")


def test_world_that_differs_is_told() -> None:
    check_world(WORLD, msgspec.structs.replace(WORLD, cpu_flags=WORLD.cpu_flags | {"more"}))
    for change, words in (
        ({"machine": "aarch64"}, "aarch64"),
        ({"python": "/other/python"}, "/other/python"),
        ({"version": "3.12.0"}, "3.12.0"),
        ({"cpu_flags": frozenset({"sse4_2"})}, "lacks avx2"),
    ):
        with pytest.raises(WorldMismatch, match=words):
            check_world(WORLD, msgspec.structs.replace(WORLD, **change))
    assert read_cpu_flags("processor : 0\nflags\t\t: fpu sse4_2\n\nprocessor : 1\nflags : x\n") == {"fpu", "sse4_2"}
    assert read_cpu_flags("") == frozenset()


def test_jail_that_lacks_a_folder_of_the_image_is_refused(tmp_path: Path) -> None:
    whole = JailSpec(folder=str(tmp_path), binds=(Bind(f"{HOME}/work", str(tmp_path)),))
    check_spec(manifest(), whole)
    with pytest.raises(NotRestorableHere, match="/work"):
        check_spec(manifest(), JailSpec(folder=str(tmp_path)))
    with pytest.raises(NotRestorableHere, match="own folders"):
        check_spec(manifest(), msgspec.structs.replace(whole, scratch=("/tmp",)))


def test_program_that_a_jail_would_hide_is_refused(tmp_path: Path) -> None:
    hidden = JailSpec(folder=str(tmp_path))
    check_visible(hidden, ["/usr/bin/python3", "/tmpx/python"])
    with pytest.raises(ImageUnavailable, match="/tmp/venv/bin/python cannot be seen"):
        check_visible(hidden, ["/tmp/venv/bin/python"])
    check_visible(JailSpec(folder="/f", binds=(Bind("/tmp/venv", "/tmp/venv"),)), ["/tmp/venv/bin/python"])


# -- packing ---------------------------------------------------------------------------------------------------


def test_packed_folder_comes_back_bytewise_while_its_pages_grew(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "0").mkdir(parents=True)
    store = RecordingStore()
    stored = StoredImage(store)
    packer = Packer(stored, source)
    data = os.urandom(CHUNK_BYTES) + bytes(CHUNK_BYTES) + os.urandom(CHUNK_BYTES // 2)
    with open(source / "0" / "pages-1.img", "wb") as pages:
        pages.write(data[: CHUNK_BYTES + 10])
        pages.flush()
        assert store.first.wait(30), "nothing was put while CRIU was still writing"
        pages.write(data[CHUNK_BYTES + 10 :])
    (source / "0" / "core-2.img").write_bytes(b"core")
    (source / "0" / "empty.img").touch()
    (source / "0" / "criu.log").write_text("not part of it")
    (source / "scratch0.tar").write_bytes(b"tar")
    files = packer.finish()
    assert [file.name for file in files] == ["0/core-2.img", "0/empty.img", "0/pages-1.img", "scratch0.tar"]
    assert stored.written.new_bytes == len(data) + 4 + 3
    target = tmp_path / "target"
    target.mkdir()
    unpack(store, files, 1, target)
    for file in files:
        assert (target / file.name).read_bytes() == (source / file.name).read_bytes()
        assert stat.S_IMODE((target / file.name).stat().st_mode) == 0o600


class RecordingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.first = threading.Event()

    def put(self, chunks):  # type: ignore[no-untyped-def]
        done = super().put(chunks)
        self.first.set()
        return done


def test_unpacked_rounds_are_linked_to_the_ones_before(tmp_path: Path) -> None:
    unpack(MemoryStore(), (), 3, tmp_path)
    assert (tmp_path / "2" / "parent").resolve() == tmp_path / "1"
    assert (tmp_path / "1" / "parent").resolve() == tmp_path / "0"
    assert not (tmp_path / "0" / "parent").exists()


def test_unpack_does_not_write_through_what_is_there(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("safe")
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "x").symlink_to(outside)
    with pytest.raises(OSError):
        unpack(MemoryStore(), (ImageFile("x", Blob(0, b"")),), 1, tmp_path / "image")
    assert outside.read_text() == "safe"


def test_unpack_of_a_chunk_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ChunkMissing):
        unpack(MemoryStore(), (ImageFile("x", Blob(3, b"d" * 32)),), 1, tmp_path)


def test_packer_passes_on_what_the_store_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    from jupyter_gpuaas.errors import QuotaReached

    packer = Packer(StoredImage(MemoryStore(quota_bytes=10)), tmp_path)
    with pytest.raises(QuotaReached):
        packer.finish()


def test_scratch_folders_come_back_with_links_modes_and_holes_in_names(tmp_path: Path) -> None:
    source, image, target = tmp_path / "source", tmp_path / "image", tmp_path / "target"
    for root in (source, target):
        (root / "tmp").mkdir(parents=True)
        (root / "dev" / "shm").mkdir(parents=True)
    image.mkdir()
    (source / "tmp" / "deep").mkdir(mode=0o700)
    (source / "tmp" / "deep" / "file").write_bytes(b"x")
    os.link(source / "tmp" / "deep" / "file", source / "tmp" / "same")
    (source / "tmp" / "link").symlink_to("/etc/hostname")
    os.mkfifo(source / "tmp" / "fifo")
    (source / "dev" / "shm" / "psm_1").write_bytes(b"shared")
    pack_scratch(source, ("/tmp", "/dev/shm"), image)
    unpack_scratch(target, ("/tmp", "/dev/shm"), image)
    assert (target / "tmp" / "same").stat().st_ino == (target / "tmp" / "deep" / "file").stat().st_ino
    assert stat.S_IMODE((target / "tmp" / "deep").stat().st_mode) == 0o700
    assert os.readlink(target / "tmp" / "link") == "/etc/hostname"
    assert stat.S_ISFIFO((target / "tmp" / "fifo").stat().st_mode)
    assert (target / "dev" / "shm" / "psm_1").read_bytes() == b"shared"
