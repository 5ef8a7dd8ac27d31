"""Which checkpoints need not be kept any longer."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Kept(msgspec.Struct, frozen=True):
    """What retention looks at; a ``Manifest`` has these fields too."""

    id: str
    created_s: float
    #: The user's name for it; empty for automatic ones.
    label: str = ""


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long checkpoints of one session stay. The newest one always does."""

    #: So many of the newest unnamed ones; 0 for no limit.
    keep_last: int = 0
    #: Named ones stay whatever the other rules say.
    keep_named: bool = True
    #: Older ones go; 0 for no limit.
    max_age_s: float = 0.0


def to_forget(checkpoints: Iterable[Kept], rule: Retention, *, now_s: float) -> list[str]:
    """Ids that the rule gives up.

    Parameters
    ----------
    checkpoints
        Of one session, oldest commit first.
    """
    newest_first = list(checkpoints)[::-1]
    forget = []
    kept = 0
    for number, checkpoint in enumerate(newest_first):
        if checkpoint.label and rule.keep_named:
            continue
        too_many = rule.keep_last and kept >= rule.keep_last
        too_old = rule.max_age_s and now_s - checkpoint.created_s > rule.max_age_s
        if number and (too_many or too_old):
            forget.append(checkpoint.id)
        else:
            kept += 1
    return forget[::-1]
