"""Compressed files that are read: opened again and read up to their place. Those being written are reported.

Archives (zip, tar) hold their state in Python objects, so they come back by themselves with the file beneath.
"""

from __future__ import annotations

import importlib
import io
from typing import Any

from .registry import Context, NotRestorable, rule


@rule("gzip.GzipFile", "bz2.BZ2File", "lzma.LZMAFile")
def reduce_compressed(file: Any, context: Context) -> Any:
    base: Any = next(base for base in type(file).__mro__ if base.__module__ in ("gzip", "bz2", "lzma"))
    home = base.__module__
    name = getattr(file, "name", None) if home == "gzip" else None
    if file.closed:
        return closed_compressed, (home, base.__name__, name)
    if not file.readable():
        raise NotRestorable("is a compressed file that is being written")
    raw = file.fileobj if home == "gzip" else file._fp
    opened = file.myfileobj is not None if home == "gzip" else file._closefp
    if not opened or type(file) is not base:
        raise NotRestorable("is a compressed stream over a file that it did not open")
    options = file._buffer.raw._decomp_args if home == "lzma" else {}
    return open_compressed, (home, base.__name__, raw, name, options, file.tell())


def open_compressed(home: str, name: str, raw: Any, path: Any, options: dict[str, Any], position: int) -> Any:
    kind = getattr(importlib.import_module(home), name)
    raw.seek(0)
    if home == "gzip":
        file = kind(path, "rb", fileobj=raw)
        file.myfileobj = raw
    else:
        file = kind(raw, "rb", **options)
        file._closefp = True
    file.seek(position)
    return file


def closed_compressed(home: str, name: str, path: Any) -> Any:
    kind = getattr(importlib.import_module(home), name)
    file = kind(path or "", "rb", fileobj=io.BytesIO()) if home == "gzip" else kind(io.BytesIO(), "rb")
    file.close()
    return file


@rule("shelve.Shelf", "dbm.dumb._Database")
def reduce_shelf(shelf: Any, context: Context) -> Any:
    raise NotRestorable("is an open database file (dbm)")
