"""What the figures are to reach, and the tables that show both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from columns import LOST

PLAIN, OURS, TLS, GATEWAY = "plain", "ours", "tls", "gateway"
NAMES = {
    PLAIN: "plain ipykernel",
    OURS: "remote_gpu",
    TLS: "remote_gpu by TLS",
    GATEWAY: "gateway client + Kernel Gateway",
}

Results = dict[str, dict[str, dict[str, Any]]]

#: (column, figure, words, format)
LINES = [
    ("round_trip", "p50", "execute round trip p50, ms", "{:.2f}"),
    ("round_trip", "p99", "execute round trip p99, ms", "{:.2f}"),
    ("prints", "per_second", "flushed prints, messages/s", "{:,.0f}"),
    ("prints", "arrived", "lines that arrived, at worst", "{:,}"),
    ("updates", "per_second", "display updates, messages/s", "{:,.0f}"),
    ("updates", "arrived", "updates that arrived, at worst", "{:,}"),
    ("text", "mb_per_second", "100 MB text display, MB/s", "{:,.0f}"),
    ("comm", "mb_per_second", "100 MB comm buffer, MB/s", "{:,.0f}"),
    ("gibibyte", "arrived", "1 GiB text output arrived", "{}"),
    ("gibibyte", "seconds", "1 GiB text output, s", "{:.1f}"),
    ("stalled", "arrived", "client stalled 8 s: updates it got", "{:,}"),
    ("stalled", "idle", "client stalled 8 s: idle seen", "{}"),
    ("start", "first_output", "fresh session to first output, s", "{:.2f}"),
    ("start", "done", "fresh session to end of first cell, s", "{:.2f}"),
]


def verdicts(results: Results) -> Iterator[tuple[str, str, bool]]:
    """(what, target with what was measured, met) for each target whose figures are there."""

    def get(column: str, figure: str, row: str) -> Any:
        return results.get(column, {}).get(row, {}).get(figure)

    def ratio(column: str, figure: str, least: float, words: str) -> Iterator[tuple[str, str, bool]]:
        ours, plain = get(column, figure, OURS), get(column, figure, PLAIN)
        if ours == LOST:
            yield words, f">= {least:g} x plain: lost", False
        elif ours is not None and plain:
            yield words, f">= {least:g} x plain: {ours / plain:.2f} x", ours / plain >= least

    ours, plain, gateway = (get("round_trip", "p50", row) for row in (OURS, PLAIN, GATEWAY))
    if ours is not None and plain is not None:
        yield "round trip p50", f"<= plain + 1.5 ms: plain + {ours - plain:.2f} ms", ours <= plain + 1.5
    if ours is not None and gateway is not None:
        yield "round trip p50", f">= 10 x lower than gateway: {gateway / ours:.1f} x", gateway >= 10 * ours
    yield from ratio("prints", "per_second", 0.8, "prints")
    yield from ratio("updates", "per_second", 0.8, "updates")
    yield from ratio("text", "mb_per_second", 0.5, "100 MB text")
    yield from ratio("comm", "mb_per_second", 0.5, "100 MB buffer")
    if get("gibibyte", "arrived", OURS) is not None:
        yield "1 GiB text", "delivered", bool(get("gibibyte", "arrived", OURS))
    if (found := results.get("stalled", {}).get(OURS)) is not None:
        words = f"all {found['of']:,} and the idle: {found['arrived']:,}, idle {'seen' if found['idle'] else 'missing'}"
        yield "stalled client", words, found["arrived"] == found["of"] and found["idle"]
    ours, plain = get("start", "first_output", OURS), get("start", "first_output", PLAIN)
    if ours is not None and plain:
        yield "ready to run a cell", f"<= 1.3 x plain: {ours / plain:.2f} x", ours <= 1.3 * plain
    for way in ("push", "pull"):
        ours, rival = get("arrays", way, OURS), get("arrays", way, "ipyparallel")
        if ours is not None:
            yield f"1 GB array {way}", f">= 1 GB/s: {ours:.2f} GB/s", ours >= 1.0
            if rival is not None:
                yield f"1 GB array {way}", f">= 2 x ipyparallel: {ours / rival:.1f} x", ours >= 2 * rival


def table(results: Results, rows: list[str]) -> str:
    """The figures, Markdown."""
    lines = [["", *(NAMES[row] for row in rows)]]
    for column, figure, words, form in LINES:
        if column in results:
            lines.append([words, *(_show(results[column].get(row, {}).get(figure), form) for row in rows)])
    parts = [_markdown(lines)]
    if "arrays" in results:
        found = results["arrays"]
        lines = [["1 GB numpy array, GB/s", "push", "pull"]]
        lines += [
            [name, *(_show(rates.get(way), "{:.2f}") for way in ("push", "pull"))] for name, rates in found.items()
        ]
        parts.append(_markdown(lines))
    if "memory" in results:
        names = sorted({part for sizes in results["memory"].values() for part in sizes})
        lines = [["memory (PSS), MB", *names]]
        lines += [
            [when, *(_show(sizes.get(name), "{:.0f}") for name in names)] for when, sizes in results["memory"].items()
        ]
        parts.append(_markdown(lines))
    lines = [["target", "measured", ""]]
    lines += [[what, words, "met" if met else "**missed**"] for what, words, met in verdicts(results)]
    if len(lines) > 1:
        parts.append(_markdown(lines))
    return "\n\n".join(parts)


def _show(value: Any, form: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else form.format(value)


def _markdown(lines: list[list[str]]) -> str:
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    shown.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(shown)
