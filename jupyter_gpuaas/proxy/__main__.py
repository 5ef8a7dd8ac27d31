"""``python -m jupyter_gpuaas.proxy -f CONNECTION_FILE``: the kernelspec's command."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from pathlib import Path

from ..config import Settings, load
from ..errors import SettingError
from .app import Proxy


def main() -> None:
    """Run the kernel proxy."""
    parser = argparse.ArgumentParser(prog="python -m jupyter_gpuaas.proxy", description=__doc__)
    parser.add_argument("-f", dest="connection_file", type=Path, required=True, help="Jupyter connection file")
    arguments, _ = parser.parse_known_args()  # front ends may add options that are meant for ipykernel
    logging.basicConfig(
        level=os.environ.get("GPUAAS_LOG", "ERROR").upper(), format="[remote GPU] %(asctime)s %(message)s"
    )
    settings, problem = Settings(home=os.environ.get("GPUAAS_HOME", "")), ""
    try:
        settings = load()
    except SettingError as error:
        # Told in each cell: of a kernel that does not start, front ends say nothing but that.
        problem = f"{error} Then restart the kernel."

    async def serve() -> None:
        await Proxy(arguments.connection_file, settings, problem).run()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
