"""What comes of bytes and words that are not what they should be."""

from __future__ import annotations

import msgspec

#: What a decoder raises: msgspec lets two kinds through beside its own, of text that is no UTF-8, and of values that
#: are nested too deeply.
UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
_MOST_DIGITS = 18


def is_count(text: str) -> bool:
    """Whether it is a number from 0 on, in plain digits, and so few of them that Python converts it."""
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
