"""Subshells whose ids are known before they are made: those that a session had in its kernel elsewhere."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from ipykernel import subshell_manager

#: How long one may take to be made.
MADE_S = 5.0


def make_subshell(threads: Any, subshell_id: str) -> None:
    """A shell of this id, if there is none, so that clients go on using it.

    Parameters
    ----------
    threads
        ipykernel's thread of the shell channel, in which they are made.
    """
    if subshell_id in threads.manager.list_subshell():
        return
    made = threading.Event()

    def make() -> None:
        add_subshell(threads.manager, subshell_id)
        made.set()

    threads.io_loop.add_callback(make)
    made.wait(MADE_S)


def add_subshell(manager: Any, subshell_id: str) -> None:
    """Start it; runs in that thread."""
    # ipykernel gives each one a random id, and offers no other way.
    module: Any = subshell_manager
    random = module.uuid
    module.uuid = SimpleNamespace(uuid4=lambda: subshell_id)
    try:
        manager._create_subshell()
    finally:
        module.uuid = random
