"""Mappings, memoryviews, memmaps, ctypes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jupyter_gpuaas.state.rules.registry import NotRestorable

from .roundtrip import cell, roundtrip


def test_memoryviews_view_the_same_memory() -> None:
    made = cell(
        """
import array, numpy as np
b = bytearray(range(24)); whole = memoryview(b); part = whole[3:9]; odd = whole[1::3]; back = whole[::-2]
ints = whole.cast("i"); grid = whole[4:].cast("h", (2, 5)); frozen = whole.toreadonly()[2:]; same = part
a = array.array("d", [1, 2, 3]); doubles = memoryview(a)[1:]
n = np.arange(12.0).reshape(3, 4); nv = n.data; col = n[:, 1].data
empty = memoryview(b"abc")[3:]; gone = memoryview(b""); gone.release(); text = memoryview(b"abc")[1:]
every = ints[::-2]
"""
    )
    new, context, _ = roundtrip(made)
    for name in ("whole", "part", "odd", "back", "ints", "grid", "frozen", "doubles", "nv", "col", "empty", "every"):
        was, now = made[name], new[name]
        assert (now.tolist(), now.format, now.shape, now.readonly) == (
            was.tolist(),
            was.format,
            was.shape,
            was.readonly,
        )
        assert now.strides == was.strides
    assert new["same"] is new["part"] and new["text"] == b"bc"
    new["b"][4] = 99
    assert new["part"][1] == 99 and new["odd"][1] == 99 and new["frozen"][2] == 99
    new["a"][1] = 7.0
    new["n"][0, 1] = 8.0
    assert new["doubles"][0] == 7.0 and new["col"][0] == 8.0
    with pytest.raises(ValueError, match="released"):
        len(new["gone"])
    assert not context.rebuilds


def test_mappings(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)) * 64)
    made = cell(
        f"""
import mmap, numpy as np
name = {str(tmp_path / "a")!r}
anonymous = mmap.mmap(-1, 100); anonymous[:3] = b"abc"; anonymous.seek(2); over = np.frombuffer(anonymous, "u1")
with open(name, "r+b") as f:
    shared = mmap.mmap(f.fileno(), 0); shared[0] = 77; shared.seek(5)
    reading = mmap.mmap(f.fileno(), 4096, access=mmap.ACCESS_READ, offset=4096)
    private = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY); private[1] = 88
closed = mmap.mmap(-1, 1); closed.close()
m = np.memmap(name, "i4", "r+", offset=8, shape=(10, 3)); row = m[2]; m[2, 0] = 5
r = np.memmap(name, "u1", "r"); c = np.memmap(name, "u1", "c"); c[3] = 9
"""
    )
    new, _, _ = roundtrip(made)
    assert new["anonymous"][:3] == b"abc" and new["anonymous"].tell() == 2
    new["anonymous"][0] = 9
    assert new["over"][0] == 9 and new["shared"].tell() == 5 and new["reading"][:2] == b"\0\1"
    with pytest.raises(TypeError):
        new["reading"][0] = 1
    assert new["private"][1] == 88 and new["shared"][1] == 1 and new["shared"][0] == 77
    new["shared"][2] = 66
    assert (tmp_path / "a").read_bytes()[:3] == bytes([77, 1, 66]) and new["closed"].closed
    assert type(new["m"]) is np.memmap and new["m"].mode == "r+" and new["m"].offset == 8
    assert new["row"].base is new["m"] or np.shares_memory(new["row"], new["m"])
    new["m"][0, 0] = 1234
    new["m"].flush()
    assert np.fromfile(tmp_path / "a", "i4", offset=8)[0] == 1234 and new["row"][0] == 5
    assert not new["r"].flags.writeable and new["c"][3] == 9 and new["r"][3] == 3
    assert str(new["m"].filename) == str(tmp_path / "a")


def test_memmap_whose_file_was_made_by_it_is_not_made_again(tmp_path: Path) -> None:
    made = cell(f"import numpy as np\nm = np.memmap({str(tmp_path / 'a')!r}, 'u1', 'w+', shape=9); m[:] = 5; del np")
    new, _, _ = roundtrip(made)
    assert (new["m"] == 5).all() and new["m"].mode == "w+" and (tmp_path / "a").read_bytes() == b"\5" * 9


def test_ctypes() -> None:
    new, _, _ = roundtrip(
        cell(
            """
import ctypes
i = ctypes.c_int(5)
lib = ctypes.CDLL(None)
"""
        )
    )
    assert new["i"].value == 5 and new["lib"].abs(-3) == 3
    for source in (
        "x = ctypes.c_int.from_buffer(bytearray(4))",
        "x = ctypes.pointer(ctypes.c_int(1))",
        "x = ctypes.CDLL(None).abs",
        "class P(ctypes.Structure): _fields_ = [('i', ctypes.c_int * 2)]\nx = P().i",
    ):
        with pytest.raises(NotRestorable):
            roundtrip(cell(f"import ctypes\n{source}"))
