"""Remembers where the engine did not have what none of our sessions holds; what follows is in ``lifecycle.others``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from jupyter_gpuaas.engine.base import Engine
from jupyter_gpuaas.lifecycle.others import Foreign, Refusal, held_by_others, is_past, refused, why_others
from jupyter_gpuaas.lifecycle.placement import Waiting
from jupyter_gpuaas.lifecycle.room import Held, used_of


class Others:
    """Those who use the pool beside this service."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._refusals: dict[str, Refusal] = {}

    def refused(self, waiting: Waiting, node_id: str, coming: Iterable[Held] = ()) -> None:
        """The engine had no devices for one on this node.

        Parameters
        ----------
        coming
            What it was asked for beside that.
        """
        now_s = self._clock()
        self._refusals = {key: each for key, each in self._refusals.items() if not is_past(each, now_s)}
        node = next((each for each in self._engine.nodes() if each.id == node_id), None)
        if node is not None:
            used = used_of([*self._engine.leases(), *coming, *self.held()]).get(node_id, {})
            self._refusals[node_id] = refused(self._refusals.get(node_id), waiting, node, used, now_s)

    def held(self) -> list[Foreign]:
        """What counts as theirs now."""
        if not self._refusals:
            return []
        return held_by_others(self._refusals.values(), used_of(self._engine.leases()), self._clock())

    def why(self, waiting: Waiting) -> str:
        """Where they have what one waits for, in words; mostly empty."""
        if not self._refusals:
            return ""
        return why_others(waiting, self._engine.nodes(), self._refusals, self._clock())
