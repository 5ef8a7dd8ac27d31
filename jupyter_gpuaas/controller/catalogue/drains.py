"""Nodes that are emptied, or were, in the database."""

from __future__ import annotations

import msgspec
from sqlalchemy import Column, LargeBinary, String, Table, delete, insert, select

from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.tables import metadata
from jupyter_gpuaas.model import DrainView

drains = Table(
    "drains",
    metadata,
    Column("node", String(256), primary_key=True),
    # The whole record as JSON.
    Column("record", LargeBinary, nullable=False),
)


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """The last time that a node was emptied, or is."""

    view: DrainView
    #: Who asked for it, and with what.
    cause: str
    accept_loss: bool


class DrainRows:
    """Reads and writes them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Drain]:
        """One for each node that was ever emptied and is not forgotten."""
        with self._database.reading() as connection:
            found = connection.execute(select(drains.c.record).order_by(drains.c.node)).scalars().all()
        return [msgspec.json.decode(record, type=Drain) for record in found]

    def keep(self, drain: Drain) -> None:
        """Write one down, instead of an earlier one of its node."""
        node_id = drain.view.node
        with self._database.writing() as connection:
            connection.execute(delete(drains).where(drains.c.node == node_id))
            connection.execute(insert(drains).values(node=node_id, record=msgspec.json.encode(drain)))

    def forget(self, node_id: str) -> None:
        """Forget what is known of a node."""
        with self._database.writing() as connection:
            connection.execute(delete(drains).where(drains.c.node == node_id))
