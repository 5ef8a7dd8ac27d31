"""matplotlib figures: identity, numbers, redrawing and callbacks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from .roundtrip import cell, roundtrip

matplotlib = pytest.importorskip("matplotlib")

SETUP = "import matplotlib; matplotlib.use('agg')\nimport matplotlib.pyplot as plt, numpy as np\n"


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    matplotlib.pyplot.close("all")


def _there_and_back(source: str) -> dict[str, Any]:
    """Through a pickle; the figures that come back take the numbers that their originals had in pyplot."""
    namespace = cell(SETUP + source)
    new, context, _ = roundtrip(namespace)
    new["__was__"], new["__context__"] = namespace, context
    return new


def test_figure_axes_and_lines_are_one_thing() -> None:
    new = _there_and_back("fig, ax = plt.subplots(); line, = ax.plot([1, 2, 3]); ax.set_title('t')")
    assert new["ax"].figure is new["fig"] and new["line"].axes is new["ax"] and new["ax"].lines[0] is new["line"]
    was = new["__was__"]
    assert _png(new["fig"]) == _png(was["fig"])
    new["line"].set_ydata([3, 2, 1])
    assert _png(new["fig"]) != _png(was["fig"])


def _png(figure: Any) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()


def test_numbers_and_the_current_figure_of_pyplot() -> None:
    new = _there_and_back(
        """
first = plt.figure(7); first.set_label("seven"); one, two = first.subplots(1, 2); plt.sca(one)
second = plt.figure(3)
plt.figure(7)
aside = matplotlib.figure.Figure(); part = aside.subplots()
from matplotlib.backends.backend_agg import FigureCanvasAgg
drawn = FigureCanvasAgg(aside)
"""
    )
    plt = matplotlib.pyplot
    assert plt.get_fignums() == [3, 7] and plt.gcf() is new["first"] and plt.gca() is new["one"]
    assert plt.figure(3) is new["second"] and new["first"].get_label() == "seven"
    assert new["first"] is not new["__was__"]["first"]
    assert new["aside"].canvas is new["drawn"] and type(new["drawn"]).__name__ == "FigureCanvasAgg"
    assert new["__context__"].escapes == {"pyplot"}


def test_change_of_an_artist_makes_its_figure_stale() -> None:
    new = _there_and_back("fig, ax = plt.subplots(); line, = ax.plot([1, 2]); text = ax.text(0, 0, 'x')")
    new["fig"].canvas.draw()
    assert not new["fig"].stale
    new["line"].set_color("red")
    assert new["fig"].stale


def test_callbacks_of_the_notebook_and_widgets_stay_connected() -> None:
    new = _there_and_back(
        """
from matplotlib.widgets import Slider
fig, ax = plt.subplots(); seen = []
cid = fig.canvas.mpl_connect("button_press_event", lambda event: seen.append(event))
ax.callbacks.connect("xlim_changed", lambda ax: seen.append("xlim"))
slider = Slider(fig.add_axes([0.2, 0.01, 0.6, 0.03]), "s", 0, 10); slider.on_changed(lambda v: seen.append(v))
"""
    )
    new["ax"].set_xlim(0, 5)
    new["slider"].set_val(4)
    assert new["seen"] == ["xlim", 4]
    new["fig"]._canvas_callbacks.process("button_press_event", _Event(new["fig"].canvas))
    assert len(new["seen"]) == 3
    new["fig"].canvas.mpl_disconnect(new["cid"])
    new["fig"]._canvas_callbacks.process("button_press_event", _Event(new["fig"].canvas))
    assert len(new["seen"]) == 3


class _Event:
    name, key, button, inaxes, x, y, dblclick = "button_press_event", None, 9, None, 0, 0, False

    def __init__(self, canvas: Any) -> None:
        self.canvas = canvas


def test_shared_axes_colour_bars_and_three_dimensions() -> None:
    new = _there_and_back(
        """
fig, (a, b) = plt.subplots(2, sharex=True); image = b.imshow(np.eye(3)); bar = fig.colorbar(image)
deep = plt.figure().add_subplot(projection="3d"); surface = deep.plot([1, 2], [1, 2], [1, 2])
dates, = plt.figure().add_subplot().plot(np.array(["2020-01-01", "2020-01-02"], "M8[D]"), [1, 2])
"""
    )
    new["a"].set_xlim(0, 9)
    assert new["b"].get_xlim() == (0, 9)
    new["image"].set_clim(0, 5)
    assert new["bar"].vmax == 5 and new["bar"].mappable is new["image"]
    for figure in (new["fig"], new["deep"].figure, new["dates"].figure):
        assert _png(figure)
