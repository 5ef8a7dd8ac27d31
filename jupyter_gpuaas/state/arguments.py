"""What callers give, checked before anything is done with it; an error names the argument."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, get_args

from ..model import Replay
from ..store.seal import KEY_BYTES, NAME_CHARS


def key_of(key: Any) -> bytes:
    """The owner's secret as bytes."""
    if not isinstance(key, (str, bytes, bytearray, memoryview)):
        raise _wrong("key", key, "bytes or a text")
    made = key.encode() if isinstance(key, str) else bytes(key)
    if len(made) < KEY_BYTES:
        raise ValueError(f"key: has {len(made)} bytes; it needs at least {KEY_BYTES}")
    return made


def namespace_of(name: str, value: Any) -> dict[str, Any]:
    """A real dict: it is what functions have for their globals."""
    if not isinstance(value, dict):
        raise _wrong(name, value, "a dict")
    return value


def names_of(name: str, value: Any) -> frozenset[str]:
    """Names of variables; one text is not a collection of them, though Python thinks so."""
    if isinstance(value, str) or not isinstance(value, Collection) or not all(isinstance(one, str) for one in value):
        raise _wrong(name, value, "a set of names")
    return frozenset(value)


def devices_of(value: Any) -> dict[str, str]:
    """A device map."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(one, str) for pair in value.items() for one in pair):
        raise _wrong("device_map", value, "a dict of devices such as {'cuda:0': 'cpu'}")
    return dict(value)


def check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _wrong(name, value, "a text")
    if len(value) > NAME_CHARS:
        raise ValueError(f"{name}: has {len(value)} characters; {NAME_CHARS} is the most")


def check_number(name: str, value: Any) -> None:
    if not isinstance(value, int):
        raise _wrong(name, value, "a number")
    if value < 0:
        raise ValueError(f"{name}: is {value}; it must not be negative")


def check_replay(value: Any) -> None:
    if value not in get_args(Replay):
        raise ValueError(f"replay: is {value!r}; it must be one of {', '.join(get_args(Replay))}")


def _wrong(name: str, value: Any, wanted: str) -> TypeError:
    return TypeError(f"{name}: is of type {type(value).__name__}; it must be {wanted}")
