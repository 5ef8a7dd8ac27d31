"""What a cell does besides computing: read off its source, and seen while it runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jupyter_gpuaas.state.replay import EffectRefused, EffectWatch, definitions, effects

PURE = [
    *("", "x = 1", "x = [1, 2]\nx.append(3)", "y = sorted([3, 1])", "import math\nz = math.sqrt(2)", "print(1)"),
    "import numpy as np\na = np.arange(10).reshape(2, 5)\nb = a.T @ a\na[0] = 5\na += 1",
    "from numpy import zeros\na = zeros(3)\na.fill(1)",
    "import numpy as np\nr = np.random.default_rng(7)\nx = r.normal(size=3)",
    "import random\nrandom.seed(1)\nx = random.random()",
    "import numpy as np\nnp.random.seed(0)\nx = np.random.rand(3)",
    "import random\nr = random.Random(5)\nx = r.random()",
    "import pandas as pd\ndf = pd.DataFrame({'a': [1]})\ndf['b'] = df['a'] * 2\ns = df.sum()",
    "def f():\n    open('x', 'w')",
    "class C:\n    def save(self):\n        open('x', 'w')",
    "def f(n):\n    return n + 1\ny = f(2)",
    "def g():\n    for i in range(10):\n        yield i\nit = g()\nnext(it)",
    "def f(x, into):\n    into.flag = x\n    into['a'] = x\nf(1, {})",
    "class C:\n    def __init__(self):\n        self.n = 1\n    def go(self):\n        self.n += 1\nc = C()\nc.go()",
    "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int = 0\np = P(1)",
    "import functools\n@functools.lru_cache(maxsize=None)\ndef f(n):\n    return n\nf(1)",
    "import json\nt = json.dumps({'a': 1})",
    "text = ','.join(str(n) for n in range(3))",
    "def pull(it):\n    return next(it)\nf = pull\nf(iter([1]))",
    "{1, 2}",
]


@pytest.mark.parametrize("source", PURE)
def test_effects_of_what_only_computes_are_none(source: str) -> None:
    assert effects(source) == ()


EFFECTS = [
    ("open('x', 'w').write('a')", "writes files"),
    ("with open('x', mode='a') as f: f.write('a')", "writes files"),
    ("open('x', how)", "writes files"),
    ("open('x', **how)", "writes files"),
    ("t = open('x').read()", "reads files"),
    ("import numpy as np\nnp.save('x', 1)", "writes files"),
    ("import numpy as np\nnp.arange(3).tofile('x')", "writes files"),
    ("import pandas as pd\npd.DataFrame().to_csv('x')", "writes files"),
    ("import pandas as pd\npd.read_csv('x')", "reads files"),
    ("from os import remove as r\nr('x')", "writes files"),
    ("import shutil\nshutil.rmtree('x')", "writes files"),
    ("from pathlib import Path\nPath('x').write_text('a')", "writes files"),
    ("import sqlite3\nsqlite3.connect('x')", "writes files"),
    ("import urllib.request\nurllib.request.urlopen('http://a')", "network"),
    ("import socket\nsocket.socket()", "network"),
    ("import subprocess\nsubprocess.run(['ls'])", "subprocess"),
    ("get_ipython().system('ls')", "subprocess"),
    ("n = input()", "input"),
    ("import random\nx = random.random()", "random without known state"),
    ("import random\nrandom.seed()\nx = random.random()", "random without known state"),
    ("import random\nrandom.seed(n)\nx = random.random()", "random without known state"),
    ("import numpy as np\nx = np.random.rand(3)", "random without known state"),
    ("import numpy as np\nr = np.random.default_rng()", "random without known state"),
    ("import numpy as np\nr = np.random.default_rng(None)", "random without known state"),
    ("import numpy as np\nx = np.empty(3)", "random without known state"),
    ("import torch\nx = torch.randn(3)", "random without known state"),
    ("from torch import nn\nm = nn.Linear(2, 2)", "random without known state"),
    ("import uuid\nuuid.uuid4()", "random without known state"),
    ("x = {'a', 'b'}", "random without known state"),
    ("x = set(words)", "random without known state"),
    ("x = hash('a')", "random without known state"),
    ("sorted([1], key=__import__('random').random)", "runs code that cannot be seen"),
    ("import random\nx = list(map(random.gauss, [1]))", "random without known state"),
    ("import time\nt = time.time()", "time"),
    ("import datetime\nt = datetime.datetime.now()", "time"),
    ("from datetime import datetime as d\nt = d.utcnow()", "time"),
    ("import threading\nthreading.Thread().start()", "starts threads or tasks"),
    ("await thing", "starts threads or tasks"),
    ("import os\nos.chdir('/')", "changes the process"),
    ("import os\nos.environ['a'] = '1'", "changes the process"),
    ("import matplotlib.pyplot as plt\nplt.rcParams['a'] = 1", "changes the process: assigns to plt.rcParams['a']"),
    ("import json\njson.loads = None", "changes the process: assigns to json.loads"),
    ("exec('x')", "runs code that cannot be seen"),
    ("f.__globals__['x']", "runs code that cannot be seen"),
    ("from os.path import *", "runs code that cannot be seen"),
    ("mystery(1)", "unknown: calls mystery"),
    ("thing.go()", "unknown: calls thing.go"),
    ("[len][0]('a')", "unknown: calls [len][0]"),
    ("import sklearn.svm as s\nm = s.SVC()", "unknown: calls sklearn.svm.SVC"),
    ("import not_installed_and_not_pythons", "unknown: imports not_installed_and_not_pythons"),
    ("x = []\nmatch thing:\n    case x: pass\nx.append(1)", "unknown: calls x.append"),
    ("x = []\ndef f():\n    global x\n    x = thing\nf()\nx.append(1)", "unknown: calls x.append"),
    ("e = []\ntry: pass\nexcept Exception as e: e.append(1)", "unknown: calls e.append"),
    ("x = []\nfor x in things: x.append(1)", "unknown: calls x.append"),
    ("x = []\nif a: x = thing\nx.append(1)", "unknown: calls x.append"),
    ("with thing: pass", "unknown: enters thing"),
    ("get_ipython().run_line_magic('run', 'x.py')", "runs the magic run"),
    # through the notebook's own code
    ("def f():\n    open('x', 'w')\nf()", "writes files"),
    ("def f():\n    open('x', 'w')\nlist(map(f, [1]))", "writes files"),
    ("def f():\n    open('x', 'w')\ng = f\ng()", "writes files"),
    ("def f():\n    def inner():\n        open('x', 'w')\n    inner()\nf()", "writes files"),
    ("def f(h):\n    h()\nf(lambda: open('x', 'w'))", "writes files"),
    ("def d(f):\n    open('x', 'w')\n    return f\n@d\ndef g(): pass", "writes files"),
    ("def f(a=open('x', 'w')): pass", "writes files"),
    ("class C:\n    open('x', 'w')", "writes files"),
    ("class C:\n    def __init__(self):\n        open('x', 'w')\nC()", "writes files"),
    ("class B:\n    def __init__(self):\n        open('x', 'w')\nclass C(B): pass\nC()", "writes files"),
    ("class C:\n    def go(self):\n        open('x', 'w')\nmake().go()", "writes files"),
    ("class C:\n    def __add__(self, other):\n        open('x', 'w')\n1 + 1", "writes files"),
    ("class C:\n    @property\n    def p(self):\n        open('x', 'w')\nc.p", "writes files"),
    ("if a:\n    f = print\nelse:\n    f = mystery\nf()", "unknown: calls f"),
    ("for i in range(2):\n    f()\n    f = open", "reads files"),
]


@pytest.mark.parametrize(("source", "effect"), EFFECTS)
def test_effects_of_what_does_more_name_it(source: str, effect: str) -> None:
    assert effect in effects(source)


def test_effects_follow_definitions_of_other_cells() -> None:
    known = definitions(["def save():\n    open('x', 'w')", "def pure():\n    return 1", "not python ("])
    assert effects("save()", known=known) == ("writes files",)
    assert effects("pure()", known=known) == ()
    assert effects("pure()") == ("unknown: calls pure",)


def test_effects_of_methods_depend_on_what_the_variable_is() -> None:
    assert effects("x.append(1)") == ("unknown: calls x.append",)
    assert effects("x.append(1)", types={"x": "builtins.list"}) == ()
    assert effects("x.append(1)", types={"x": "__main__.Client"}) == ("unknown: calls x.append",)
    assert effects("a = np.zeros(3)", types={"np": "module numpy"}) == ()
    assert effects("lib.flag = 1", types={"lib": "module lib"}) == ("changes the process: assigns to lib.flag",)
    assert effects("c.flag = 1", types={"c": "__main__.C"}) == ()


def test_effects_that_were_seen_are_added() -> None:
    assert effects("x = 1", seen=["network"]) == ("network",)
    assert effects("def (", seen=["network"]) == ("network",)


# -- the watch -------------------------------------------------------------------------------------


def test_watch_sees_files(tmp_path: Path) -> None:
    with EffectWatch() as watch:
        (tmp_path / "a").write_text("x")
    assert watch.seen == ("writes files",)
    assert watch.examples["writes files"].endswith("a")
    with EffectWatch() as watch:
        (tmp_path / "a").read_text()
    assert watch.seen == ("reads files",)
    with EffectWatch() as watch:
        os.remove(tmp_path / "a")
        os.mkdir(tmp_path / "b")
    assert watch.seen == ("writes files",)


def test_watch_sees_subprocesses_network_threads_and_the_process() -> None:
    with EffectWatch() as watch:
        subprocess.run([sys.executable, "-c", ""], check=True)
    assert "subprocess" in watch.seen
    with EffectWatch() as watch, socket.socket() as one, pytest.raises(OSError):
        one.connect(("127.0.0.1", 1))
    assert watch.seen == ("network",)
    with EffectWatch() as watch:
        end = threading.Event()
        thread = threading.Thread(target=end.wait)
        thread.start()
    end.set()
    thread.join()
    assert watch.seen == ("starts threads or tasks",)
    with EffectWatch() as watch:
        os.chdir(os.getcwd())
    assert watch.seen == ("changes the process",)


def test_watch_sees_nothing_in_imports_and_computing() -> None:
    sys.modules.pop("wave", None)
    with EffectWatch() as watch:
        import wave  # noqa: F401

        sum(range(10))
    assert watch.seen == ()


def test_watch_leaves_threads_alone_that_ran_before(tmp_path: Path) -> None:
    go, done = threading.Event(), threading.Event()

    def write() -> None:
        go.wait(10)
        (tmp_path / "a").write_text("x")
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    with EffectWatch() as watch:
        go.set()
        assert done.wait(10)
    thread.join()
    assert watch.seen == ()


def test_watches_within_one_another_each_see_their_own(tmp_path: Path) -> None:
    with EffectWatch() as outer:
        with EffectWatch() as inner:
            (tmp_path / "a").write_text("x")
        os.chdir(os.getcwd())
    assert inner.seen == ("writes files",)
    assert outer.seen == ("writes files", "changes the process")


def test_watch_that_refuses_prevents(tmp_path: Path) -> None:
    with pytest.raises(EffectRefused, match="writes files"), EffectWatch(["writes files"]):
        (tmp_path / "a").write_text("x")
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").write_text("x")
