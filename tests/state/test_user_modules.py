"""Variables of the user's own modules, in a fresh process."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyter_gpuaas.state.escapes import is_of_the_user

from .hidden_session import session

_MINE = """
import dataclasses, enum, logging, threading
import numpy as np
settings = {"mode": "slow", "sizes": [1, 2]}
untouched = {"a": 1}
count = 0
table = np.zeros(3)
log = logging.getLogger(__name__)
lock = threading.Lock()
class Color(enum.Enum):
    RED = 1
class Config:
    debug = False
    names = []
    class Inner:
        depth = 1
@dataclasses.dataclass
class State:
    step: int = 0
state = State()
other = State()
cache = dict(a=1)
def cached(key, store=cache):
    return store.get(key)
def bump():
    global count
    count += 1
    state.step += 1
"""


def _with_module(tmp_path: Path, source: str = _MINE) -> None:
    (tmp_path / "mine.py").write_text(source)


def test_variables_of_a_module_are_what_they_were(tmp_path: Path) -> None:
    _with_module(tmp_path)
    cells = [
        "import sys, os\nsys.path.insert(0, os.getcwd())\nimport mine",
        "mine.bump(); mine.settings['mode'] = 'fast'; mine.extra = [1]; mine.table[1] = 5; mine.cache['b'] = 2\n"
        "mine.Config.debug = True; mine.Config.names.append('x'); mine.Config.Inner.depth = 2\n"
        "kept = mine.settings; mine.same = kept; del mine.log",
        "pass",
    ]
    check = (
        "import mine\n"
        "assert mine.settings == {'mode': 'fast', 'sizes': [1, 2]} and mine.extra == [1] and mine.count == 1\n"
        "assert mine.table.tolist() == [0, 5, 0] and mine.state.step == 1 and mine.other.step == 0\n"
        "assert mine.Config.debug is True and mine.Config.names == ['x'] and mine.Config.Inner.depth == 2\n"
        "assert ns['kept'] is mine.settings is mine.same and mine.untouched == {'a': 1}\n"
        "mine.bump()\nassert mine.count == 2 and mine.state.step == 2 and mine.cached('b') == 2\n"
        "assert mine.Color.RED is mine.Color(1) and 'modules' not in lost, lost\n"
        "assert any('mine.lock' in text and 'mine.other' in text for text in remarks), remarks"
    )
    session(tmp_path, cells, check, names=("mine", "kept"))
    session(tmp_path, cells, check, names=("mine", "kept"), full=True)


def test_what_cannot_be_kept_is_told(tmp_path: Path) -> None:
    _with_module(tmp_path, "import threading\nworker = None\nlock = threading.Lock()\n")
    cells = [
        "import sys, os\nsys.path.insert(0, os.getcwd())\nimport mine, socket",
        "left, right = socket.socketpair(); mine.connection = left; mine.lock = right",
    ]
    session(
        tmp_path,
        [*cells, "del left, right"],
        "assert 'mine.connection' in lost['modules'] and 'mine.lock' in lost['modules'], lost",
    )


def test_module_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "mine.py").write_text("n = 0")
    session(
        tmp_path,
        ["import sys, shutil\nsys.path.insert(0, 'lib')\nimport mine\nmine.n = 1\nshutil.rmtree('lib')"],
        "assert 'module mine' in lost['modules'], lost",
    )


def test_earlier_state_comes_back_in_the_same_process(tmp_path: Path) -> None:
    _with_module(tmp_path)
    session(
        tmp_path,
        ["import sys, os\nsys.path.insert(0, os.getcwd())\nimport mine", "mine.count = 3"],
        "import mine\nassert mine.settings['mode'] == 'slow' and mine.count == 3 and not hasattr(mine, 'extra')\n"
        "assert mine.untouched == {'a': 1}",
        names=("mine",),
        here="sys.path.insert(0, '.')\nimport mine\nmine.settings['mode'] = 'fast'; mine.extra = 1\n"
        "mine.untouched = 0\nfor kind in kinds(): kind.capture(Hidden(ns, shell))",
    )


def test_what_stands_for_a_module_does_so_again(tmp_path: Path) -> None:
    session(
        tmp_path,
        ["import sys, types\nsys.modules['colorsys'] = fake = types.SimpleNamespace(a=1)"],
        "import colorsys\nassert colorsys is ns['fake'] and not lost",
        names=("fake",),
    )


def test_installed_package_without_a_file_is_not_the_users() -> None:
    pytest.importorskip("mpl_toolkits.mplot3d")
    assert not is_of_the_user("mpl_toolkits.mplot3d.axes3d") and not is_of_the_user("json")
