"""Fuzzes the readers of `fuzz_targets.py` for as long as it is told, and keeps what it finds.

python -m tests.abuse.fuzz_wire --minutes 60
python -m tests.abuse.fuzz_wire --target manifest --atheris --minutes 60     # guided by coverage; pip install atheris
python -m tests.abuse.fuzz_wire --target manifest --file found/manifest-0    # once more
"""

from __future__ import annotations

import argparse
import hashlib
import random
import struct
import sys
import time
import traceback
from pathlib import Path

import psutil

MOST_BYTES = 1 << 16
#: Numbers at which readers have their borders.
_NUMBERS = (0, 1, 7, 8, 40, 255, 256, 4096, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
#: More than this at the end than at the beginning is a finding, too.
GROWTH_BYTES = 200 * 1024**2


def mutate(data: bytes, chance: random.Random) -> bytes:
    """The bytes with a few things wrong."""
    changed = bytearray(data)
    for _ in range(1 + int(chance.expovariate(0.7))):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(7):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << chance.randrange(8)
            case 1:
                changed[at:at] = chance.randbytes(chance.choice((1, 2, 8, 64)))
            case 2:
                del changed[at : at + chance.choice((1, 2, 8, 64))]
            case 3:
                form, number = chance.choice(("<Q", "<I", "<H", ">I", ">Q")), chance.choice(_NUMBERS)
                packed = struct.pack(form, number & (2 ** (8 * struct.calcsize(form)) - 1))
                changed[at : at + len(packed)] = packed
            case 4:
                begin = chance.randrange(len(changed) + 1)
                changed[at:at] = changed[begin : begin + chance.randrange(1, 200)]
            case 5:
                changed[at:] = b""
            case _:
                changed[at : at + 1] = chance.choice(
                    (b"\0", b"\xff", b"\r\n", b"{", b"[", b'"', b"-", b"1e999", b"%00")
                )
    return bytes(changed[:MOST_BYTES])


def by_chance(names: list[str], minutes: float, seed: int, found: Path) -> int:
    """Mutations of sound bytes, and of those that were reached; gives the number of findings."""
    from tests.abuse.fuzz_targets import TARGETS

    chance, process = random.Random(seed), psutil.Process()
    end_s = time.monotonic() + 60 * minutes
    runs, findings = dict.fromkeys(names, 0), 0
    pools = {name: list(TARGETS[name].seeds) for name in names}
    for name in names:
        for data in pools[name]:
            TARGETS[name].run(data)
    before = process.memory_info().rss
    while time.monotonic() < end_s:
        for name in names:
            for _ in range(20):
                data = mutate(chance.choice(pools[name]), chance)
                runs[name] += 1
                try:
                    TARGETS[name].run(data)
                except Exception:
                    findings += 1
                    _keep(found, name, data)
                    continue
                # What passes is a place to go on from.
                if chance.random() < 0.01 and len(pools[name]) < 500:
                    pools[name].append(data)
    grown = process.memory_info().rss - before
    print(f"seed {seed}, {minutes:g} minutes, {sum(runs.values())} runs, {findings} findings")
    print(f"memory: {grown / 2**20:.0f} MiB more than at the beginning")
    for name, count in runs.items():
        print(f"  {name}: {count}")
    return findings + (grown > GROWTH_BYTES)


def guided(name: str, minutes: float, seed: int, found: Path) -> None:
    """By coverage, with atheris, until the first finding; its process ends here."""
    import atheris

    with atheris.instrument_imports(include=["jupyter_gpuaas"]):
        from tests.abuse.fuzz_targets import TARGETS

    folder = found / f"corpus-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(TARGETS[name].seeds):
        (folder / f"seed-{number}").write_bytes(data)
    arguments = [
        f"-max_total_time={int(60 * minutes)}",
        f"-seed={seed}",
        f"-max_len={MOST_BYTES}",
        "-rss_limit_mb=1024",
    ]
    atheris.Setup([sys.argv[0], *arguments, f"-artifact_prefix={found}/{name}-", str(folder)], TARGETS[name].run)
    atheris.Fuzz()


def _keep(found: Path, name: str, data: bytes) -> None:
    traceback.print_exc()
    found.mkdir(parents=True, exist_ok=True)
    path = found / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    print(f"*** {path}", flush=True)


def main() -> int:
    """As the module says."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--minutes", type=float, default=60.0)
    asked.add_argument("--target", default="", help="only this one")
    asked.add_argument("--seed", type=int, default=int(time.time()))
    asked.add_argument("--found", type=Path, default=Path("found"))
    asked.add_argument("--atheris", action="store_true")
    asked.add_argument("--file", type=Path, help="run these bytes and nothing else")
    given = asked.parse_args()
    if given.atheris:
        guided(given.target, given.minutes, given.seed, given.found)
        return 0
    from tests.abuse.fuzz_targets import TARGETS, forget_store

    try:
        if given.file is not None:
            TARGETS[given.target].run(given.file.read_bytes())
            return 0
        names = [given.target] if given.target else list(TARGETS)
        return 1 if by_chance(names, given.minutes, given.seed, given.found) else 0
    finally:
        forget_store()


if __name__ == "__main__":
    sys.exit(main())
