"""Cells of the notebooks that several files of tests use."""

from __future__ import annotations

from pathlib import Path

#: A slider and a label that says what it was moved to, and where; and an output that is updated later.
SLIDER = (
    "import ipywidgets, os\nfrom IPython.display import display\n"
    "slider, label = ipywidgets.IntSlider(3, 0, 10), ipywidgets.Label('nothing yet')\n"
    "def seen(change): label.value = f\"{change['new']} on {os.environ['GPUAAS_NODE']}\"\n"
    "slider.observe(seen, 'value')\ndisplay(slider, label)\nshown = display('before', display_id=True)"
)
ASK = "shown.update('after the move')\nslider.value"


def waiting_cell(sign: Path) -> str:
    """A cell that runs until a file is there."""
    return (
        "import pathlib, time\nprint('begun', flush=True)\n"
        f"while not pathlib.Path({str(sign)!r}).exists(): time.sleep(0.05)\n"
        "print('ended', flush=True)\n6 * 7"
    )
