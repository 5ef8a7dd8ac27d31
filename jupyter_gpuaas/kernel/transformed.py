"""What IPython makes of a cell's text, made once a cell."""

from __future__ import annotations

from collections.abc import Callable


class TransformedOnce:
    """Stands for the shell's ``transform_cell`` and keeps what it made of the last text, until ``forget``.

    ipykernel asks before it runs a cell, IPython when it runs it, and we before and after; each time costs about a
    tenth of a short cell, and runs the user's own transformers once more.
    """

    def __init__(self, transform: Callable[[str], str]) -> None:
        self._transform = transform
        self._last: tuple[str, str] | None = None

    def __call__(self, raw_cell: str) -> str:
        last = self._last  # subshells ask in threads of their own
        if last is not None and last[0] == raw_cell:
            return last[1]
        made = self._transform(raw_cell)
        self._last = raw_cell, made
        return made

    def forget(self) -> None:
        """The cell has ended: it may have changed the transformers."""
        self._last = None
