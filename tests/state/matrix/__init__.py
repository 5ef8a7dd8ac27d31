"""The cases, one file a kind; each has a list ``CASES``."""
