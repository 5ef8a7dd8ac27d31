"""Where the image of a session is kept, and how it goes."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from ..errors import CheckpointError
from ..store.opening import open_store
from .manifest import references


def image_address(store: str, session: str, image: str) -> str:
    """Where the image of a session is, which is a store of its own, beside the store of checkpoints."""
    return f"{store.rstrip('/')}-images/{session}/{image}"


def drop_image(address: str, image: str) -> None:
    """Remove an image; blocks. One that is not there is no error."""
    if "://" not in address:
        folder = Path(address).expanduser()
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # the last one of its session
        return
    with contextlib.suppress(CheckpointError):
        store = open_store(address)
        try:
            with contextlib.suppress(CheckpointError):
                store.forget(image)
            store.collect(references)
        finally:
            store.close()
