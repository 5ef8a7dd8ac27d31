"""State of a session that has no name in the namespace: random states, settings, patches, IPython's own.

One small file a kind. ``kinds`` gives them in the order in which they are to be restored. Those of ``BEFORE_NAMES``
come before the namespace is unpickled, as that needs them; the others after, as they may refer to its names.
"""

from __future__ import annotations

import sys
from typing import Any

from .environment import Environment
from .folder import WorkingFolder
from .generators import CupyRandom, NumpyRandom, PythonRandom, TorchRandom
from .history import History, Outputs, Sources, shell_names
from .imports import Imports
from .interpreter import DecimalContext, Interpreter, Locale
from .logs import Logs
from .options import MatplotlibSettings, NumpyOptions, PandasOptions
from .patches import Patches
from .registrations import Registrations
from .search_path import SearchPath
from .shell_settings import ShellSettings
from .shell_tables import ShellTables
from .torch_settings import TorchSettings
from .user_modules import UserModules
from .warning_filters import WarningFilters
from .world import Hidden, HiddenState, Kind

__all__ = ["BEFORE_NAMES", "Hidden", "HiddenState", "called", "kinds", "mark_baseline", "shell_names", "shell_of"]

_KINDS: tuple[Kind, ...] = (
    Environment(),
    WorkingFolder(),
    SearchPath(),
    Imports(),
    WarningFilters(),
    NumpyOptions(),
    PandasOptions(),
    MatplotlibSettings(),
    TorchSettings(),
    DecimalContext(),
    Locale(),
    Interpreter(),
    Logs(),
    UserModules(),
    Patches(),
    Registrations(),
    Sources(),
    History(),
    Outputs(),
    ShellSettings(),
    ShellTables(),
    PythonRandom(),
    NumpyRandom(),
    TorchRandom(),
    CupyRandom(),
)
#: Kinds whose values are plain and must be restored before names are unpickled.
BEFORE_NAMES = frozenset({"environment", "cwd", "sys.path", "imports"})


def called(kind: str) -> str:
    """What the value of this kind is called among the names: no name of Python's looks so."""
    return f"<{kind}>"


def kinds() -> list[HiddenState]:
    """All kinds in the order in which they are to be restored."""
    return list(_KINDS)


def mark_baseline(namespace: dict[str, Any]) -> None:
    """Remember what is there before the user's first cell: what differs from it later is the user's.

    To be called when the process has become the session's, so after it has taken environment and working folder.
    """
    world = Hidden(namespace, shell_of(namespace))
    for kind in _KINDS:
        kind.mark(world)


def shell_of(namespace: dict[str, Any]) -> Any | None:
    """IPython's shell, where the namespace is that of its cells."""
    module = sys.modules.get("IPython.core.interactiveshell")
    shell = module.InteractiveShell._instance if module is not None else None
    return shell if shell is not None and shell.user_ns is namespace else None
