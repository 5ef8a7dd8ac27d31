"""The working folder of a session on its way to another node, and lists that lead out of it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import GpuaasError, MigrationError, NoSuchSession, RemoteProtocolError, TransportError
from jupyter_gpuaas.node import files as module
from jupyter_gpuaas.node import transfer as transfer_module
from jupyter_gpuaas.node.files import NEW_PREFIX, Entry, Listing, fetch_files
from jupyter_gpuaas.wire.transfer import FILE, PIECE, Incoming, PeerLink, frame
from tests.peers import Source

MOST: dict[str, Any] = {"most_bytes": 10**9, "most_files": 1000, "timeout_s": 20}


class Two:
    """The folder at the source, the one at the target, and what the target could not get."""

    def __init__(self, folder: Path, source: Source) -> None:
        self.here, self.there = folder / "here", folder / "there"
        self.source = source
        self.left_out: dict[str, str] = {}

    def move(self, **changes: Any) -> int:
        return fetch_files(self.source.peer, self.there, left_out=self.left_out.__setitem__, **(MOST | changes))


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    source = Source(None, work=tmp_path / "here")
    yield Two(tmp_path, source)
    source.close()


def tree(root: Path) -> dict[str, tuple[Any, ...]]:
    """All that is in a folder."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = ("folder", mode, status.st_mtime_ns)
        else:
            found[name] = ("file", mode, status.st_mtime_ns, path.read_bytes())
    return found


def fill(root: Path) -> None:
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o755)
    (root / ".git").mkdir()
    (root / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (root / "a.txt").write_text("a")
    (root / "none").write_bytes(b"")
    (root / "sub" / "large.bin").write_bytes(os.urandom(3 * 1024**2 + 5))
    (root / "sub" / "run.sh").write_text("#!/bin/sh")
    (root / "sub" / "run.sh").chmod(0o755)
    (root / "sub" / "deep" / "read-only").write_text("x")
    (root / "sub" / "deep" / "read-only").chmod(0o444)
    (root / "sub" / "deep").chmod(0o555)
    (root / "ünï — name\n").write_text("y")
    (root / "link").symlink_to("sub/large.bin")
    (root / "out").symlink_to("/etc/hostname")
    (root / "nowhere").symlink_to("../../nothing")
    (root / "folder-link").symlink_to("sub")


# -- what comes ----------------------------------------------------------------------------------------------------


def test_everything_comes_as_it_is(two: Two) -> None:
    fill(two.here)
    received = two.move()
    assert tree(two.there) == tree(two.here)
    assert 3 * 1024**2 < received < 3 * 1024**2 + 20_000
    assert not two.left_out


def test_second_round_brings_what_has_changed(two: Two) -> None:
    fill(two.here)
    two.move()
    assert two.move() < 5000
    (two.here / "sub" / "deep").chmod(0o755)
    (two.here / "sub" / "deep" / "read-only").unlink()
    (two.here / "sub" / "run.sh").chmod(0o700)
    (two.here / "a.txt").unlink()
    (two.here / "a.txt").mkdir()
    (two.here / "a.txt" / "inside").write_text("1")
    (two.here / "empty").rmdir()
    (two.here / "empty").write_text("a file now")
    (two.here / "link").unlink()
    (two.here / "link").symlink_to("a.txt")
    (two.here / "folder-link").unlink()
    (two.here / "folder-link").write_text("a file now")
    same = (two.here / "none").stat()
    (two.here / "none").write_bytes(b"z")
    os.utime(two.here / "none", ns=(same.st_mtime_ns, same.st_mtime_ns))
    assert two.move() < 6000
    assert tree(two.there) == tree(two.here)


def test_what_was_removed_goes_and_what_is_ignored_stays_on_both_sides(two: Two) -> None:
    (two.here / ".gpuaasignore").write_text("*.log\ncache/\n")
    (two.here / "a.log").write_text("1")
    (two.here / "cache").mkdir()
    (two.here / "cache" / "x").write_text("1")
    (two.here / "keep").write_text("1")
    (two.there / "old").mkdir()
    (two.there / "old" / "file").write_text("2")
    (two.there / "old").chmod(0o555)
    (two.there / "own.log").write_text("2")
    two.move()
    assert sorted(path.name for path in two.there.iterdir()) == [".gpuaasignore", "keep", "own.log"]


def test_what_cannot_be_sent_is_told(two: Two) -> None:
    os.mkfifo(two.here / "pipe")
    with open(os.fsencode(two.here) + b"/\xff\xfe", "w") as odd:
        odd.write("1")
    os.symlink(b"\xff", os.fsencode(two.here / "odd-link"))
    (two.here / "good").write_text("1")
    two.move()
    assert [path.name for path in two.there.iterdir()] == ["good"]
    assert len(two.left_out) == 3
    assert "neither" in two.left_out["pipe"] and "UTF-8" in two.left_out["odd-link"]


def test_packed_for_another_machine(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_module, "_on_this_machine", lambda connection: False)
    (two.here / "zeros").write_bytes(bytes(5 * 1024**2 + 3))
    assert two.move() < 20_000
    assert (two.there / "zeros").read_bytes() == bytes(5 * 1024**2 + 3)


def test_many_small_files(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_FILES", 7)
    for n in range(50):
        (two.here / f"{n}").write_text(str(n) * n)
    two.move()
    assert tree(two.there) == tree(two.here)


def test_shared_folder_is_left_alone(two: Two, tmp_path: Path) -> None:
    source = Source(None, work=None)
    (two.there / "mine").write_text("1")
    try:
        fetch_files(source.peer, two.there, **MOST)
        assert (two.there / "mine").exists()
        link = PeerLink(source.peer, timeout_s=20)
        with pytest.raises(MigrationError):
            link.ask("POST", "files", msgspec.msgpack.encode(["mine"]))
        link.close()
    finally:
        source.close()


# -- bounds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [{"sync_files": 3}, {"sync_bytes": 100}])
def test_too_much_is_refused_and_names_the_setting(tmp_path: Path, bounds: dict[str, int]) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    for n in range(5):
        (tmp_path / "here" / f"{n}").write_bytes(bytes(50))
    source = Source(None, work=tmp_path / "here", settings=Settings(**bounds))
    try:
        with pytest.raises(MigrationError, match=next(iter(bounds))):
            fetch_files(source.peer, tmp_path / "there", **MOST)
        assert not list((tmp_path / "there").iterdir())
    finally:
        source.close()
    source = Source(None, work=tmp_path / "here")
    try:
        with pytest.raises(MigrationError, match="sync_files"):
            fetch_files(source.peer, tmp_path / "there", **(MOST | {"most_files": 2}))
        with pytest.raises(MigrationError, match="sync_bytes"):
            fetch_files(source.peer, tmp_path / "there", **(MOST | {"most_bytes": 200}))
        assert not list((tmp_path / "there").iterdir())
    finally:
        source.close()


# -- what must not be ----------------------------------------------------------------------------------------------


def test_source_gives_nothing_from_outside_of_its_folder(two: Two, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (two.here / "link").symlink_to("../secret")
    (two.here / "folder").symlink_to("..")
    os.mkfifo(two.here / "pipe")
    for path in ("../secret", "/etc/passwd", "", ".", "a/../../secret", "a//b", "a\0b", f"{NEW_PREFIX}x", "x" * 5000):
        link = PeerLink(two.source.peer, timeout_s=20)
        with pytest.raises(RemoteProtocolError):
            link.ask("POST", "files", msgspec.msgpack.encode([path]))
        link.close()
    link = PeerLink(two.source.peer, timeout_s=20)
    link.ask("POST", "files", msgspec.msgpack.encode(["link", "folder/secret", "pipe", "nothing"]))
    for _ in range(4):
        head = link.frame()
        assert head is not None and head.kind == FILE
        assert msgspec.msgpack.decode(link.payload(), type=Entry).kind == "gone"
    assert link.frame() is None
    link.close()
    for body in (b"\xc1", msgspec.msgpack.encode(["x"] * 2000), msgspec.msgpack.encode({"a": 1})):
        link = PeerLink(two.source.peer, timeout_s=20)
        with pytest.raises(RemoteProtocolError):
            link.ask("POST", "files", body)
        link.close()


def evil(*answers: bytes | list[bytes]) -> Callable[[socket.socket], bool]:
    """Answers one request after the other: bytes as one piece, a list as frames."""

    def meddle(connection: socket.socket) -> bool:
        with connection:
            incoming = Incoming(connection)
            try:
                for answer in answers:
                    length = 0
                    while line := incoming.line():
                        name, _, value = line.partition(b":")
                        length = int(value) if name.lower() == b"content-length" else length
                    incoming.exactly(length)
                    if isinstance(answer, bytes):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
                    else:
                        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                        connection.sendall(head + b"".join(answer) + b"0\r\n\r\n")
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)
            except OSError:
                pass
        return True

    return meddle


def a_list(*entries: Entry) -> bytes:
    return msgspec.msgpack.encode(Listing(entries))


def a_file(path: str, data: bytes, size: int | None = None, **changes: Any) -> list[bytes]:
    entry = msgspec.structs.replace(Entry(path, "file", len(data) if size is None else size, 5, 0o600), **changes)
    head = b"".join(frame(FILE, msgspec.msgpack.encode(entry)))
    return [head, b"".join(frame(PIECE, data, raw_bytes=len(data)))] if data else [head]


A = Entry("a", "file", 3, 5, 0o600)
BAD_LISTS = {
    "above": a_list(Entry("../x", "file", 1)),
    "absolute": a_list(Entry("/tmp/x", "file", 1)),
    "dots inside": a_list(Entry("d", "folder"), Entry("d/../../x", "file", 1)),
    "nothing": a_list(Entry("", "file", 1)),
    "zero": a_list(Entry("a\0b", "file", 1)),
    "of ours": a_list(Entry(f"{NEW_PREFIX}1", "file", 1)),
    "folder is a link": a_list(Entry("l", "link", target="/tmp"), Entry("l/x", "file", 1)),
    "folder is missing": a_list(Entry("d/x", "file", 1)),
    "twice": a_list(Entry("l", "link", target="/tmp"), Entry("l", "folder"), Entry("l/x", "file", 1)),
    "negative": a_list(Entry("a", "file", -1)),
    "mode": a_list(Entry("a", "file", 1, 0, 0o4755)),
    "time": a_list(Entry("a", "file", 1, 1 << 63 - 1)),
    "link to nothing": a_list(Entry("l", "link", target="")),
    "no list": b"\xc1nonsense",
    "other kind": msgspec.msgpack.encode({"entries": [["a", "device", 1]]}),
    "nothing at all": b"",
}


@pytest.mark.parametrize("kind", BAD_LISTS)
def test_list_that_leads_out_of_the_folder_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    source = Source(None, meddle=evil(BAD_LISTS[kind]))
    try:
        with pytest.raises(RemoteProtocolError):
            fetch_files(source.peer, tmp_path / "there", **MOST)
    finally:
        source.close()
    assert not list((tmp_path / "there").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


BAD_FILES = {
    "another": a_file("b", b"abc"),
    "a link": a_file("a", b"", kind="link", target="/tmp"),
    "longer": [*a_file("a", b"abc"), b"".join(frame(PIECE, b"d", raw_bytes=1))],
    "too large": a_file("a", b"abc", size=10**12),
    "one more": [*a_file("a", b"abc"), *a_file("b", b"abc")],
    "none": [],
    "piece first": [b"".join(frame(PIECE, b"abc", raw_bytes=3))],
    "badly packed": [a_file("a", b"abc")[0], b"".join(frame(PIECE, b"abc", codec=1, raw_bytes=3))],
    "nonsense": [b"".join(frame(FILE, b"\xc1"))],
    "special bits": a_file("a", b"abc", mode=0o6755),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_files_that_were_not_asked_for_are_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    source = Source(None, meddle=evil(a_list(A), BAD_FILES[kind]))
    try:
        with pytest.raises((RemoteProtocolError, MigrationError)):
            fetch_files(source.peer, tmp_path / "there", **MOST)
    finally:
        source.close()
    assert [path.name for path in (tmp_path / "there").iterdir()] in ([], ["a"])
    assert not (tmp_path / "there" / "b").exists()


def test_file_that_becomes_shorter_is_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    source = Source(None, meddle=evil(a_list(A), a_file("a", b"ab", size=3)))
    try:
        with pytest.raises(TransportError, match="shorter"):
            fetch_files(source.peer, tmp_path / "there", **MOST)
    finally:
        source.close()
    assert not list((tmp_path / "there").iterdir())


def test_links_at_the_target_are_not_followed(two: Two, tmp_path: Path) -> None:
    """A folder that became a link to elsewhere, for one by a process of the user's on that node."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("1")
    (two.here / "d").mkdir()
    (two.here / "d" / "precious").write_text("22")
    (two.there / "d").symlink_to(outside)
    two.move()
    assert (outside / "precious").read_text() == "1"
    assert not (two.there / "d").is_symlink() and (two.there / "d" / "precious").read_text() == "22"
    # And one that comes in between.
    opened = module.Tree(two.there)
    two_d = two.there / "d"
    (two_d / "precious").unlink()
    two_d.rmdir()
    two_d.symlink_to(outside)
    try:
        with pytest.raises(OSError):
            with opened.write(Entry("d/precious", "file", 1, 0, 0o600)):
                pass
        with pytest.raises(OSError):
            opened.remove("d/precious")
        with pytest.raises(OSError):
            opened.folder("d")
    finally:
        opened.close()
    assert (outside / "precious").read_text() == "1"


def test_folder_that_is_not_there(tmp_path: Path, two: Two) -> None:
    with pytest.raises(MigrationError, match="cannot be opened"):
        fetch_files(two.source.peer, tmp_path / "nothing", **MOST)
    two.here.rmdir()
    with pytest.raises(GpuaasError):
        two.move()


def test_other_routes_are_not_served(two: Two) -> None:
    link = PeerLink(two.source.peer, timeout_s=20)
    with pytest.raises(NoSuchSession):
        link.ask("GET", "files")
    link.close()
