"""What the figures are to reach, and the tables that show both."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from states import STATES
from systems import SYSTEMS

#: state -> system -> figure -> median; a system that failed has ``failed`` instead.
Found = dict[str, dict[str, dict[str, Any]]]
RIVALS = ("kishu", "elasticnotebook")
SLACK_S = 0.020

COLUMNS = [
    ("save_s", "save, s", "{:.2f}", 1),
    ("restore_s", "restore, s", "{:.2f}", 1),
    ("cold_s", "restore cold, s", "{:.2f}", 1),
    ("written", "MB", "{:,.0f}", 1e-6),
    ("change_stall_s", "1 %: next cell waits, ms", "{:,.0f}", 1000),
    ("change_s", "1 %: save, s", "{:.3f}", 1),
    ("change_written", "1 %: MB", "{:,.1f}", 1e-6),
]


def tables(results: dict[str, Any]) -> str:
    """All of a run, Markdown."""
    parts = []
    rates = results["limits"]
    if rates:
        lines = [["limit", "GB/s"], *([name, f"{rate / 1e9:.2f}"] for name, rate in rates.items())]
        parts.append(markdown(lines))
    for state, systems in results["states"].items():
        words = STATES[state].words
        size = next((found["state_bytes"] for found in systems.values() if "state_bytes" in found), 0)
        if size:
            words += f", {size / 1e6:,.0f} MB"
        lines = [[words, *(column for _, column, _, _ in COLUMNS), "restored"]]
        for system, found in systems.items():
            shown = [_show(found.get(figure), form, factor) for figure, _, form, factor in COLUMNS]
            lines.append([SYSTEMS[system].words, *shown, found.get("failed") or _restored(found["wrong"])])
        parts.append(markdown(lines))
    if results["cells"]:
        lines = [["cells that change 1 % of 2 GB", *results["cells"]]]
        for what, form in (
            ("next cell waits, ms", lambda found: f"{1000 * median(found['stalls_s']):.1f}"),
            ("until durable, ms", lambda found: f"{1000 * median(found['seconds']):.0f}"),
            ("written, MB", lambda found: f"{median(found['written']) / 1e6:.2f}"),
            ("written at most, MB", lambda found: f"{max(found['written']) / 1e6:.2f}"),
            ("changed, MB", lambda found: f"{found['changed'] / 1e6:.2f}"),
            ("a cell of `pass`: next cell waits, ms", lambda found: f"{1000 * median(found['pass_s']):.2f}"),
            ("first save, s", lambda found: f"{found['first_s']:.2f}"),
            ("memory at most, MB", lambda found: f"{found['peak_mb']:,}"),
        ):
            lines.append([what, *(form(found) for found in results["cells"].values())])
        parts.append(markdown(lines))
    lines = [["target", "measured", ""]]
    lines += [[what, measured, "reached" if met else "**missed**"] for what, measured, met in verdicts(results)]
    if len(lines) > 1:
        parts.append(markdown(lines))
    return "\n\n".join(parts)


def verdicts(results: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """(target, what was measured, reached) for each target whose figures are there."""
    for state, systems in results["states"].items():
        ours = systems.get("ours")
        if ours is None:
            continue
        words = STATES[state].words
        if "failed" in ours:
            yield f"{words}: saved and restored", ours["failed"], False
            continue
        yield f"{words}: restored as it was", _restored(ours["wrong"]), not ours["wrong"]
        others = {name: found for name, found in systems.items() if name != "ours" and "failed" not in found}
        if results["limits"] and state != "objects":
            yield from _to_limits(words, state, ours, results["limits"])
        saves = {name: found["save_s"] for name, found in systems.items() if "failed" not in found}
        fastest = min(saves, key=saves.__getitem__)
        times = saves[fastest] / ours["change_s"]
        what = f"{words}: 1 % changed >= 20 x faster than the fastest full save"
        yield what, f"{times:.1f} x ({SYSTEMS[fastest].words}: {saves[fastest]:.2f} s)", times >= 20
        if state == "objects":
            for figure, verb in (("save_s", "save"), ("restore_s", "restore")):
                yield from _rival(f"{words}, {verb}: no slower than", ours, others, "cloudpickle", figure, 1.0)
                yield from _rival(f"{words}, {verb}: >= 5 x faster than", ours, others, "kishu", figure, 5.0)
        for rival in RIVALS:
            for figure, what in (
                ("save_s", "save"),
                ("restore_s", "restore"),
                ("change_s", "1 % changed"),
                ("pass_stall_s", "`pass`"),
            ):
                if figure in ours:
                    yield from _rival(f"{words}, {what}: never slower than", ours, others, rival, figure, 1.0)
    yield from _of_cells(results["cells"])


def _to_limits(
    words: str, state: str, ours: dict[str, Any], rates: dict[str, float]
) -> Iterator[tuple[str, str, bool]]:
    size = ours["state_bytes"]
    raw_s = size / rates["write + fsync"]
    yield f"{words}: full save >= 0.7 x raw write", f"{raw_s / ours['save_s']:.2f} x", raw_s / ours["save_s"] >= 0.7
    limit = max(rates["read, cached, fresh pages"], rates["memcpy into fresh pages"])
    times = size / limit / ours["restore_s"]
    yield f"{words}: restore >= 0.7 x read or memcpy into fresh pages", f"{times:.2f} x", times >= 0.7
    if "cold_s" in ours:
        times = size / rates["read, cold, fresh pages"] / ours["cold_s"]
        yield f"{words}: restore, cold >= 0.7 x raw read, cold", f"{times:.2f} x", times >= 0.7
    allowed_s = 1.3 * ours["change_written"] / rates["memcpy"] + SLACK_S
    stall_s = ours["change_stall_s"]
    what = f"{words}: 1 % changed, next cell waits <= 1.3 x memcpy + 20 ms"
    yield what, f"{1000 * stall_s:.1f} ms of {1000 * allowed_s:.1f}", stall_s <= allowed_s


def _rival(
    words: str, ours: dict[str, Any], others: Found | dict[str, Any], rival: str, figure: str, least: float
) -> Iterator[tuple[str, str, bool]]:
    if rival in others and figure in others[rival]:
        theirs, mine = others[rival][figure], ours[figure]
        shown = f"{theirs / mine:.2f} x ({mine:.3f} s against {theirs:.3f} s)"
        yield f"{words} {SYSTEMS[rival].words}", shown, theirs / mine >= least


def _of_cells(cells: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    for name, found in cells.items():
        allowed, most = 1.1 * found["changed"] + 1e6, max(found["written"])
        shown = f"{most / 1e6:.2f} MB at most, of {allowed / 1e6:.2f}"
        yield f"{name}: {len(found['written'])} cells write <= 1.1 x changed + 1 MB each", shown, most <= allowed
        idle = 1000 * median(found["pass_s"])
        yield f"{name}: a cell of `pass` <= 5 ms", f"{idle:.2f} ms", idle <= 5
    if len(cells) == 2:
        small, large = (median(found["stalls_s"]) for found in cells.values())
        shown = f"{1000 * large:.1f} ms against {1000 * small:.1f} ms"
        yield "more untouched state: the same a cell (within 10 % + 1 ms)", shown, large <= 1.1 * small + 0.001


def _restored(wrong: list[str]) -> str:
    return f"**wrong**: {', '.join(wrong)}" if wrong else "right"


def _show(value: Any, form: str, factor: float) -> str:
    return "-" if value is None else form.format(factor * value)


def markdown(lines: list[list[str]]) -> str:
    """A table; the first line is its head."""
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    shown.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(shown)
