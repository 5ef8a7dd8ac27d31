"""Restores an image in a process of its own; prints this machine's clock, and how long the session's variable
``before`` lies back by the session's clock.

    python -m tests.image.elsewhere STORE NODE KEY CRIU
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from jupyter_gpuaas.image.criu import Criu
from jupyter_gpuaas.image.image_kernel import ImageKernel
from jupyter_gpuaas.image.pack import StoredImage
from jupyter_gpuaas.store import FolderStore

from .cells import Client, spec


async def main() -> None:
    store, node, key, path = sys.argv[1:]
    client = Client()
    criu = Criu(path=path, version="", dirty_tracking=False, lazy_pages=False)
    kernel = await ImageKernel.restore(
        spec(Path(node)),
        client,
        criu=criu,
        origin=StoredImage(FolderStore(Path(store))),
        image_id="image",
        key=key.encode(),
    )
    await kernel.thaw()
    await client.run(kernel, "print(time.monotonic() - before)")
    await client.until(lambda: client.text)
    print(time.monotonic(), client.text)
    await kernel.end()


if __name__ == "__main__":
    asyncio.run(main())
