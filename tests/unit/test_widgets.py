"""What the widgets of a local notebook show, with and without a script."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from jupyter_gpuaas import widgets
from jupyter_gpuaas.model import (
    CheckpointView,
    Device,
    DeviceSample,
    GpuSession,
    Lease,
    NodeState,
    NodeView,
    ResourceRequest,
    SessionState,
    SessionView,
)
from jupyter_gpuaas.widgets.facts import allocation, allocation_html, timeline, timeline_html

EVIL = "<script>alert(1)</script>"
GIB = 1024**3


class Text(HTMLParser):
    """The text of a page, and the tags in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags = "", []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def view(state: SessionState = SessionState.IDLE, *, lease: bool = True, queue_place: int = 0) -> SessionView:
    held = Lease(id="l", session_id="s", node_id="node-a", device_ids=("cuda:1",), epoch=1) if lease else None
    return SessionView(
        session=GpuSession(
            id="s", name=EVIL, owner="me", state=state, epoch=1, request=ResourceRequest(), created_s=1.0, lease=held,
            queue_place=queue_place,
        )
    )  # fmt: skip


def nodes() -> list[NodeView]:
    devices = tuple(Device(f"cuda:{n}", "cuda", f"NVIDIA {EVIL}", 80 * GIB) for n in range(2))
    samples = tuple(DeviceSample(f"cuda:{n}", (n + 1) * GIB, 0.5) for n in range(2))
    return [NodeView("node-a", NodeState.UP, devices, samples=samples), NodeView("node-b", NodeState.UP, devices)]


def checkpoints() -> list[CheckpointView]:
    common = {"session": "s", "created_s": 1.0, "host_bytes": 2000, "device_bytes": 1000, "written_bytes": 10}
    first = CheckpointView(id="0" * 32, cell=1, label=EVIL, **common)
    return [first, CheckpointView(id="1" * 32, cell=2, lost={"f": "an open file"}, **common)]


def test_an_allocation_is_the_sessions_own_devices_with_what_they_do() -> None:
    facts = allocation(view(), nodes())
    assert (facts["id"], facts["state"], facts["node"]) == ("s", "idle", "node-a")
    (device,) = facts["devices"]
    assert (device["id"], device["used_bytes"], device["utilisation"]) == ("cuda:1", 2 * GIB, 0.5)
    page = Text(allocation_html(facts))
    assert "script" not in page.tags and EVIL in page.text
    assert page.tags.count("meter") == 1
    assert "2.1 GB of 86 GB" in page.text


def test_an_allocation_of_a_part_says_how_much_of_the_device_it_is() -> None:
    whole = view()
    assert whole.session.lease is not None
    lease = msgspec.structs.replace(whole.session.lease, share=0.5)
    part = msgspec.structs.replace(whole, session=msgspec.structs.replace(whole.session, lease=lease))
    facts = allocation(part, nodes())
    assert [each["share"] for each in facts["devices"]] == [0.5]
    assert "0.5 of cuda:1 NVIDIA" in Text(allocation_html(facts)).text
    assert "of cuda:1" not in Text(allocation_html(allocation(whole, nodes()))).text


def test_an_allocation_without_devices_or_node_says_where_the_session_waits() -> None:
    waiting = allocation(view(SessionState.QUEUED, lease=False, queue_place=3), nodes())
    assert (waiting["node"], waiting["devices"]) == ("", [])
    assert "queued, place 3 in the queue" in Text(allocation_html(waiting)).text
    assert allocation(view(), [])["devices"] == []  # its node is gone
    unknown = allocation(view(), [NodeView("node-a", NodeState.LOST, nodes()[0].devices)])
    assert [(each["used_bytes"], each["utilisation"]) for each in unknown["devices"]] == [(0, -1.0)]


def test_a_timeline_has_each_checkpoint_with_what_it_lacks() -> None:
    facts = timeline(EVIL, checkpoints())
    assert [(each["cell"], each["bytes"], each["lost"]) for each in facts["checkpoints"]] == [
        (1, 3000, {}),
        (2, 3000, {"f": "an open file"}),
    ]
    page = Text(timeline_html(facts))
    assert "script" not in page.tags and EVIL in page.text
    assert page.tags.count("tr") == 3


def test_a_widget_has_the_same_as_text_and_html() -> None:
    pytest.importorskip("anywidget", reason="anywidget is not installed")
    from jupyter_gpuaas.widgets.widgets import AllocationWidget, CheckpointTimeline

    for made in (
        AllocationWidget(allocation(view(), nodes()), "the text"),
        CheckpointTimeline(timeline("s", checkpoints()), "the text"),
    ):
        data, _ = made._repr_mimebundle_()
        assert data["text/plain"] == "the text"
        assert data["text/html"].startswith("<")
        assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == made.model_id
        assert "export default" in str(made._esm)
        made.close()


def test_widgets_are_for_shells_with_a_front_end_that_can_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        pass

    class Kernel:
        kernel = object()

    monkeypatch.setattr(widgets.importlib.util, "find_spec", lambda name: name)
    assert widgets.can_show(Kernel())
    assert not widgets.can_show(Terminal())
    monkeypatch.setattr(widgets.importlib.util, "find_spec", lambda name: None)
    assert not widgets.can_show(Kernel())


@pytest.mark.parametrize("path", sorted((Path(widgets.__file__).parent / "static").glob("*.js")), ids=lambda p: p.name)
def test_scripts_ask_nobody_but_their_own_server(path: Path) -> None:
    shared = path.with_name("shared.js")
    script = path.read_text() if path == shared else shared.read_text() + path.read_text()
    assert "innerHTML" not in script
    assert "http://www.w3.org/2000/svg" in script or "http" not in script
    assert "console" not in script
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the script's syntax is not checked")
    module = ["--input-type=module", "--check"]
    subprocess.run([node, *module], input=script, text=True, check=True, capture_output=True)
