"""Which checkpoints a rule gives up."""

from __future__ import annotations

from jupyter_gpuaas.store import Kept, Retention, to_forget

TEN = [Kept(str(n), float(n), "best" if n in (2, 5) else "") for n in range(10)]


def forget(**rule: object) -> list[str]:
    return to_forget(TEN, Retention(**rule), now_s=10.0)  # type: ignore[arg-type]


def test_no_rule_forgets_nothing() -> None:
    assert forget() == []
    assert to_forget([], Retention(keep_last=1), now_s=0.0) == []


def test_keep_last_counts_unnamed_ones() -> None:
    assert forget(keep_last=3) == ["0", "1", "3", "4", "6"]
    assert forget(keep_last=100) == []


def test_named_ones_go_when_asked_for() -> None:
    assert forget(keep_last=3, keep_named=False) == ["0", "1", "2", "3", "4", "5", "6"]


def test_age() -> None:
    assert forget(max_age_s=4.5) == ["0", "1", "3", "4"]


def test_the_newest_always_stays() -> None:
    assert "9" not in forget(keep_last=1, max_age_s=0.1, keep_named=False)
    assert to_forget(TEN[:1], Retention(max_age_s=1.0), now_s=1e9) == []
