"""What becomes of cells that were under way when their session's host died, and what their user is told. Pure."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

ENAME = "NodeLost"
#: Of the newest cells, so many are looked at for what a loss has undone.
CELLS_TOLD = 100


def sort_out(unanswered: Iterable[tuple[K, str | None]], begun: Collection[K]) -> tuple[list[K], list[K]]:
    """Which unanswered cells may have had effects, and which certainly had none.

    Parameters
    ----------
    unanswered
        Each with its shell, oldest first. The oldest one of a shell may have begun before anybody heard of it.
    begun
        Those of which the kernel said that they had.
    """
    broken: list[K] = []
    unbegun: list[K] = []
    shells: set[str | None] = set()
    for key, shell in unanswered:
        (broken if key in begun or shell not in shells else unbegun).append(key)
        shells.add(shell)
    return broken, unbegun


def state_words(cell: int | None) -> str:
    """What the variables are now."""
    return (
        "its variables are those of its last checkpoint" if cell is None else f"its variables are as after cell {cell}"
    )


def broken_words(policy: str, cell: int | None) -> str:
    """What is told in a cell that was cut off."""
    text = (
        "the host of this session was lost while this cell ran, or before it was known to have begun. The session is "
        f"back; {state_words(cell)}"
    )
    return f"{text}, and what this cell did is lost: run it again." if policy == "ask" else f"{text}."


def lost_cells(answered: Sequence[int], cell: int | None) -> list[int]:
    """Cells that came to their end after the checkpoint, so that what they did to variables is lost."""
    if cell is None:
        return []
    lost: set[int] = set()
    for number in reversed(answered):
        if number <= cell:
            break
        lost.add(number)
    return sorted(lost)


def back_words(lost: Sequence[int], cell: int | None) -> str:
    """What a session is like that is back: its variables, and the cells whose effects on them are lost."""
    numbers = ", ".join(map(str, lost))
    more = f"; the effects of cell{'s' * (len(lost) > 1)} {numbers} on them are lost" if lost else ""
    return f"{state_words(cell)}{more}"


def notice(lost: Sequence[int], cell: int | None, why: str = "") -> str:
    """What is told in the stream of outputs."""
    reason = f": {why}" if why else ""
    back = f"The session is back; {back_words(lost, cell)}."
    return f"\n[remote GPU] The host of this session was lost{reason}. {back}\n"
