"""matplotlib: figures with their numbers and canvases, artists that redraw, callbacks of the notebook.

matplotlib's own pickles leave out callbacks, the links by which a change of an artist makes its figure redraw, the
number under which pyplot knows the figure, and which figure is the current one.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import sys
from typing import Any
from weakref import WeakKeyDictionary

from .registry import Context, Restoring, restoring, rule


@rule("matplotlib.artist.Artist")
def reduce_artist(artist: Any, context: Context) -> Any:
    reduced = artist.__reduce_ex__(5)
    if len(reduced) > 2 and isinstance(reduced[2], dict) and "stale_callback" in reduced[2]:
        reduced[2]["stale_callback"] = artist.stale_callback
    if hasattr(artist, "canvas") and _known_to_pyplot(artist):
        context.escaped("pyplot")
    return reduced


@rule("matplotlib.figure.Figure")
def reduce_figure(figure: Any, context: Context) -> Any:
    reduced = reduce_artist(figure, context)
    if len(reduced) < 3 or not isinstance(reduced[2], dict):
        return reduced
    reduced[2].pop("_restore_to_pylab", None)
    canvas = figure.canvas
    number = getattr(canvas.manager, "num", None)
    order = _numbers().index(number) if number is not None and _known_to_pyplot(figure) else None
    drawn = (type(canvas).__module__, type(canvas).__qualname__) if number is None else None
    return *reduced[:2], (reduced[2], number, order, drawn, figure.stale), None, None, fill_figure


def fill_figure(figure: Any, state: tuple[Any, ...]) -> None:
    attributes, number, order, drawn, stale = state
    figure.__setstate__(attributes)
    if number is not None:
        _manage(figure, number, order)
    elif drawn is not None and drawn[1] != "FigureCanvasBase":
        try:
            module = importlib.import_module(drawn[0])
            getattr(module, drawn[1])(figure)
        except (ImportError, AttributeError):
            restoring().remark(f"a figure whose canvas ({drawn[1]}) is not to be had here has a plain one")
    figure.stale = stale


#: Figures that pyplot knows, by the restore that is under way: their places in pyplot's order, and managers.
_managed: WeakKeyDictionary[Restoring, list[tuple[int, Any]]] = WeakKeyDictionary()


def _manage(figure: Any, number: int, order: int | None) -> None:
    """Give the figure a canvas and a manager of the backend here; ``order`` is its place among pyplot's figures."""
    pyplot = importlib.import_module("matplotlib.pyplot")
    gcf = importlib.import_module("matplotlib._pylab_helpers").Gcf
    if order is not None and gcf.has_fignum(number):
        gcf.destroy(number)  # of the time after the checkpoint
    manager = pyplot._get_backend_mod().new_figure_manager_given_figure(number, figure)
    if order is None:
        return
    gcf._set_new_active_manager(manager)
    now = restoring()
    managed = _managed.setdefault(now, [])
    managed.append((order, manager))

    def activate() -> None:
        for _, one in sorted(managed, key=lambda pair: pair[0]):
            if gcf.figs.get(one.num) is one:
                gcf.set_active(one)

    now.finally_.append(activate)


def _numbers() -> list[int]:
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    return list(helpers.Gcf.figs) if helpers is not None else []


def _known_to_pyplot(figure: Any) -> bool:
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    return helpers is not None and figure.canvas.manager in helpers.Gcf.figs.values()


@rule("matplotlib.backend_bases.FigureCanvasBase")
def reduce_canvas(canvas: Any, context: Context) -> Any:
    return getattr, (canvas.figure, "canvas")


@rule("matplotlib.backend_bases.FigureManagerBase")
def reduce_manager(manager: Any, context: Context) -> Any:
    return getattr, (manager.canvas, "manager")


@rule("matplotlib.cbook.CallbackRegistry")
def reduce_registry(registry: Any, context: Context) -> Any:
    """With its callbacks: matplotlib keeps few of them, and a colour bar, say, would no longer follow its image."""
    reduced = registry.__reduce_ex__(5)
    kept = []
    for signal, callbacks in registry.callbacks.items():
        for cid, proxy in callbacks.items():
            function = proxy()
            if cid not in registry._pickled_cids and function is not None and not _is_backends(function):
                kept.append((cid, signal, function))
    return *reduced[:2], (reduced[2], sorted(kept, key=lambda one: one[0])), None, None, fill_registry


def fill_registry(registry: Any, state: tuple[dict[str, Any], list[tuple[int, Any, Any]]]) -> None:
    attributes, callbacks = state
    registry.__setstate__(dict(attributes))
    following = next(registry._cid_gen)
    for cid, signal, function in callbacks:
        registry._cid_gen = itertools.count(cid)
        registry.connect(signal, function)
    registry._cid_gen = itertools.count(following)


def _is_backends(function: Any) -> bool:
    """Whether a canvas or manager connected this for itself: those here have their own."""
    inner = inspect.getclosurevars(function).nonlocals.get("func") if _is_wrapper(function) else None
    function = inner or function
    owner = getattr(function, "__self__", None)
    named = function if owner is None else type(owner)
    module = str(getattr(getattr(named, "func", named), "__module__", ""))
    return module.startswith(_BACKENDS)


def _is_wrapper(function: Any) -> bool:
    return inspect.isfunction(function) and "func" in function.__code__.co_freevars


_BACKENDS = ("matplotlib.back", "matplotlib.pyplot", "matplotlib._pylab_helpers", "matplotlib_inline", "ipympl")
