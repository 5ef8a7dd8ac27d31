"""Open files: place, mode and content; nothing is truncated, nothing passes for what it is not."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpuaas.state.rules.registry import NotRestorable

from .roundtrip import cell, roundtrip


def back(folder: Path, source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Before and after; the files of the folder are closed by the test."""
    was = cell(f"import os, io\nfolder = {str(folder)!r}\n" + source)
    return was, roundtrip(was)[0]


def close(*namespaces: dict[str, Any]) -> None:
    for namespace in namespaces:
        for value in namespace.values():
            if hasattr(value, "fileno") and not value.closed and value not in (sys.__stdout__, sys.__stderr__):
                value.close()


def test_file_for_reading_is_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("aé\r\nb中\r\nc\nd".encode())
    was, new = back(
        tmp_path,
        """
name = folder + "/a"
text = open(name, encoding="utf-8"); text.read(2)
loop = open(name, encoding="utf-8"); next(loop)
untouched = open(name, encoding="utf-8", newline=""); untouched.readline()
crlf = open(name, encoding="utf-8", newline="\\r\\n")
binary = open(name, "rb"); binary.read(3); raw = open(name, "rb", buffering=0); raw.read(1)
small = open(name, "rb", buffering=16); inner = small.raw
both = open(name, "r+", encoding="utf-8"); both.readline()
""",
    )
    for name in ("text", "loop", "untouched", "crlf", "binary", "raw", "small", "both"):
        assert new[name].name == was[name].name and new[name].mode == was[name].mode
        assert new[name].read() == was[name].read(), name
    assert new["small"].raw is new["inner"] and new["small"].__sizeof__() == was["small"].__sizeof__()
    assert new["loop"].newlines == "\r\n" or new["loop"].newlines
    close(was, new)


def test_file_for_writing_is_neither_truncated_nor_changed(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("old\n")
    was, new = back(
        tmp_path,
        """
w = open(folder + "/w", "w", newline="\\r\\n"); w.write("one\\n")
a = open(folder + "/log", "a"); a.write("new\\n")
b = open(folder + "/b", "w+b"); b.write(b"abc"); b.seek(1)
x = open(folder + "/x", "xb", buffering=0); x.write(b"x")
""",
    )
    for name in "wabx":
        assert (new[name].mode, new[name].tell()) == (was[name].mode, was[name].tell())
    close(was)
    new["w"].write("two\n")
    new["a"].write("newer\n")
    assert new["b"].read(1) == b"b"
    new["b"].write(b"Z")
    close(new)
    assert (tmp_path / "w").read_bytes() == b"one\r\ntwo\r\n"
    assert (tmp_path / "log").read_text() == "old\nnew\nnewer\n"
    assert (tmp_path / "b").read_bytes() == b"abZ"
    assert (tmp_path / "x").read_bytes() == b"x"


def _captured(source: str, folder: Path, between: Any) -> tuple[dict[str, Any], list[str]]:
    """Restore after the world has gone on."""
    from jupyter_gpuaas.state.pickler import dump, load, under
    from jupyter_gpuaas.state.rules.registry import Context, Restoring

    was = cell(f"folder = {str(folder)!r}\n" + source)
    pickled = dump((was["f"],), Context(was), own=frozenset({"f"}))
    stream, buffers = bytes(pickled.stream), [bytearray(buffer) for buffer in pickled.buffers]
    try:
        between(was["f"])
        restoring = Restoring({})
        with under(restoring):
            (file,) = load(stream, buffers)
            for finish in restoring.finally_:
                finish()
    finally:
        close(was)
    return {"f": file}, restoring.remarks


def test_file_that_grew_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotRestorable, match="changed since"):
        # Not flushed: the dropped handle would write it after the restore.
        _captured("f = open(folder + '/a', 'w'); f.write('x')", tmp_path, lambda f: f.write("more"))


def test_file_of_same_size_and_other_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("abc")
    with pytest.raises(NotRestorable, match="content"):
        _captured("f = open(folder + '/a')", tmp_path, lambda f: (tmp_path / "a").write_text("abd"))


def test_file_for_reading_that_is_gone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("abc")
    with pytest.raises(NotRestorable, match="does not exist"):
        _captured("f = open(folder + '/a')", tmp_path, lambda f: (tmp_path / "a").unlink())


@pytest.mark.parametrize("size", [3, 100_000])
def test_file_for_writing_that_is_gone_is_made_again(tmp_path: Path, size: int) -> None:
    new, remarks = _captured(
        f"f = open(folder + '/a', 'w'); f.write('x' * {size})", tmp_path, lambda f: (tmp_path / "a").unlink()
    )
    new["f"].write("y")
    close(new)
    assert (tmp_path / "a").read_text() == "x" * size + "y" and "made again" in remarks[0]


def test_closed_files_are_closed(tmp_path: Path) -> None:
    _, new = back(
        tmp_path,
        """
f = open(folder + "/a", "w"); f.close()
b = open(folder + "/a", "rb"); b.close()
m = io.BytesIO(b"x"); m.close(); t = io.TextIOWrapper(io.BytesIO()); t.close(); s = io.StringIO(); s.close()
os.unlink(folder + "/a")
""",
    )
    for name in "fbmts":
        assert new[name].closed
    assert (new["f"].mode, new["f"].name) == ("w", str(tmp_path / "a")) and not (tmp_path / "a").exists()


def test_files_in_memory_and_temporary_ones(tmp_path: Path) -> None:
    was, new = back(
        tmp_path,
        """
import tempfile, sys
m = io.BytesIO(b"abcdef"); m.read(2); s = io.StringIO("a\\nb\\n", newline=None); s.readline()
w = io.StringIO(newline="\\r\\n")
w.write("x\\n")
wrapped = io.TextIOWrapper(m, encoding="ascii"); mv = m.getbuffer().obj
named = tempfile.NamedTemporaryFile("w+", dir=folder); named.write("hello"); named.seek(2)
nameless = tempfile.TemporaryFile(); nameless.write(b"abc"); nameless.seek(1)
spooled = tempfile.SpooledTemporaryFile(max_size=100); spooled.write(b"abc"); spooled.seek(1)
td = tempfile.TemporaryDirectory(dir=folder); os.symlink("d", td.name + "/x"); os.mkdir(td.name + "/d")
null = open(os.devnull, "w"); out = sys.__stdout__; err = sys.__stderr__
""",
    )
    assert new["m"].read() == b"cdef" and new["wrapped"].buffer is new["m"]
    assert new["s"].read() == "b\n" and new["w"].getvalue() == "x\r\n"
    new["w"].write("y\n")
    assert new["w"].getvalue() == "x\r\ny\r\n"
    assert new["named"].read() == "llo" and new["nameless"].read() == b"bc" and new["spooled"].read() == b"bc"
    assert new["out"] is was["out"] and new["err"] is was["err"]
    name, folder = was["named"].name, was["td"].name
    was["null"].close(), was["spooled"].close(), was["nameless"].close()
    del was
    assert os.path.exists(name) and os.path.exists(folder + "/x")
    new["named"].close(), new["spooled"].close()
    new["td"].cleanup()
    assert not os.path.exists(name) and not os.path.exists(folder)
    close(new)


def test_temporary_folder_that_is_gone_is_made_again(tmp_path: Path) -> None:
    new, _ = _captured(
        "import tempfile\nf = tempfile.TemporaryDirectory(dir=folder)\n"
        "with open(f.name + '/x', 'w') as g: g.write('a')",
        tmp_path,
        lambda f: f.cleanup(),
    )
    assert Path(new["f"].name, "x").read_text() == "a"
    new["f"].cleanup()


@pytest.mark.parametrize(
    "source",
    ["import os\nr, w = os.pipe(); f = open(r); g = open(w, 'w')", "import socket\nf, g = socket.socketpair()"],
)
def test_pipes_and_sockets_are_refused(source: str) -> None:
    was = cell(source)
    with pytest.raises(NotRestorable, match=r"pipe|socket"):
        roundtrip(was)
    was["f"].close()
    was["g"].close()
