"""Cells that are not answered, as the records of a journal tell of them.

The records that tell of a cell go with their segments, long before the cell ends if it says much. So each segment that
lacks the request of a cell under way gets a record that names all of them (kind REQUEST, message type ``MSG_TYPE``,
which clients pass over): from any segment on, a journal tells what a dead host's successor has to know. Being one
record, it is there wholly or not at all, so that no cell is lost and none comes before an older one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import msgspec

from ..wire.jupyter import make_parts, read_header
from ..wire.record import Buffer, Kind
from ..wire.unreadable import UNREADABLE

MSG_TYPE = "gpuaas_unanswered"
#: How the topics of messages end that tell that a cell has begun.
STATUS = b"status"
#: Of a request that is too large to be told again: address and header. It can be answered, and not run again.
HEAD_PARTS = 2


class Cell(msgspec.Struct, eq=False):
    """One of them."""

    #: Of the record that told of it first; 0 for one of a former host.
    number: int
    #: Of its request, or ``HEAD_PARTS`` of them.
    parts: tuple[bytes, ...]
    #: The kernel has said so.
    begun: bool = False


class _Told(msgspec.Struct, array_like=True):
    parts: tuple[bytes, ...]
    begun: bool


class Unanswered:
    """Takes records in their order, as they are said or as they are read.

    Parameters
    ----------
    most_bytes
        Of a larger request, only the head is kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        #: By msg_id, oldest first.
        self.cells: dict[str, Cell] = {}

    def take(self, kind: Kind, number: int, parts: Sequence[Buffer]) -> None:
        """The next record; what cannot be read tells nothing."""
        try:
            if kind is Kind.REQUEST:
                self._asked(number, parts)
            elif kind is Kind.SHELL:
                self.cells.pop(read_header(parts[2]).msg_id, None)
            elif kind is Kind.IOPUB and self.cells and bytes(parts[0]).endswith(STATUS):
                cell = self.cells.get(read_header(parts[2]).msg_id)
                if cell is not None:
                    cell.begun = True
        except UNREADABLE:
            return

    def _asked(self, number: int, parts: Sequence[Buffer]) -> None:
        header = read_header(parts[1])
        if header.msg_type == MSG_TYPE:
            self._told(number, parts[5])
            return
        kept = parts if sum(map(len, parts)) <= self._most_bytes else parts[:HEAD_PARTS]
        self.cells.pop(header.msg_id, None)
        self.cells[header.msg_id] = Cell(number, tuple(map(bytes, kept)))

    def _told(self, number: int, data: Buffer) -> None:
        known, self.cells = self.cells, {}
        for told in msgspec.msgpack.decode(data, type=list[_Told]):
            msg_id = read_header(told.parts[1]).msg_id
            cell = self.cells[msg_id] = known.get(msg_id) or Cell(number, told.parts)
            cell.begun |= told.begun

    def lacks(self, first: int) -> bool:
        """Whether the request of the oldest one came before this record."""
        return any(cell.number < first for cell in islice(self.cells.values(), 1))

    def message(self, most_bytes: int) -> list[Buffer] | None:
        """What names them all; None when they are too many for that.

        Parameters
        ----------
        most_bytes
            Of requests that are told whole, and as much again of the heads of others.
        """
        told, size = [], 0
        for cell in self.cells.values():
            whole = size + sum(map(len, cell.parts)) <= most_bytes
            parts = cell.parts if whole else cell.parts[:HEAD_PARTS]
            size += sum(map(len, parts))
            told.append(_Told(parts, cell.begun))
        if size > 2 * most_bytes:
            return None
        return [*make_parts(b"", MSG_TYPE, b"{}", {}), msgspec.msgpack.encode(told)]
