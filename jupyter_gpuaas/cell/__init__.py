"""Shipping one cell, with the variables and files that it needs, to a remote session."""
