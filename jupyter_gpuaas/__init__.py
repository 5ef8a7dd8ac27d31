"""Notebook sessions on the GPU nodes of a pool, that outlive their client."""

__version__ = "0.1.0"
