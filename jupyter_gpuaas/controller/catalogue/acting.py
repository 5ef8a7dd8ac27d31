"""The lease of the one controller that acts, in the database: one row, changed only by compare-and-swap."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
from sqlalchemy import select, update

from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.tables import controller_lease
from jupyter_gpuaas.lifecycle.acting import Row

_row = controller_lease.c


class ActingLease:
    """The row as one controller uses it; every method takes a round trip, so they are for threads."""

    def __init__(self, database: Database, *, holder: str, url: str, ttl_s: float) -> None:
        self._database = database
        self._mine = {"holder": holder, "url": url, "ttl_s": ttl_s}
        #: Shown to the holder by those who wait: who can read the database is a controller.
        self.key = ""
        #: 0 as long as it is not held.
        self.term = 0

    def look(self) -> Row:
        """The lease as it is."""
        with self._database.reading() as connection:
            wanted = select(_row.term, _row.beat, _row.holder, _row.url, _row.ttl_s, _row.key)
            found = connection.execute(wanted).one()
        row = Row(*found)
        # A holder from before there were keys leaves that of an earlier one where it is.
        return row if row.key.startswith(_key_of(row.term)) else msgspec.structs.replace(row, key="")

    def take(self, seen: Row) -> bool:
        """Take it, if it still is as it was seen; from then on the database refuses what an earlier term writes."""
        key = _key_of(seen.term + 1) + secrets.token_urlsafe(32)
        new = {"term": seen.term + 1, "beat": 0, "key": key, **self._mine}
        if not self._swap((_row.term == seen.term) & (_row.beat == seen.beat), new):
            return False
        self.term, self.key = seen.term + 1, key
        self._database.fence(self.term)
        return True

    def renew(self) -> bool:
        """Say that its holder lives; False when somebody else has it."""
        return self._swap(_row.term == self.term, {"beat": _row.beat + 1})

    def give_back(self, *, over: bool) -> None:
        """Let the next one take it at once, or with ``over`` tell those who wait that the service was ended."""
        self._swap(_row.term == self.term, {"holder": ""} | ({"ttl_s": -1.0} if over else {}))

    def _swap(self, this: Any, new: dict[str, Any]) -> bool:
        # Past the fence, which looks at the same row: what it would refuse is no error here, but the answer.
        with self._database.unfenced() as connection:
            return connection.execute(update(controller_lease).where(this).values(new)).rowcount == 1


def _key_of(term: int) -> str:
    """How the key of a term begins."""
    return f"{term}."
