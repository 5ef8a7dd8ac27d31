"""What a front end sees of a session that moves: nothing but a pause."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.conftest import GpuaasHome
from tests.fault.session import ProxyRun
from tests.jupyter.runner import Runner

SETTINGS = """
nodes = 2
devices = "cpu:1"
workdir = "session"
spare_kernels = 0
checkpoint_share = 1000000
"""
WIDGETS = """
import ipywidgets as w
from IPython.display import display
seen = []
slider, label, out = w.IntSlider(value=3, max=50), w.Label("nothing yet"), w.Output()
def moved(change):
    seen.append(change["new"])
    label.value = f"it is {change['new']}"
    with out:
        print("now", change["new"])
slider.observe(moved, "value")
panel = w.interactive(lambda k: k * k, k=(0, 20))
handle = display("before", display_id=True)
display(slider, label, out, panel)
"""
IDS = "(slider.comm.comm_id, label.comm.comm_id, out.comm.comm_id, panel.children[0].comm.comm_id)"


@pytest.fixture
def home(gpuaas_home: GpuaasHome) -> Iterator[GpuaasHome]:
    (gpuaas_home.path / "settings.toml").write_text(SETTINGS)
    gpuaas_home.cli("up", "--detach")
    yield gpuaas_home


def move(home: GpuaasHome, name: str) -> None:
    """Move a session, and return when it is on its new node."""
    done = json.loads(home.cli("migrate", name, "--json", timeout_s=120).stdout)
    assert done["phase"] == "done", done


def set_value(run: ProxyRun, comm: str, value: int) -> None:
    """Move a slider, as a browser does."""
    data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
    run.client.session.send(run.client.shell_channel.socket, "comm_msg", {"comm_id": comm, "data": data})


def changed(run: ProxyRun, comm: str, field: str) -> Any:
    """What the kernel sets a field of a widget to next."""

    def is_it(message: dict[str, Any]) -> bool:
        content = message["content"]
        return (
            message["msg_type"] == "comm_msg"
            and content["comm_id"] == comm
            and field in content["data"].get("state", {})
        )

    return run.wait(is_it)["content"]["data"]["state"][field]


def test_slider_goes_on_after_a_move(home: GpuaasHome, tmp_path: Path) -> None:
    run = ProxyRun(tmp_path, "slider").ready()
    try:
        made = run.client.execute(WIDGETS)
        assert run.wait_done(made)["content"]["execution_count"] == 1
        slider, label, out, k = eval(run.value(IDS))
        display_id = next(
            m["content"]["transient"]["display_id"]
            for m in run.heard
            if m["msg_type"] == "display_data" and m["content"].get("transient", {}).get("display_id")
        )
        set_value(run, slider, 5)
        assert changed(run, label, "value") == "it is 5"
        move(home, "slider")
        assert eval(run.value(IDS)) == (slider, label, out, k)
        set_value(run, slider, 7)
        assert changed(run, label, "value") == "it is 7"
        # What is printed is the output widget's while this message is its own; a front end puts it there.
        assert changed(run, out, "msg_id") != ""
        assert changed(run, out, "msg_id") == ""
        assert run.value("(seen, slider.value)") == "([5, 7], 7)"
        set_value(run, k, 9)
        assert run.value("panel.result") == "81"
        # A display of a cell before the move is still the one that an update of now changes.
        updating = run.client.execute("handle.update('after')")
        assert run.wait_done(updating)["content"]["execution_count"] == 2
        (update,) = [m["content"] for m in run.heard if m["msg_type"] == "update_display_data"]
        assert update["transient"]["display_id"] == display_id
        assert update["data"]["text/plain"] == "'after'"
        move(home, "slider")
        set_value(run, slider, 8)
        assert changed(run, label, "value") == "it is 8"
        # The kernel was the same all the time, as far as anybody was told.
        states = [m["content"]["execution_state"] for m in run.heard if m["msg_type"] == "status"]
        assert set(states) <= {"busy", "idle"}
        assert run.process.poll() is None
        assert run.run("In[1].strip().startswith('import ipywidgets')")["content"]["execution_count"] == 3
        assert run.value("(len(In), Out[3])") == "(4, True)"
    finally:
        run.close()


def test_notebook_that_moves_between_its_cells_has_the_outputs_of_one_that_does_not(
    home: GpuaasHome, tmp_path: Path
) -> None:
    cells = [
        "import ipywidgets as w; from IPython.display import display\n"
        "handle = display('first', display_id='d'); slider = w.IntSlider(value=3); slider",
        "label = w.Label(); slider.observe(lambda c: setattr(label, 'value', str(c['new'])), 'value'); label",
        "out, twin = w.Output(), w.IntSlider(); linked = w.link((slider, 'value'), (twin, 'value'))\n"
        "def told(change):\n    with out: print('now', change['new'])\n"
        "twin.observe(told, 'value'); display(out, twin)",
        "slider.value = 4",
        "handle.update('second'); slider.value += 1; print(label.value)",
        "label.value, twin.value, In[-1] == In[6], len(In)",
    ]
    kernels: list[str] = []

    def before(cell: int) -> None:
        kernels.append(runner.km.kernel_id)
        if cell in (3, 4, 5):
            move(home, "nb")

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    runner = Runner(notebook, kernel_name="remote_gpu", timeout=120, startup_timeout=60, on_cell=before)
    runner.resources = {"metadata": {"path": str(tmp_path)}}
    done = runner.execute(env={**home.env, "JPY_SESSION_NAME": "nb"})
    assert [cell.execution_count for cell in done.cells] == [1, 2, 3, 4, 5, 6]
    assert len(set(kernels)) == 1
    first = done.cells[0].outputs[0]
    assert first.data["text/plain"] == "'second'"
    assert done.cells[4].outputs[0].text == "5\n"
    assert done.cells[5].outputs[0].data["text/plain"] == "('5', 5, True, 7)"
    states = done.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    assert [each["state"].get("value") for each in states if each["model_name"] == "IntSliderModel"] == [5, 5]
    (out,) = (each["state"]["outputs"] for each in states if each["model_name"] == "OutputModel")
    assert "".join(each["text"] for each in out) == "now 4\nnow 5\n"
    assert "5" in [each["state"].get("value") for each in states if each["model_name"] == "LabelModel"]
