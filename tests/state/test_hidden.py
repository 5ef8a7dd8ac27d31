"""Each kind of hidden state, in a fresh process."""

from __future__ import annotations

from pathlib import Path

import pytest

from .hidden_session import session


def test_random_states_go_on(tmp_path: Path) -> None:
    draw = "[random.random(), random.gauss(0, 1), *map(float, np.random.randn(3)), *torch.rand(3).tolist()]"
    cells = [
        "import random, numpy as np, torch",
        "random.seed(1); np.random.seed(2); torch.manual_seed(3)",
        f"np.random.randn(); random.gauss(0, 1); torch.randn(5); kept = {draw}\n"
        "random.seed(1); np.random.seed(2); torch.manual_seed(3)\n"
        "np.random.randn(); random.gauss(0, 1); torch.randn(5)",
    ]
    session(
        tmp_path,
        cells,
        f"import random, numpy as np, torch\nassert {draw} == ns['kept']\nassert not lost",
        names=("kept",),
    )


def test_other_bit_generator_goes_on(tmp_path: Path) -> None:
    cells = [
        "import numpy as np\nnp.random.set_bit_generator(np.random.PCG64(5)); np.random.rand()",
        "state = np.random.get_state(legacy=False)['state']['state']",
    ]
    session(
        tmp_path,
        cells,
        "import numpy as np\nassert np.random.get_state(legacy=False)['state']['state'] == ns['state']",
        names=("state",),
    )


def test_environment_is_what_the_notebook_changed(tmp_path: Path) -> None:
    cells = [
        "import os\nos.environ['MINE'] = '1'; del os.environ['HOME']; os.environ['JPY_PARENT_PID'] = '7'\n"
        "os.environ['PATH'] = '/mine:' + os.environ['PATH']; os.environ['CUDA_VISIBLE_DEVICES'] = '3'",
    ]
    session(
        tmp_path,
        cells,
        "assert os.environ['MINE'] == '1' and 'HOME' not in os.environ and 'JPY_PARENT_PID' not in os.environ\n"
        "assert os.environ['PATH'] == '/mine:/another' and 'LATER' not in os.environ\n"
        "assert 'CUDA_VISIBLE_DEVICES' not in os.environ and 'CUDA_VISIBLE_DEVICES' in remarks[0]",
        here="import os; os.environ['PATH'] = '/another'; mark_baseline(ns); os.environ['LATER'] = '1'",
    )


def test_folder_and_search_path(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "side_effect.py").write_text("import builtins\nbuiltins.seen = True\n")
    cells = [
        "import os, sys\nos.chdir('lib'); sys.path.insert(0, os.getcwd()); sys.path.append('/nowhere')\n"
        "sys.argv[:] = ['a']",
        "import side_effect as s; del s",
    ]
    session(
        tmp_path,
        cells,
        "import os\nassert os.getcwd().endswith('lib') and sys.path[0] == os.getcwd() and sys.path[-1] == '/nowhere'\n"
        "assert seen and sys.argv == ['a'] and any('/nowhere' in text for text in remarks) and not lost",
    )
    session(
        tmp_path,
        cells,
        "assert sys.path[:2] == [os.getcwd(), '/here'] and sys.path[-1] == '/nowhere'",
        here="sys.path.insert(0, '/here'); mark_baseline(ns); import os; before = os.getcwd()",
    )


def test_missing_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    cells = ["import os\nos.chdir('gone')", "os.rmdir('../gone/') if False else None"]
    session(
        tmp_path,
        cells,
        "assert 'gone, which does not exist here' in lost['cwd']",
        here=f"import os; os.rmdir({str(tmp_path / 'gone')!r})",
    )


def test_options_and_filters(tmp_path: Path) -> None:
    cells = [
        "import warnings, numpy as np, pandas as pd, matplotlib",
        "warnings.filterwarnings('error', 'abc.*', UserWarning)\n"
        "def half(x): return 'half'\n"
        "np.set_printoptions(precision=3, formatter={'float': half}); np.seterr(divide='raise')\n"
        "pd.set_option('display.max_rows', 7); pd.options.mode.string_storage = 'python'\n"
        "pd.options.display.float_format = '{:.1f}'.format\n"
        "matplotlib.use('svg'); matplotlib.rcParams['lines.linewidth'] = 9",
    ]
    session(
        tmp_path,
        cells,
        "import warnings, numpy as np, pandas as pd, matplotlib\n"
        "assert (warnings.filters[0][0], warnings.filters[0][1].pattern) == ('error', 'abc.*')\n"
        "assert np.get_printoptions()['precision'] == 3 and np.geterr()['divide'] == 'raise'\n"
        "assert str(np.array([1.5])) == '[half]' and np.get_printoptions()['formatter']['float'] is ns['half']\n"
        "assert pd.get_option('display.max_rows') == 7 and pd.options.mode.string_storage == 'python'\n"
        "assert pd.options.display.float_format(1.23) == '1.2'\n"
        "assert matplotlib.get_backend() == 'svg' and matplotlib.rcParams['lines.linewidth'] == 9\n"
        "assert not lost, lost",
        names=("half",),
    )


def test_torch_settings(tmp_path: Path) -> None:
    cells = [
        "import torch",
        "torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False); torch.set_num_threads(1)\n"
        "torch.set_default_device('meta'); torch.use_deterministic_algorithms(True, warn_only=True)\n"
        "torch.backends.cudnn.benchmark = True; torch.set_float32_matmul_precision('high')\n"
        "torch.set_autocast_enabled('cpu', True); torch.set_printoptions(precision=2)\n"
        "torch.autograd.set_detect_anomaly(True)",
    ]
    session(
        tmp_path,
        cells,
        "import torch\n"
        "assert torch.get_default_dtype() is torch.float64 and not torch.is_grad_enabled()\n"
        "assert torch.get_num_threads() == 1 and torch.get_default_device().type == 'meta'\n"
        "assert torch.is_deterministic_algorithms_warn_only_enabled() and torch.backends.cudnn.benchmark\n"
        "assert torch.get_float32_matmul_precision() == 'high' and torch.is_autocast_enabled('cpu')\n"
        "assert torch._tensor_str.PRINT_OPTS.precision == 2 and torch.is_anomaly_enabled()\n"
        "assert not lost, lost",
    )


def test_nothing_is_imported_for_a_look(tmp_path: Path) -> None:
    session(tmp_path, ["x = 1"], "assert not {'numpy', 'torch', 'pandas', 'matplotlib', 'cupy'} & set(sys.modules)")


@pytest.mark.parametrize("ipython", [False, True])
def test_rollback_in_place_undoes_what_came_later(tmp_path: Path, ipython: bool) -> None:
    session(
        tmp_path,
        ["x = 1"],
        "import os, numpy as np, pandas as pd, matplotlib\n"
        "run('y = 1')\n"
        "at = {kind.kind: kind.capture(Hidden(ns, shell, 'y = 1')) for kind in kinds()}\n"
        "os.environ['LATER'] = '1'; sys.path.append('/later'); pd.set_option('display.max_rows', 7)\n"
        "matplotlib.rcParams['lines.linewidth'] = 9; np.set_printoptions(precision=3)\n"
        "for kind in kinds():\n"
        "    if at[kind.kind] is not None: kind.restore(at[kind.kind], Hidden(ns, shell))\n"
        "assert 'LATER' not in os.environ and '/later' not in sys.path and pd.get_option('display.max_rows') == 60\n"
        "assert matplotlib.rcParams['lines.linewidth'] != 9 and np.get_printoptions()['precision'] == 8\n",
        ipython=ipython,
    )


def test_unchanged_value_is_the_same_object(tmp_path: Path) -> None:
    session(
        tmp_path,
        ["x = 1"],
        "def look(): return {kind.kind: kind.capture(Hidden(ns, shell, 'pass')) for kind in kinds()}\n"
        "import csv, numpy as np; first = look(); again = look()\n"
        "assert [kind for kind in first if first[kind] is not again[kind]] == []\n"
        "run('import csv; csv.table = [1]'); kind = next(kind for kind in kinds() if kind.kind == 'patches')\n"
        "first = kind.capture(Hidden(ns, shell, 'csv.table = [1]'))\n"
        "assert kind.capture(Hidden(ns, shell, 'pass')) is first\n"
        "csv.table.append(2)\n"
        "changed = kind.capture(Hidden(ns, shell, 'pass')); assert changed is not first\n"
        "assert kind.capture(Hidden(ns, shell, 'pass')) is changed",
    )


def test_umask(tmp_path: Path) -> None:
    session(tmp_path, ["import os\nos.umask(0o037)"], "import os\nassert os.umask(0) == 0o037 and not lost")


def test_logger_without_a_name_keeps_its_handler(tmp_path: Path) -> None:
    # Where nobody said what was there before, nor what the cells were.
    session(
        tmp_path,
        ["import logging, concurrent.futures\nlogging.getLogger('mine.quiet').addHandler(logging.NullHandler())"],
        "import logging\nassert [type(h) for h in logging.getLogger('mine.quiet').handlers] == [logging.NullHandler]\n"
        "import concurrent.futures\nassert len(logging.getLogger('concurrent.futures').handlers) <= 1",
        full=True,
        here="def mark_baseline(ns): pass",
    )


def test_submodules_that_an_import_elsewhere_made_visible(tmp_path: Path) -> None:
    session(
        tmp_path,
        ["import wsgiref, json", "__import__('wsgiref.headers')"],
        "import sys\nassert ns['wsgiref'].headers.Headers([('a', 'b')])['A'] == 'b' and not lost\n"
        "assert 'wsgiref.simple_server' not in sys.modules",
        names=("wsgiref", "json"),
    )
