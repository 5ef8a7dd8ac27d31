"""Objects under one fsspec URL: the only file that knows fsspec, and where its errors become ours."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import StoreError


class Objects:
    """Whole objects by path below a URL. Methods may be called from any thread and raise ``StoreError``s only."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url = url
        try:
            core = importlib.import_module("fsspec.core")
            # A listing from a cache would hide what others have committed.
            self._fs, root = core.url_to_fs(
                url, **{"use_listings_cache": False, "skip_instance_cache": True, **options}
            )
        except ImportError as error:
            raise StoreError(
                f"{url} cannot be used: {error}.", hint="Install `jupyter_gpuaas[s3]` for S3, or the named package."
            ) from error
        except Exception as error:
            raise StoreError(f"{url} cannot be used: {error}.") from error
        self._root = root.rstrip("/")

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes | None:
        """An object's bytes or a part of them; None when there is no such object."""
        if start is not None and start == end:
            return b""  # some places refuse an empty range
        with self._errors(f"reading {path}"):
            try:
                data: bytes = self._fs.cat_file(self._full(path), start=start, end=end)
            except FileNotFoundError:
                return None
            return data

    def write(self, path: str, data: bytes | bytearray) -> None:
        """An object is there with all of its bytes or, where the place can do that, not at all."""
        with self._errors(f"writing {path}"):
            full = self._full(path)
            try:
                self._fs.pipe_file(full, bytes(data))
            except FileNotFoundError:  # a place with real folders
                self._fs.makedirs(full.rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(full, bytes(data))

    def sizes(self, folder: str) -> dict[str, int]:
        """Names of the objects of a folder, and their sizes."""
        with self._errors(f"listing {folder}"):
            try:
                self._fs.invalidate_cache()
                listing = self._fs.ls(self._full(folder), detail=True)
            except FileNotFoundError:
                return {}
            return {
                entry["name"].rpartition("/")[2]: int(entry["size"] or 0)
                for entry in listing
                if entry["type"] == "file" and not entry["name"].endswith("/")
            }

    def remove(self, path: str) -> None:
        """Afterwards it is not there, whether it was or not."""
        with self._errors(f"removing {path}"), suppress(FileNotFoundError):
            self._fs.rm_file(self._full(path))

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        """What the libraries behind fsspec raise has no common class."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(f"{action} in {self.url}: {type(error).__name__}: {error}.") from error
