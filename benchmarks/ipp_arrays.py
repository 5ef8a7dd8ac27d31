"""Push and pull of an array by ipyparallel; run by the Python of the gateway's environment, prints JSON."""

from __future__ import annotations

import json
import mmap
import sys
import time

import ipyparallel as ipp
import numpy as np


def touch(size: int) -> None:
    """As in `arrays`, of which this environment lacks the imports."""
    memory = memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    memory[:: mmap.PAGESIZE] = bytes(len(memory[:: mmap.PAGESIZE]))


def main() -> None:
    """Measure bytes a second of ``rounds`` pushes and pulls of ``size`` bytes with one engine."""
    size, rounds = int(sys.argv[1]), int(sys.argv[2])
    rates: dict[str, list[float]] = {"push": [], "pull": []}
    with ipp.Cluster(n=1, log_level=50, profile_dir=sys.argv[3]) as client:
        view = client[0]
        view.execute("import numpy as np", block=True)
        for number in range(rounds):
            array = np.full(size // 8, number, dtype=np.float64)
            touch(2 * size)
            begun = time.perf_counter()
            view.push({"array": array}, block=True)
            rates["push"].append(size / (time.perf_counter() - begun))
            view.execute(f"far = np.full({size // 8}, {number}, dtype=np.float64)", block=True)
            touch(2 * size)
            begun = time.perf_counter()
            near = view.pull("far", block=True)
            rates["pull"].append(size / (time.perf_counter() - begun))
            assert near.nbytes == size // 8 * 8 and near[-1] == number
            del near
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
