"""A variable that stays in the session: what it is, and how to get it."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any, Protocol

import msgspec


class Holder(Protocol):
    """The connection to the session that holds a value."""

    session_id: str
    session_name: str

    def fetch(self, variable: RemoteVariable) -> Any: ...

    def forget(self, handle: str) -> None: ...


class Description(msgspec.Struct):
    """What the session says of a value."""

    name: str
    handle: str
    type: str = ""
    shape: list[int] | None = None
    dtype: str = ""
    device: str = ""
    nbytes: int = 0
    reason: str = ""


class RemoteVariable:
    """Stands for an object in a remote session. A shipped cell that reads it uses the object itself, not a copy.

    The session keeps the object as long as this handle lives, even if its name there is bound to something else.
    """

    #: Pickled as a reference; see ``state/pickling.py``.
    __gpuaas_handle__ = True

    def __init__(self, description: Description, holder: Holder) -> None:
        self._description = description
        self._holder = holder
        self._forget: Callable[[str], None] = holder.forget

    @property
    def name(self) -> str:
        """The name under which it was assigned."""
        return self._description.name

    @property
    def type(self) -> str:
        """Its type's name."""
        return self._description.type

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Its shape, or its length; None if it has none."""
        shape = self._description.shape
        return None if shape is None else tuple(shape)

    @property
    def dtype(self) -> str:
        """Type of its elements, or empty."""
        return self._description.dtype

    @property
    def device(self) -> str:
        """Where its memory is, or empty."""
        return self._description.device

    @property
    def nbytes(self) -> int:
        """Its size, as far as it can be told cheaply."""
        return self._description.nbytes

    @property
    def reason(self) -> str:
        """Why it could not come by value; empty if only its size kept it there."""
        return self._description.reason

    @property
    def handle(self) -> str:
        """Its id in the session."""
        return self._description.handle

    @property
    def session_id(self) -> str:
        """The session that holds it."""
        return self._holder.session_id

    def get(self) -> Any:
        """Bring the value here.

        Raises
        ------
        CellError
            It cannot be pickled, or the session does not hold it any more.
        """
        return self._holder.fetch(self)

    def __len__(self) -> int:
        if not self._description.shape:
            raise TypeError(f"remote variable {self.name} has no length")
        return self._description.shape[0]

    def __bool__(self) -> bool:
        raise TypeError(
            f"the truth of remote variable {self.name} is in its session; use .get() or a %%remote_gpu cell"
        )

    def __reduce__(self) -> Any:
        raise TypeError(f"{self.name} is a handle of a remote session and cannot be stored; use .get()")

    def __repr__(self) -> str:
        parts = [f"RemoteVariable {self.name}: {self.type}"]
        if self.shape is not None:
            parts.append(str(self.shape) if self.dtype else f"of length {self.shape[0]}" if self.shape else "()")
        parts += [self.dtype] if self.dtype else []
        parts += [f"on {self.device}"] if self.device else []
        why = f" ({self.reason})" if self.reason else ""
        return (
            f"<{' '.join(parts)}, {size(self.nbytes)}, in session {self._holder.session_name!r}{why}; .get() brings it>"
        )

    def _repr_html_(self) -> str:
        rows = {
            "type": self.type,
            "shape": "" if self.shape is None else str(self.shape),
            "dtype": self.dtype,
            "device": self.device,
            "size": size(self.nbytes),
            "session": self._holder.session_name,
            "by value": f"no: {self.reason}" if self.reason else "with <code>.get()</code>",
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{key}</th><td style='text-align:left'>"
            f"{value if key == 'by value' and not self.reason else html.escape(value)}</td></tr>"
            for key, value in rows.items()
            if value
        )
        return f"<table><caption>remote variable <b>{html.escape(self.name)}</b></caption>{cells}</table>"

    def __del__(self) -> None:
        forget = getattr(self, "_forget", None)
        if forget is not None:
            forget(self.handle)


def size(nbytes: int) -> str:
    """Bytes for people."""
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
