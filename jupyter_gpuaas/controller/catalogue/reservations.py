"""Reservations, in the database."""

from __future__ import annotations

import msgspec
from sqlalchemy import Boolean, Column, Float, Integer, String, Table, Text, delete, insert, select, update

from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.tables import metadata
from jupyter_gpuaas.model import Reservation

reservations = Table(
    "reservations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("user", String(256), nullable=False),
    Column("devices", Integer, nullable=False),
    Column("from_s", Float, nullable=False),
    Column("until_s", Float, nullable=False),
    Column("kind", String(64), nullable=True),
    Column("node", String(256), nullable=True),
    Column("label", Text, nullable=False),
    Column("made_by", String(256), nullable=False),
    # What was announced of it.
    Column("begun", Boolean, nullable=False),
    Column("noticed", Boolean, nullable=False),
)


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A reservation, and what was announced of it."""

    reservation: Reservation
    begun: bool = False
    noticed: bool = False


class ReservationRows:
    """Reads and writes them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Kept]:
        """All that have not been dropped, the earliest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(reservations).order_by(reservations.c.from_s)).mappings().all()
        names = Reservation.__struct_fields__
        return [
            Kept(
                reservation=Reservation(**{name: row[name] for name in names}),
                begun=bool(row["begun"]),
                noticed=bool(row["noticed"]),
            )
            for row in rows
        ]

    def add(self, reservation: Reservation) -> None:
        """A new one."""
        row = msgspec.structs.asdict(reservation) | {"begun": False, "noticed": False}
        with self._database.writing() as connection:
            connection.execute(insert(reservations).values(row))

    def announced(self, kept: Kept) -> None:
        """Write down what was announced."""
        this = update(reservations).where(reservations.c.id == kept.reservation.id)
        with self._database.writing() as connection:
            connection.execute(this.values(begun=kept.begun, noticed=kept.noticed))

    def drop(self, reservation_id: str) -> None:
        """Forget one."""
        with self._database.writing() as connection:
            connection.execute(delete(reservations).where(reservations.c.id == reservation_id))
