"""Decisions without I/O: tables and pure functions. No clock, no randomness, no async: time and ids are arguments."""
