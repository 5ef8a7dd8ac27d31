"""Where the driver's library is loaded, the stand-in is, over the files of ``gpu_files``."""

from __future__ import annotations

import ctypes
from typing import Any

_real = ctypes.CDLL


class CDLL(_real):
    def __new__(cls, name: str | None = None, *arguments: Any, **more: Any) -> Any:
        if name != "libcuda.so.1":
            return super().__new__(cls)
        from gpu_driver import FileLibrary

        return FileLibrary()


ctypes.CDLL = CDLL  # type: ignore[misc]
