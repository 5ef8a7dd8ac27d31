"""The working folder."""

from __future__ import annotations

import os
from typing import Any

from ..rules.registry import NotRestorable
from .world import Hidden, Kind


class WorkingFolder(Kind):
    kind = "cwd"

    def look(self, world: Hidden) -> Any:
        try:
            return os.getcwd()
        except FileNotFoundError:
            return ""  # it was removed

    def put_back(self, value: Any, world: Hidden) -> None:
        if not value:
            raise NotRestorable("had been removed when the checkpoint was made; os.chdir() to another")
        value = world.here(value)
        try:
            if os.getcwd() == value:
                return
        except FileNotFoundError:
            pass
        try:
            os.chdir(value)
        except OSError as error:
            reason = "does not exist here" if isinstance(error, FileNotFoundError) else f"cannot be entered: {error}"
            raise NotRestorable(f"was {value}, which {reason}; make it, or os.chdir() to another") from error
