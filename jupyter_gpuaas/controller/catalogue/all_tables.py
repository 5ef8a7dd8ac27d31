"""All tables of the database. A file that defines some is imported here, so that a new database has them all."""

from __future__ import annotations

from jupyter_gpuaas.controller.catalogue import cordons, drains, reservations, tables, usage, users

__all__ = ["cordons", "drains", "metadata", "reservations", "usage", "users"]
metadata = tables.metadata
