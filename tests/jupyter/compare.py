"""Whether two runs of one notebook gave the same outputs.

Two honest runs differ in what no user would call an output: random ids, durations, addresses,
names of temporary files, and where a kernel happened to cut a stream into messages. `normalise`
takes these away and nothing else, so that what is left must be equal to the last character.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# What may stand in text and says nothing. The order matters: a path is named before its parts.
# No rule may begin with an unbounded repetition: outputs are megabytes long.
_TEXT_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # Where ipykernel keeps the source of a cell: the process id, then a number made from the code.
    (re.compile(r"(?:/[\w.-]+)*/ipykernel_\d+/\d+\.py"), "ipykernel_N/N.py"),
    (re.compile(r"ipykernel_\d+"), "ipykernel_N"),
    (re.compile(r"(?:/[\w.-]+)*/tmp[a-z0-9_]{8}(?![a-z0-9_])"), "/TMP"),
    (re.compile(r"\b0x[0-9a-fA-F]{6,16}\b"), "0xADDRESS"),
    # tqdm: "| 3/10 [00:01<00:02,  3.41it/s]"; the bar takes the columns that the rate leaves.
    (
        re.compile(r"\[\d+(?::\d\d)+<(?:\?|\d+(?::\d\d)+),\s+(?:\?|[\d.]+)\s?(?:it/s|s/it)\]"),
        "[TIME]",
    ),
    (re.compile(r"\|[ \u2588-\u258f#\d]*\|(?= +\d+/\d+)"), "|BAR|"),
    # %time and %timeit
    (re.compile(r"(?m)^(CPU times|Wall time): .*$"), r"\1: TIME"),
    (re.compile(r"\b[\d.]{1,12} \S{1,3} \S{1,3} [\d.]{1,12} \S{1,3} per loop"), "TIME per loop"),
)
_UUID = re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b")
# Widget models are named by 32 hex digits, which elsewhere are somebody's digest and do matter.
_MODEL_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_WIDGET_MIME = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Difference:
    """One thing that two runs do not have in common.

    ``where`` names the cell by its number among all cells, from 0, and the output within it.
    """

    where: str
    expected: str
    received: str

    def __str__(self) -> str:
        return f"{self.where}\n  expected: {self.expected}\n  received: {self.received}"


@dataclass
class _Names:
    """Gives each random id a name by the order in which the ids appear.

    So two ids that were swapped, or one that took the place of another, still differ.
    """

    seen: dict[str, str] = field(default_factory=dict)

    def __call__(self, found: re.Match[str]) -> str:
        return self.seen.setdefault(found[0], f"ID{len(self.seen) + 1}")


def normalise(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run said, without what differs from one honest run to the next.

    Parameters
    ----------
    notebook
        A notebook that was run, as nbformat 4 has it; it is not changed.

    Returns
    -------
    ``cells``: per code cell its number, execution count and outputs; ``prompts``: what `input`
    asked, where the runner noted it; ``widgets``: the state of the widget models.
    """
    names = _Names()
    metadata = notebook.get("metadata", {})
    cells = [
        {
            "cell": number,
            "count": cell.get("execution_count"),
            "outputs": [_output(out, names) for out in _coalesced(cell.get("outputs", []))],
        }
        for number, cell in enumerate(notebook["cells"])
        if cell["cell_type"] == "code"
    ]
    widgets = metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    return {
        "cells": cells,
        "prompts": [_text(prompt, names) for prompt in metadata.get("prompts", [])],
        "widgets": _widget_data(widgets.get("state", {}), names),
    }


def differences(expected: Mapping[str, Any], received: Mapping[str, Any]) -> list[Difference]:
    """Return where two runs of one notebook differ, in the order of the notebook; [] if nowhere."""
    a, b = normalise(expected), normalise(received)
    found: list[Difference] = []
    if len(a["cells"]) != len(b["cells"]):
        found.append(Difference("code cells", str(len(a["cells"])), str(len(b["cells"]))))
    for left, right in zip(a["cells"], b["cells"], strict=False):
        where = f"cell {left['cell']}"
        if left["count"] != right["count"]:
            found.append(Difference(f"{where}, execution count", str(left["count"]), str(right["count"])))
        found.extend(_output_differences(where, left["outputs"], right["outputs"]))
    for name in ("prompts", "widgets"):
        if a[name] != b[name]:
            found.append(_difference(name, a[name], b[name]))
    return found


def assert_same(expected: Mapping[str, Any], received: Mapping[str, Any]) -> None:
    """Raise AssertionError that lists each difference, if there is any."""
    found = differences(expected, received)
    if found:
        raise AssertionError(f"{len(found)} difference(s):\n" + "\n".join(map(str, found)))


def _coalesced(outputs: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """Join each run of stream outputs into one output per stream, stdout first.

    A kernel sends stdout and stderr from two buffers that it empties by a clock, so how they
    interleave is chance; within one stream the order is not, and neither is the order between
    streams and everything else.
    """
    pending: dict[str, str] = {}

    def flush() -> Iterable[Mapping[str, Any]]:
        for name in sorted(pending, reverse=True):
            yield {"output_type": "stream", "name": name, "text": pending[name]}
        pending.clear()

    for output in outputs:
        if output["output_type"] == "stream":
            pending[output["name"]] = pending.get(output["name"], "") + _joined(output["text"])
        else:
            yield from flush()
            yield output
    yield from flush()


def _output(output: Mapping[str, Any], names: _Names) -> dict[str, Any]:
    kind = output["output_type"]
    if kind == "stream":
        return {"kind": kind, "name": output["name"], "text": _text(output["text"], names)}
    if kind == "error":
        return {
            "kind": kind,
            "ename": output["ename"],
            "evalue": _text(output["evalue"], names),
            "traceback": _text("\n".join(output["traceback"]), names),
        }
    return {
        "kind": kind,
        "count": output.get("execution_count"),
        "data": {mime: _mime(mime, value, names) for mime, value in output["data"].items()},
        "metadata": _nested(output.get("metadata", {}), lambda text: _text(text, names)),
    }


def _mime(mime: str, value: Any, names: _Names) -> Any:
    if mime == _WIDGET_MIME:
        return _widget_data(value, names)
    if mime.startswith("image/") and mime != "image/svg+xml":
        return "".join(_joined(value).split())  # base64, broken into lines by some writers
    if isinstance(value, (str, list)):
        return _nested(value, lambda text: _text(text, names)) if "json" in mime else _text(value, names)
    return _nested(value, lambda text: _text(text, names))


def _widget_data(value: Any, names: _Names) -> Any:
    return _nested(value, lambda text: _text(_MODEL_ID.sub(names, text), names))


def _nested(value: Any, change: Callable[[str], str]) -> Any:
    """Apply ``change`` to every string in a JSON value, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _nested(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_nested(item, change) for item in value]
    return value


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _text(text: str | list[str], names: _Names) -> str:
    result = _joined(text)
    for pattern, replacement in _TEXT_RULES:
        result = pattern.sub(replacement, result)
    return _UUID.sub(names, result)


def _output_differences(
    where: str, expected: list[dict[str, Any]], received: list[dict[str, Any]]
) -> Iterable[Difference]:
    for number in range(max(len(expected), len(received))):
        place = f"{where}, output {number}"
        if number >= len(received):
            yield Difference(place, _short(expected[number]), "nothing")
        elif number >= len(expected):
            yield Difference(place, "nothing", _short(received[number]))
        elif expected[number] != received[number]:
            yield _difference(place, expected[number], received[number])


def _difference(where: str, expected: Any, received: Any) -> Difference:
    """Say where two values part: for streams by line, else by what is in one of them only."""
    left, right = _lines(expected), _lines(received)
    for number, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return Difference(f"{where}, line {number}", _short(a), _short(b))
    longer, side = (left, "expected") if len(left) > len(right) else (right, "received")
    extra = longer[min(len(left), len(right)) :]
    shown = f"{len(extra)} more line(s), first {_short(extra[0] if extra else '')}"
    return Difference(
        where,
        shown if side == "expected" else f"{len(left)} line(s)",
        shown if side == "received" else f"{len(right)} line(s)",
    )


def _lines(value: Any) -> list[str]:
    if isinstance(value, Mapping) and "text" in value:
        return [f"{value['kind']} {value['name']}", *value["text"].split("\n")]
    return json.dumps(value, indent=1, sort_keys=True, default=str).split("\n")


def _short(value: Any, most: int = 240) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return repr(text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)")


def report(expected: Mapping[str, Any], received: Mapping[str, Any], context: int = 1) -> str:
    """Return a line-by-line diff of two runs, for a person to read."""
    left, right = (json.dumps(normalise(n), indent=1).split("\n") for n in (expected, received))
    return "\n".join(difflib.unified_diff(left, right, "expected", "received", n=context))
