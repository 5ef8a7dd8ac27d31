"""What has run since the last capture, and which variables it may have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .beside import Beside

#: Cells between two captures that are analysed one by one; after more, everything is looked at.
MOST_SOURCES = 200


class Since:
    """Written by the main thread; ``doubt`` comes from the writer's, too.

    Parameters
    ----------
    shell
        IPython's shell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._sources: list[str] = []
        #: The same sources without magics.
        self._plain: dict[str, str] = {}
        self._beside = Beside()
        #: How many of them count as cells.
        self.cells = 0
        #: Number of the last cell.
        self.number = 0
        #: Something of the user's ran that is no cell.
        self.aside = False
        #: Something may have changed variables that no source tells of.
        self._unknown = True

    def ran(self, sources: Sequence[str], *, number: int, counts: bool) -> None:
        """Code of the user's has run; ``counts`` if as a cell."""
        self._sources += sources
        if len(self._sources) > MOST_SOURCES:
            self.all_new()
        if counts:
            self.cells += 1
            # A shipped cell has no number here.
            self.number = number or self.number + 1

    def means(self, code: str, source: str) -> None:
        """This code, which is about to run, is this source without magics."""
        self._plain[code] = source

    def something_else(self) -> None:
        """Something may have changed variables beside the cells."""
        self._unknown = self.aside = True

    def doubt(self) -> None:
        """The last capture may be worth nothing: look at everything."""
        self._unknown = True

    def all_new(self) -> None:
        """Whatever has run, everything is to be looked at."""
        self._unknown = True
        self._forget()

    def captured(self) -> None:
        """There is a capture of it."""
        self._forget()
        self.cells, self.aside = 0, False
        self._unknown = self._beside.runs()

    def restored(self, number: int) -> None:
        """The variables are those after this cell."""
        self.all_new()
        self.cells, self.number = 0, number

    @property
    def source(self) -> str:
        """All that has run."""
        return "\n".join(self._sources)

    @property
    def beside(self) -> bool:
        """Whether anything ran, or runs, that is no cell."""
        return self.aside or self._beside.runs()

    def touched(self, by: Callable[[list[str]], frozenset[str] | None]) -> frozenset[str] | None:
        """Names that may have changed; None for all.

        Parameters
        ----------
        by
            Tells it of sources without magics.
        """
        if self._unknown or self._beside.runs():
            return None
        try:
            for source in self._sources:
                if source not in self._plain:
                    self._plain[source] = self._shell.transform_cell(source)
            return by([self._plain[source] for source in self._sources])
        except Exception:  # an input transformer of the user's may raise anything
            return None

    def _forget(self) -> None:
        self._sources.clear()
        self._plain.clear()
