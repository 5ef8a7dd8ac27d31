"""A name whose object could not be brought back: it says why, the moment it is touched."""

from __future__ import annotations

from typing import Any

from ..errors import CheckpointError

#: Of a reason; it is part of the manifest, and what a user's exception says may be anything.
_REASON_CHARS = 2000


class NameLost(CheckpointError):
    """A name was touched whose object is not there; the message says why."""


class Lost:
    """Stands for an object that could not be restored; whatever is done with it raises ``NameLost``."""

    __slots__ = ("_gpuaas_name", "_gpuaas_reason")

    def __init__(self, name: str, reason: str) -> None:
        object.__setattr__(self, "_gpuaas_name", name)
        object.__setattr__(self, "_gpuaas_reason", reason)

    def __getattribute__(self, attribute: str) -> Any:
        if attribute == "__class__":  # isinstance asks for it, and is no use of the object
            return Lost
        raise _raised(self)

    def __repr__(self) -> str:
        name, reason = told(self)
        return f"<{name} was not restored: it {reason}>"


def told(lost: Lost) -> tuple[str, str]:
    """Name and reason."""
    return object.__getattribute__(lost, "_gpuaas_name"), object.__getattribute__(lost, "_gpuaas_reason")


def said(error: BaseException) -> str:
    """What an exception says, whatever its class makes of that, as text that a manifest takes."""
    try:
        text = str(error) or type(error).__name__
    except Exception:
        text = type(error).__name__
    return clear(text)


def clear(text: str) -> str:
    """The text without what cannot be encoded, and not longer than a note may be."""
    clean = text[:_REASON_CHARS].encode("utf-8", "backslashreplace").decode()
    return clean if len(text) <= _REASON_CHARS else f"{clean} …"


def _raised(lost: Lost) -> NameLost:
    name, reason = told(lost)
    return NameLost(f"{name} was not restored: it {reason}.", hint="Run the cell that makes it again.")


def _touch(lost: Lost, *args: Any, **kwargs: Any) -> Any:
    raise _raised(lost)


for _special in (
    "setattr delattr call iter next len getitem setitem delitem contains bool int float complex index str bytes "
    "format enter exit await aiter anext aenter aexit reversed round trunc floor ceil abs neg pos invert hash dir "
    "eq ne lt le gt ge add radd iadd sub rsub isub mul rmul imul matmul rmatmul imatmul truediv rtruediv itruediv "
    "floordiv rfloordiv ifloordiv mod rmod imod divmod rdivmod pow rpow ipow lshift rlshift ilshift rshift rrshift "
    "irshift and rand iand or ror ior xor rxor ixor reduce reduce_ex copy deepcopy array fspath"
).split():
    setattr(Lost, f"__{_special}__", _touch)
