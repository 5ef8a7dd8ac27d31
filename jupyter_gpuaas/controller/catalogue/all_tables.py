"""All tables of the database. A file that defines some is imported here, so that a new database has them all."""

from __future__ import annotations

from jupyter_gpuaas.controller.catalogue import tables, usage

__all__ = ["metadata", "usage"]
metadata = tables.metadata
