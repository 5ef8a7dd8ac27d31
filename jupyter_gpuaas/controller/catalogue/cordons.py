"""Nodes that take no new sessions, by request, in the database."""

from __future__ import annotations

from pathlib import Path

import msgspec
from sqlalchemy import Column, String, Table, delete, insert, select

from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.tables import metadata

cordons = Table("cordons", metadata, Column("node", String(256), primary_key=True))


class CordonRows:
    """Reads and writes them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> frozenset[str]:
        """Ids of cordoned nodes, be they there now or not."""
        with self._database.reading() as connection:
            return frozenset(connection.execute(select(cordons.c.node)).scalars())

    def set(self, node_id: str, *, cordoned: bool) -> None:
        """Cordon a node, or end that."""
        with self._database.writing() as connection:
            connection.execute(delete(cordons).where(cordons.c.node == node_id))
            if cordoned:
                connection.execute(insert(cordons).values(node=node_id))

    def take_over(self, file: Path) -> None:
        """Take over, once, what an earlier version has kept in a file."""
        try:
            found = msgspec.json.decode(file.read_bytes(), type=list[str])
        except FileNotFoundError:
            return
        for node_id in found:
            self.set(node_id, cordoned=True)
        file.unlink()
