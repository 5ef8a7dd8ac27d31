"""What a decoder raises of bytes that are not what they should be."""

from __future__ import annotations

import msgspec

#: msgspec lets two kinds through beside its own: of text that is no UTF-8, and of values that are nested too deeply.
UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
