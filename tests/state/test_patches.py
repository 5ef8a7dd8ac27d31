"""Monkeypatches that a notebook made: found, kept, set again; what libraries change of themselves is none."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpuaas.state.hidden.world import of_notebook

from .hidden_session import session


@pytest.mark.long
def test_ordinary_cells_make_no_patches(tmp_path: Path) -> None:
    cells = [
        "import numpy as np, pandas as pd, torch, matplotlib\nmatplotlib.use('agg')\nimport matplotlib.pyplot as plt",
        "a = np.linalg.norm(np.random.rand(5)); df = pd.DataFrame({'x': [1, 2]}); df.x.mean(); df.index.name = 'i'",
        "class Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.fc = torch.nn.Linear(3, 3)\n        self.fc.bias.requires_grad = False\n"
        "    def forward(self, x): return torch.relu(self.fc(x))\n"
        "net = Net(); opt = torch.optim.Adam(net.parameters()); net(torch.ones(3)).sum().backward(); opt.step()\n"
        "handle = net.register_forward_hook(lambda *a: None); net.extra = 5; net.fc.weight.grad = None",
        "fig, ax = plt.subplots(); ax.plot([1, 2]); ax.title.set_text('t'); fig.canvas.draw(); ax.mine = lambda: 1\n"
        "df.plot(); df.describe(); df.to_json(); pd.read_json; pd.to_datetime(['2020'])",
        "import warnings, json, random, collections, functools\nwarnings.warn('x'); random.seed(1)\n"
        "class A(json.JSONEncoder):\n    def default(self, o): return 1\njson.dumps([1], cls=A)\n"
        "@functools.lru_cache\ndef f(x): return np.fft.fft(x)\n"
        "P = collections.namedtuple('P', 'x'); p = P(1)",
        "import torch.utils.data as data\n"
        "class D(data.Dataset):\n    def __len__(self): return 4\n"
        "    def __getitem__(self, i): return torch.ones(1) * i\n"
        "sum(batch.sum() for batch in data.DataLoader(D(), batch_size=2))\n"
        "torch.save(net.state_dict(), 'net.pt'); setattr(net, 'more', 1)",
    ]
    for full in (False, True):
        session(
            tmp_path,
            cells,
            "assert loaded_patches == [] and not lost, (loaded_patches, lost)",
            full=full,
            here=_PATCHES,
        )


#: Shows what was found, before it is restored.
_PATCHES = """
import pickle
from jupyter_gpuaas.state.hidden.patches import Patches
from jupyter_gpuaas.state.hidden import kinds
loaded_patches = []
def restore(self, value, world, original=Patches.put_back):
    loaded_patches.extend(place for place, _, _ in value)
    original(self, value, world)
Patches.put_back = restore
"""


def test_patches_are_set_again(tmp_path: Path) -> None:
    cells = [
        "import numpy as np, functools, json, math\nfrom collections import OrderedDict, Counter",
        "def mine(x): return ('mine', k, x)\nk = 3\n"
        "np.linalg.norm = mine; np.linalg.limit = 12; math.tau = 7\n"
        "Counter.shout = lambda self: 'loud'; Counter.made = classmethod(lambda cls: cls.__name__)\n"
        "Counter.size = property(lambda self: len(self)); json.dumps = functools.partial(json.dumps, indent=1)\n"
        "del np.linalg.svd",
        "setattr(json, 'loads', mine)",
        "x = np.linalg.norm(1)",
    ]
    session(
        tmp_path,
        cells,
        "import numpy as np, json, math\nfrom collections import Counter\n"
        "assert np.linalg.norm is ns['mine'] and ns['mine'](1) == ('mine', 3, 1) and np.linalg.limit == 12\n"
        "assert math.tau == 7 and Counter('ab').shout() == 'loud' and Counter.made() == 'Counter'\n"
        "assert Counter('ab').size == 2 and json.dumps([1]) == '[\\n 1\\n]' and json.loads is ns['mine']\n"
        "assert not hasattr(np.linalg, 'svd') and not lost, lost",
        names=("mine", "k"),
    )


@pytest.mark.parametrize(
    "cells",
    [
        # Imported and patched by one cell.
        ["import csv\ndef f(): return 1\ncsv.reader = f"],
        # By a function of the notebook.
        [
            "import csv\ndef f(): return 1\ndef install(module, name):\n    setattr(module, name, f)",
            "install(csv, 'reader')",
        ],
        ["import csv\ndef f(): return 1\ndef install():\n    csv.reader = f", "def twice(): install()", "twice()"],
        # By a function that imports it.
        ["def f(): return 1\ndef install():\n    import csv\n    csv.reader = f", "install()", "import csv"],
        # Under another name.
        ["import csv as c\nfrom functools import wraps\nold = c.reader\n@wraps(old)\ndef f(): return 1\nc.reader = f"],
        # By a decorator of the notebook.
        ["import csv\ndef patched(cls):\n    csv.reader = cls\n    return cls", "@patched\ndef f(): return 1"],
    ],
)
def test_patch_is_found_however_it_was_made(tmp_path: Path, cells: list[str]) -> None:
    session(tmp_path, cells, "import csv\nassert csv.reader is ns['f'] and csv.reader() == 1", names=("f",))


def test_patch_that_no_code_names_is_found_by_a_full_look(tmp_path: Path) -> None:
    cells = ["import csv\ndef f(): return 1\nexec('import csv; csv.rea' + 'der = f')"]
    session(tmp_path, cells, "import csv\nassert csv.reader is ns['f']", names=("f",), full=True)


def test_own_module_and_switches_made_by_code(tmp_path: Path) -> None:
    (tmp_path / "settings_of_mine.py").write_text("DEBUG = False\nclass Config:\n    level = 1\n")
    cells = [
        "import sys; sys.path.insert(0, '.')\nimport settings_of_mine as s\nimport torch",
        "s.DEBUG = True; s.Config.level = 5",
        "torch.backends.opt_einsum.enabled = False",
    ]
    session(
        tmp_path,
        cells,
        "import settings_of_mine as s, torch\nassert s.DEBUG and s.Config.level == 5 and not lost, lost\n"
        "assert not torch.backends.opt_einsum.enabled",
    )


def test_rollback_in_place_sets_patches_back(tmp_path: Path) -> None:
    session(
        tmp_path,
        ["x = 1"],
        "def look(code):\n    run(code); return kind.capture(Hidden(ns, shell, code))\n"
        "kind = next(kind for kind in kinds() if kind.kind == 'patches')\n"
        "first = look('import csv, json\\nreader, dumps = csv.reader, json.dumps')\n"
        "second = look('def f(): return 1\\ncsv.reader = f; csv.extra = 5; del json.dumps')\n"
        "assert len(second) == 3 and not first\n"
        "kind.restore(first, Hidden(ns, shell))\n"
        "import csv, json\n"
        "assert csv.reader is ns['reader'] and json.dumps is ns['dumps'] and not hasattr(csv, 'extra')\n"
        "assert look('pass') == []\n"
        "kind.restore(second, Hidden(ns, shell))\n"
        "assert csv.reader is ns['f'] and csv.extra == 5 and not hasattr(json, 'dumps')\n"
        "assert len(look('csv.reader = reader')) == 2",
    )


def test_value_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    cells = [
        "import csv, json, sys",
        "def f(): return 1\nclass Bad:\n    def __reduce__(self): raise ValueError('no')\n"
        "csv.reader = Bad(); json.loads = f",
    ]
    session(
        tmp_path,
        cells,
        "import csv, json\nassert 'csv.reader' in lost['patches'] and json.loads is ns['f']",
        names=("f",),
    )


def test_registrations_are_told(tmp_path: Path) -> None:
    cells = [
        "import copyreg, csv, json, numbers, functools, os, sys\nx = {}; x['a'] = 1; os.environ['A'] = '1'",
        "class A: pass\ncopyreg.pickle(A, lambda a: (A, ()))\nnumbers.Number.register(A)",
        "csv.register_dialect('mine', delimiter=';'); json.decoder.BACKSLASH['q'] = 'Q'; sys.meta_path.append(None)",
        "sys.meta_path.remove(None); sys.path.append('.'); x.setdefault('b', 2)",
        "@functools.singledispatch\ndef mine(x): return 1\nmine.register(int, lambda x: 2)",
    ]
    check = "told = lost.pop('registrations'); assert not lost, lost\nprint(told)"
    told = session(tmp_path, cells, check)
    for text in ("copyreg.pickle", "numbers.Number.register", "csv.register_dialect", "BACKSLASH", "meta_path.append"):
        assert text in told
    assert (
        "environ" not in told
        and "sys.path" not in told
        and "x[" not in told
        and "setdefault" not in told
        and "mine.register" not in told
    )


def test_variables_are_not_held_by_the_second_name_of_main(tmp_path: Path) -> None:
    session(
        tmp_path,
        ["import json"],
        "import gc\ngc.collect()\nassert held() is None and not lost",
        full=True,
        here="import __main__, sys, weakref\nsys.modules['__mp_main__'] = __main__\n"
        "class Node: pass\nnode = Node(); held = weakref.ref(node); Hidden(ns, shell)\n"
        "for kind in kinds(): kind.capture(Hidden(ns, shell, None, True))\ndel node",
    )


def test_full_look_finds_what_changed_and_nothing_else(tmp_path: Path) -> None:
    import json
    import types

    from jupyter_gpuaas.state.hidden.patches import Patches
    from jupyter_gpuaas.state.hidden.world import Hidden

    namespace: dict[str, object] = {"__name__": "__main__"}
    patches, world = Patches(), Hidden(namespace, full=True)
    patches.mark(world)
    assert patches.look(world) == []
    # The suite's own tools count what they do in globals, at any time.
    tools = ("hypothesis", "_pytest", "pytest", "xdist", "execnet")
    assert [owner for owner in patches._changed() if not owner.__name__.startswith(tools)] == []
    mine = types.FunctionType((lambda: 1).__code__, namespace)
    original = json.dumps
    try:
        json.dumps = mine
        json.JSONEncoder.mine = mine  # type: ignore[attr-defined]
        assert [place for place, _, _ in patches.look(world)] == [
            ("json", "", "dumps"),
            ("json.encoder", "JSONEncoder", "mine"),
        ]
    finally:
        json.dumps = original
        del json.JSONEncoder.mine  # type: ignore[attr-defined]
    assert patches.look(world) == []


MARKED_TWICE = """
import importlib, json, sys, warnings
from jupyter_gpuaas.state.hidden.patches import Patches
from jupyter_gpuaas.state.hidden.world import Hidden

def seen(patches):
    attributes = {name: {key: id(value) for key, value in of.items()} for name, of in patches._modules.items()}
    classes = {kind: {key: id(value) for key, value in of.items()} for kind, of in patches._classes.items()}
    prints = {name: patches._looked[id(sys.modules[name])] for name in attributes}
    return attributes, classes, prints, {kind: patches._looked[id(kind)] for kind in classes}

for name in ("gone_until_then", "come_until_then", "another_then"):
    with open(name + ".py", "w") as file:
        file.write("class A: pass")
sys.path.insert(0, "")
world = Hidden({"__name__": "__main__"}, full=True)
patches = Patches()
import another_then, gone_until_then
patches.mark(world)
assert "gone_until_then" in patches._modules
del sys.modules["gone_until_then"], sys.modules["another_then"]
import another_then, come_until_then
json.dumps = lambda *values: ""
json.JSONEncoder.default = lambda self, value: ""
del warnings.simplefilter
patches.mark(world)
assert "gone_until_then" not in patches._modules
assert "come_until_then" in patches._modules and another_then.A in patches._classes
fresh = Patches()
fresh.mark(world)
assert seen(patches) == seen(fresh)
assert patches.look(world) == []
"""


def test_second_mark_knows_what_the_first_one_would_have_known(tmp_path: Path) -> None:
    """A kernel marks while it waits for its session, and again when that has come; in a process without other tools."""
    done = subprocess.run(
        [sys.executable, "-c", MARKED_TWICE], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_patch_of_what_was_imported_ahead_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    from jupyter_gpuaas.state.hidden.patches import Patches
    from jupyter_gpuaas.state.hidden.world import Hidden

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "imported_ahead.py").write_text("class A:\n    def f(self): pass\ndef g(): pass\n")
    namespace: dict[str, object] = {"__name__": "__main__"}
    patches, world = Patches(), Hidden(namespace, full=True)
    patches.mark(world)
    module: Any = importlib.import_module("imported_ahead")
    monkeypatch.setitem(sys.modules, "imported_ahead", module)
    patches.prepare(world)
    assert patches.look(world) == []
    original = module.g
    module.g = module.A.f = types.FunctionType((lambda: 1).__code__, namespace)
    assert [place for place, _, _ in patches.look(world)] == [
        ("imported_ahead", "", "g"),
        ("imported_ahead", "A", "f"),
    ]
    module.g = original
    assert [place for place, _, _ in patches.look(world)] == [("imported_ahead", "A", "f")]


def test_classes_of_extension_modules_are_never_the_notebooks() -> None:
    """Many are said to be of ``builtins``, as are those that a namespace without a name defines."""
    polars = pytest.importorskip("polars._plr")
    named: dict[str, object] = {"__name__": "__main__"}
    nameless: dict[str, Any] = {}
    exec("class A:\n    def f(self): return 1\nclass B(int):\n    __slots__ = ()\n    __add__ = int.__sub__", nameless)
    nameless.pop("__builtins__")
    of_c = [kind for kind in vars(polars).values() if isinstance(kind, type) and kind.__module__ == "builtins"]
    assert polars.PyExpr in of_c
    # Says that it is of builtins, too.
    of_pytest = pytest.skip.Exception
    assert of_pytest.__module__ == "builtins"
    for kind in (*of_c, of_pytest):
        assert not of_notebook(kind, nameless) and not of_notebook(kind, named), kind
    for name in ("A", "B"):
        assert of_notebook(nameless[name], nameless) and not of_notebook(nameless[name], named)
