"""Bytes <-> messages: records, resumption, tickets, links. docs/wire.md is the specification."""
