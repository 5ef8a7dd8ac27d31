"""How the outcome of a case is judged: what excuses a check that fails, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.state.cases import HONEST, Case
from tests.state.fresh import _judge

_LOST = ("lost", "is a socket")


def _loaded(report: dict[str, tuple[str, str]], kind: str = "", said: str = "", **more: Any) -> dict[str, Any]:
    check = {"kind": kind, "said": said} if kind else None
    return {"report": report, "untold": [], "check": check, "witness": None, "strict": None} | more


@pytest.mark.parametrize(
    ("loaded", "outcome"),
    [
        (_loaded({}), "exact"),
        (_loaded({}, "AssertionError", "AssertionError:  [assert a]"), "wrong"),
        (_loaded({}, "NameError", "NameError: a"), "gone"),
        (_loaded({"a": ("rebuilt", "anew")}), "rebuilt"),
        (_loaded({"a": ("rebuilt", "anew")}, "AssertionError", "AssertionError:  [assert a]"), "wrong"),
        (_loaded({"a": _LOST}), "reported"),
        (_loaded({"a": _LOST}, "NameLost", "NameLost: a was not restored"), "reported"),
        (_loaded({"a": _LOST}, "AssertionError", "AssertionError:  [assert b is a]"), "reported"),
        (_loaded({"a": _LOST}, "AssertionError", "AssertionError: a [assert b == 1]"), "wrong"),
        (_loaded({"<patches>": _LOST}), "wrong"),
        (_loaded({"<patches>": _LOST, "a": _LOST}, "NameLost", "NameLost: a"), "wrong"),
        (_loaded({"<locale>": _LOST}, "AssertionError", "AssertionError:  [assert b == 1]"), "reported"),
        (_loaded({}, untold=["a"]), "wrong"),
        (_loaded({"a": _LOST}, witness={"said": "harmed"}), "wrong"),
        (_loaded({}, strict={"said": "another object"}), "wrong"),
        ({"error": "ImportError"}, "refused"),
        ({"error": "did not end", "hung": True}, "hung"),
    ],
)
def test_verdict(loaded: dict[str, Any], outcome: str) -> None:
    case = Case("hidden", "a case", ["a = 1"], "assert a", HONEST, loses=("locale",))
    assert _judge(loaded, case).outcome == outcome
