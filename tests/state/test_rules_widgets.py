"""Widgets come back under their model ids, linked as they were, and no front end is told that they are new."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .roundtrip import cell, roundtrip

ipywidgets = pytest.importorskip("ipywidgets")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, Any]]]:
    """What goes to the front end: type, comm id and data."""
    import comm

    messages: list[tuple[str, str, Any]] = []

    def publish(self: Any, msg_type: str, data: Any = None, **keys: Any) -> None:
        messages.append((msg_type, self.comm_id, data))

    monkeypatch.setattr(comm.DummyComm, "publish_msg", publish)
    monkeypatch.setattr(comm, "create_comm", comm._create_comm)
    yield messages
    ipywidgets.Widget.close_all()


def test_values_links_and_observers(sent: list[tuple[str, str, Any]]) -> None:
    made = cell(
        """
import ipywidgets as w
a = w.IntSlider(value=3, max=50); b = w.IntText(); c = w.FloatText(); same = a
link = w.link((a, "value"), (b, "value")); one_way = w.dlink((a, "value"), (c, "value"), lambda v: v / 2)
seen = []
def look(change): seen.append(change["new"])
a.observe(look, "value")
button = w.Button(description="go"); button.on_click(lambda b: seen.append(b.description))
box = w.VBox([a, button], layout=w.Layout(width="50%")); front = w.jslink((a, "max"), (b, "value"))
layout, style = a.layout, a.style
"""
    )
    ids = {name: made[name].model_id for name in ("a", "b", "c", "button", "box", "front", "layout", "style")}
    sent.clear()
    new, context, _ = roundtrip(made)
    assert {name: new[name].model_id for name in ids} == ids
    assert {kind for kind, _, _ in sent} == {"comm_msg"}
    sent.clear()
    new["a"].value = 7
    assert new["b"].value == 7 and new["c"].value == 3.5 and new["seen"] == [7]
    new["b"].value = 9
    assert new["a"].value == 9 and made["a"].value == 3 and made["seen"] == []
    assert ("comm_msg", ids["a"]) in {message[:2] for message in sent}
    new["button"].click()
    assert new["seen"][-1] == "go"
    assert new["box"].children[0] is new["a"] is new["same"] and new["box"].layout.width == "50%"
    assert new["layout"] is new["a"].layout and new["front"].source[0] is new["a"]
    new["link"].unlink()
    new["a"].value = 11
    assert new["b"].value == 9
    with pytest.raises(Exception, match="value"):
        new["a"].value = "text"
    new["a"].max = 10
    assert new["a"].value == 10  # its validators are there
    assert context.escapes == {"hook"}


def test_message_of_the_front_end_reaches_the_new_object_and_the_end_of_the_old_closes_nothing(
    sent: list[tuple[str, str, Any]],
) -> None:
    import comm

    made = cell("import ipywidgets as w\na = w.IntSlider(value=3)")
    model = made["a"].model_id
    new, _, _ = roundtrip(made)
    sent.clear()
    made["a"].close()
    made.clear()
    assert not [message for message in sent if message[0] == "comm_close"]
    data = {"method": "update", "state": {"value": 8}, "buffer_paths": []}
    comm.get_comm_manager().comm_msg(None, "", {"content": {"comm_id": model, "data": data}, "buffers": []})  # type: ignore[arg-type]
    assert new["a"].value == 8
    new["a"].close()
    assert sent[-1][:2] == ("comm_close", model)


def test_announce_opens_the_comms_for_a_new_front_end(sent: list[tuple[str, str, Any]]) -> None:
    from jupyter_gpuaas.state.rules.widgets import announce

    new, _, _ = roundtrip(cell("import ipywidgets as w\na = w.IntSlider(value=3)"))
    sent.clear()
    announce([new["a"]])
    kind, model, data = sent[-1]
    assert (kind, model, data["state"]["value"]) == ("comm_open", new["a"].model_id, 3)


def test_interact_output_and_classes_of_the_notebook(sent: list[tuple[str, str, Any]]) -> None:
    new, _, _ = roundtrip(
        cell(
            """
import ipywidgets as w, traitlets
calls = []
panel = w.interactive(lambda x: calls.append(x), x=(0, 10)); out = w.Output(); out.append_stdout("hi")
class Model(traitlets.HasTraits):
    n = traitlets.Int(1); names = traitlets.List(traitlets.Unicode())
    @traitlets.validate("n")
    def _check(self, proposal): return max(0, proposal["value"])
    @traitlets.observe("n")
    def _changed(self, change): calls.append(("n", change["new"]))
    @traitlets.default("names")
    def _names(self): return ["a"]
model = Model(n=2); watched = []
model.observe(watched.append, traitlets.All)
class Mine(w.DOMWidget):
    _view_name = traitlets.Unicode("MineView").tag(sync=True); level = traitlets.Int(0).tag(sync=True)
mine = Mine(level=4)
closed = w.IntSlider(); closed.close()
"""
        )
    )
    new["calls"].clear()
    new["panel"].children[0].value = 9
    assert new["calls"] == [9] and new["out"].outputs[0]["text"] == "hi"
    new["model"].n = -5
    assert new["model"].n == 0 and new["calls"][-1] == ("n", 0) and new["watched"][-1]["new"] == 0
    assert new["model"].names == ["a"] and type(new["model"]) is new["Model"]
    assert new["Model"](n=-3).n == 0
    with pytest.raises(Exception, match="int"):
        new["model"].n = "x"
    sent.clear()
    new["mine"].level = 5
    assert sent == [("comm_msg", new["mine"].model_id, {"method": "update", "state": {"level": 5}, "buffer_paths": []})]
    assert new["closed"].comm is None


def test_anywidget(sent: list[tuple[str, str, Any]]) -> None:
    pytest.importorskip("anywidget")
    made = cell(
        """
import anywidget, traitlets
class Counter(anywidget.AnyWidget):
    _esm = "export default { render() {} }"
    count = traitlets.Int(0).tag(sync=True)
counter = Counter(count=3); seen = []
counter.observe(lambda change: seen.append(change["new"]), "count")
"""
    )
    model = made["counter"].model_id
    sent.clear()
    new, _, _ = roundtrip(made)
    assert new["counter"].model_id == model and not [message for message in sent if message[0] == "comm_open"]
    new["counter"].count = 4
    assert new["seen"] == [4] and isinstance(new["counter"], new["Counter"])
    assert sent[-1][2]["state"] == {"count": 4}
