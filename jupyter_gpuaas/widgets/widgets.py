"""The widgets themselves; needs anywidget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from jupyter_gpuaas.widgets.facts import Facts, allocation_html, timeline_html

STATIC = Path(__file__).parent / "static"


def _module(name: str) -> str:
    """The script of a widget, behind what all of them share: each is a module of its own, in whatever page."""
    return (STATIC / "shared.js").read_text(encoding="utf-8") + (STATIC / name).read_text(encoding="utf-8")


class _Shown(anywidget.AnyWidget):
    """A widget with what it shows, and the same as text and HTML.

    Parameters
    ----------
    facts
        What is shown.
    text
        The same for a terminal.
    """

    _css = STATIC / "widgets.css"
    facts = traitlets.Dict().tag(sync=True)

    def __init__(self, facts: Facts, text: str) -> None:
        super().__init__(facts=dict(facts))
        self._text = text

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**(data or {}), "text/plain": self._text, "text/html": self._html()}, metadata

    def _html(self) -> str:
        raise NotImplementedError


class AllocationWidget(_Shown):
    """A session's devices with their meters, and a menu that moves it.

    It is live, and has the menu, where the page is one of a Jupyter server with our extension.
    """

    _esm = _module("allocation.js")

    def _html(self) -> str:
        return allocation_html(self.facts)


class CheckpointTimeline(_Shown):
    """A session's checkpoints, one mark each. They can be named where the page is one of a Jupyter server with ours."""

    _esm = _module("checkpoints.js")

    def _html(self) -> str:
        return timeline_html(self.facts)
