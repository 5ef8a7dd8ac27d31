"""Tests that drive real kernels as Jupyter's own clients do."""
