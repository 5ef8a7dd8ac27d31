"""The cells of a session as they lie in a checkpoint: in blocks, so that a new cell writes only the last one anew.

What is too long ago is folded into one record without source that had made all that the dropped cells had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..store.manifest import Verdict
from ..wire.unreadable import UNREADABLE
from .recipes import CellRecord

#: Cells with neighbouring numbers lie together.
BLOCK_CELLS = 32
MOST_CELLS = 4096
_STEP = MOST_CELLS // 2
MOST_BYTES = 16 * 1024**2
_PREFIX = "<cells "


class CellLog:
    """Packs the cells of one session again and again; what has not changed is the very object of the time before."""

    def __init__(self) -> None:
        self._blocks: dict[int, tuple[tuple[CellRecord, ...], bytes]] = {}

    def pack(self, cells: Sequence[CellRecord]) -> dict[str, bytes]:
        """Names and values of the blocks."""
        blocks: dict[int, list[CellRecord]] = {}
        # By half of them at a time, so that what is left does not move with each cell.
        for cell in folded(cells, (len(cells) - 1) // _STEP * _STEP - _STEP) if len(cells) > MOST_CELLS else cells:
            blocks.setdefault(cell.number // BLOCK_CELLS, []).append(cell)
        packed = {}
        for number, members in blocks.items():
            before = self._blocks.get(number)
            records = tuple(members)
            same = before is not None and before[0] == records
            packed[number] = before if same and before is not None else (records, msgspec.msgpack.encode(records))
        self._blocks = packed
        if sum(len(data) for _, data in packed.values()) > MOST_BYTES and len(cells) > BLOCK_CELLS:
            return self.pack(folded(cells, len(cells) // 2))
        return {f"{_PREFIX}{number}>": data for number, (_, data) in packed.items()}


def folded(cells: Sequence[CellRecord], count: int) -> list[CellRecord]:
    """The cells without so many of the oldest; what these made is said by one record."""
    old, new = cells[:count], cells[count:]
    names = sorted({name for cell in old for name in cell.writes})
    return [CellRecord(old[-1].number, "", (), tuple(names), 0.0, ("was made too long ago",)), *new]


def is_block(name: str) -> bool:
    """Whether it is a block's name among those of hidden state."""
    return name.startswith(_PREFIX)


def unpack(values: Mapping[str, object]) -> list[CellRecord]:
    """The cells of the blocks among these values, in order.

    Raises
    ------
    ValueError
        They are not what ``pack`` gave.
    """
    cells: list[CellRecord] = []
    for name, value in values.items():
        if is_block(name) and isinstance(value, bytes):
            try:
                cells += msgspec.msgpack.decode(value, type=list[CellRecord])
            except UNREADABLE as error:
                raise ValueError(f"{name}: {error}") from error
    return sorted(cells, key=lambda cell: cell.number)


def is_whole(verdicts: Mapping[str, Verdict]) -> bool:
    """Whether all blocks were restored: of a history with a gap nothing can be told."""
    return all(verdict.outcome != "lost" for name, verdict in verdicts.items() if is_block(name))
