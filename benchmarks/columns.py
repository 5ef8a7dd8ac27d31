"""What the benchmark measures: each function takes the rows by name and gives their figures by name.

Every measurement goes round the rows several times, one after the other, so that what else the machine does meets all
of them; figures are medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from arrays import touch
from rows import Heard, Kernel, first_cell

MESSAGE_BYTES = 100 * 10**6
GIBIBYTE = 1024**3
STALL_S = 8.0
STALLED_UPDATES = 20_000
LOST = "lost"

Figures = dict[str, dict[str, Any]]
Kernels = Mapping[str, Kernel]


def round_trip(kernels: Kernels, cells: int, rounds: int) -> Figures:
    """Milliseconds from a request to its reply and its idle, for cells of ``pass``."""
    times: dict[str, list[float]] = {name: [] for name in kernels}
    for name, kernel in _in_turn(kernels, rounds):
        for _ in range(cells // rounds):
            done_s = kernel.run("pass").done_s
            times[name].append(1000 * done_s if done_s is not None else float("inf"))
    return {
        name: {"p50": statistics.median(found), "p99": sorted(found)[max(0, -(-99 * len(found) // 100) - 1)]}
        for name, found in times.items()
    }


def prints(kernels: Kernels, count: int, rounds: int) -> Figures:
    """Messages a second of flushed prints, and how many of their lines arrived at worst."""
    code = f"for number in range({count}):\n    print(number, flush=True)"
    return _flow(kernels, rounds, code, lambda heard: (heard.counts["stream"], heard.lines))


def updates(kernels: Kernels, count: int, rounds: int) -> Figures:
    """Messages a second of display updates, and how many arrived at worst."""
    code = _updates(count, "str(number)")

    def counted(heard: Heard) -> tuple[int, int]:
        return (heard.counts["update_display_data"],) * 2

    return _flow(kernels, rounds, code, counted)


def text(kernels: Kernels, rounds: int, size: int = MESSAGE_BYTES) -> Figures:
    """MB a second of one display of text, made before the clock starts."""
    return _large(kernels, rounds, size, f"text = 'x' * {size}", "display({'text/plain': text}, raw=True)", "del text")


def comm(kernels: Kernels, rounds: int, size: int = MESSAGE_BYTES) -> Figures:
    """MB a second of one comm message with one buffer."""
    before = (
        "from comm import create_comm\nchannel = create_comm(target_name='benchmark')\n"
        f"data = memoryview(b'x' * {size})"
    )
    return _large(kernels, rounds, size, before, "channel.send({}, buffers=[data])", "del data; channel.close()")


def gibibyte(kernels: Kernels) -> Figures:
    """Whether one text output of 1 GiB arrives, and after how many seconds."""
    figures: Figures = {}
    for name, kernel in kernels.items():
        heard = kernel.run(f"display({{'text/plain': 'x' * {GIBIBYTE}}}, raw=True)", quiet_s=90)
        arrived = heard.largest >= GIBIBYTE
        figures[name] = {"arrived": arrived, "seconds": heard.largest_s if arrived else None}
    return figures


def stalled(
    make: Mapping[str, Callable[[], Kernel]], count: int = STALLED_UPDATES, stall_s: float = STALL_S
) -> Figures:
    """A client that reads nothing for a while under updates of 2 kB: how many it gets, and whether the idle."""
    figures: Figures = {}
    for name, factory in make.items():
        kernel = factory()
        kernel.start()
        try:
            heard = kernel.run(_updates(count, "'x' * 2000"), quiet_s=10, stall_s=stall_s)
        finally:
            kernel.stop()
        figures[name] = {"arrived": heard.counts["update_display_data"], "of": count, "idle": heard.idle_s is not None}
    return figures


def start(make: Mapping[str, Callable[[], Kernel]], rounds: int, pause_s: float) -> Figures:
    """Seconds from the start of a fresh kernel to its first output, and to the end of that cell.

    ``pause_s`` before each start is for a service to get another kernel ready, which is what a user gives it too.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in make}
    for name, factory in _in_turn(make, rounds):
        time.sleep(pause_s)
        kernel = factory()
        try:
            found[name].append(first_cell(kernel))
        finally:
            kernel.stop()
    return {
        name: {
            "first_output": statistics.median(first for first, _ in times),
            "done": statistics.median(done for _, done in times),
        }
        for name, times in found.items()
    }


def _in_turn(things: Mapping[str, Any], rounds: int) -> Iterator[tuple[str, Any]]:
    for _ in range(rounds):
        yield from things.items()


def _updates(count: int, value: str) -> str:
    return (
        "shown = display({'text/plain': ''}, raw=True, display_id=True)\n"
        f"for number in range({count}):\n    shown.update({{'text/plain': {value}}}, raw=True)"
    )


def _flow(kernels: Kernels, rounds: int, code: str, counted: Callable[[Heard], tuple[int, int]]) -> Figures:
    rates: dict[str, list[float]] = {name: [] for name in kernels}
    arrived: dict[str, list[int]] = {name: [] for name in kernels}
    for name, kernel in _in_turn(kernels, rounds):
        heard = kernel.run(code, quiet_s=10)
        messages, whole = counted(heard)
        rates[name].append(messages / heard.done_s if heard.done_s else 0.0)
        arrived[name].append(whole)
    return {name: {"per_second": statistics.median(rates[name]), "arrived": min(arrived[name])} for name in kernels}


def _large(kernels: Kernels, rounds: int, size: int, before: str, code: str, after: str) -> Figures:
    rates: dict[str, list[float]] = {name: [] for name in kernels}
    for name, kernel in _in_turn(kernels, rounds):
        if 0.0 in rates[name]:
            continue  # lost once, lost again
        heard = kernel.run(before)
        if heard.error:
            raise RuntimeError(f"{name}: {heard.error}")
        touch(8 * size)
        heard = kernel.run(code, quiet_s=15)
        rates[name].append(size / heard.largest_s / 1e6 if heard.largest >= size else 0.0)
        kernel.run(after)
    return {name: {"mb_per_second": statistics.median(found) if min(found) else LOST} for name, found in rates.items()}
