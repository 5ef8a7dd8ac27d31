"""Tests through a browser, as a person sees it."""
