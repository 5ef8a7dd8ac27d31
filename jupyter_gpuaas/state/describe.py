"""What a person wants to know of a value without having it."""

from __future__ import annotations

import sys
from typing import Any


def describe(value: Any) -> dict[str, Any]:
    """Type, shape, dtype, device and size in bytes, each as far as the value has it."""
    kind = type(value)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__.partition('.')[0]}."
    return {
        "type": f"{module}{kind.__qualname__}",
        "shape": _shape(value),
        "dtype": _text(value, "dtype"),
        "device": _text(value, "device"),
        "nbytes": _nbytes(value),
    }


def _shape(value: Any) -> list[int] | None:
    try:
        return [int(length) for length in value.shape]
    except Exception:  # Not a property, or one that does not work on this object.
        try:
            return [len(value)] if not isinstance(value, type) else None
        except Exception:
            return None


def _text(value: Any, name: str) -> str:
    try:
        found = getattr(value, name, None)
    except Exception:
        return ""
    return "" if found is None or callable(found) else str(found).removeprefix("torch.")


def _nbytes(value: Any) -> int:
    try:
        found = value.nbytes
        if isinstance(found, int):
            return found
    except Exception:
        pass
    try:
        if hasattr(value, "memory_usage"):  # pandas
            usage = value.memory_usage(index=True)
            return int(usage.sum() if hasattr(usage, "sum") else usage)
        if callable(getattr(value, "parameters", None)):  # a torch module
            return sum(int(tensor.nbytes) for tensor in value.parameters())
    except Exception:
        pass
    try:
        return sys.getsizeof(value)
    except Exception:
        return 0
