"""Which nodes take no new sessions, by request; kept in a file."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from jupyter_gpuaas.errors import LeaseError


class Cordons:
    """Ids of cordoned nodes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._nodes: frozenset[str] = frozenset()

    def load(self) -> None:
        """Take over what the file says."""
        with contextlib.suppress(FileNotFoundError):
            self._nodes = frozenset(msgspec.json.decode(self._file.read_bytes(), type=list[str]))

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._nodes

    def set(self, node_id: str, *, cordoned: bool) -> None:
        """Cordon a node, or end that.

        Raises
        ------
        LeaseError
            It could not be written down, so nothing has changed.
        """
        after = self._nodes | {node_id} if cordoned else self._nodes - {node_id}
        draft = self._file.with_suffix(".new")
        try:
            draft.write_bytes(msgspec.json.encode(sorted(after)))
            draft.replace(self._file)
        except OSError as error:
            raise LeaseError(f"node {node_id}: could not be written down, so nothing has changed: {error}.") from error
        self._nodes = after
