"""What ``%remote_gpu status`` and ``checkpoints`` show in a local notebook, where anywidget is installed.

What a user does in one goes through the Jupyter server's own REST, because a widget's messages wait behind the cell
that runs. Each has a text and an HTML form for where there are no widgets.

Not in the kernel of a session: it holds no token, so nothing there could be live, and what a widget keeps in its
kernel would be a part of every checkpoint.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_gpuaas.model import CheckpointView, NodeView, SessionView


def can_show(shell: Any) -> bool:
    """Whether this shell's front end may have widgets, and anywidget is there."""
    return hasattr(shell, "kernel") and importlib.util.find_spec("anywidget") is not None


def show_allocation(view: SessionView, nodes: Sequence[NodeView], text: str) -> None:
    """Display a session's devices.

    Parameters
    ----------
    text
        The same for a terminal.
    """
    from IPython.display import display

    from jupyter_gpuaas.widgets.facts import allocation
    from jupyter_gpuaas.widgets.widgets import AllocationWidget

    display(AllocationWidget(allocation(view, nodes), text))


def show_checkpoints(session: str, views: Sequence[CheckpointView], text: str) -> None:
    """Display a session's checkpoints; ``text`` as above."""
    from IPython.display import display

    from jupyter_gpuaas.widgets.facts import timeline
    from jupyter_gpuaas.widgets.widgets import CheckpointTimeline

    display(CheckpointTimeline(timeline(session, views), text))
