"""IPython's own state, and that of the interpreter, in a fresh process."""

from __future__ import annotations

from pathlib import Path

from .hidden_session import session


def test_inputs_outputs_and_count(tmp_path: Path) -> None:
    cells = ["x = [1]", "x", "x", "def f():\n    return 'source of f'", "import inspect; 5", "del _5; 7"]
    session(
        tmp_path,
        cells,
        "import inspect, linecache\n"
        "hm = shell.history_manager\n"
        "assert shell.execution_count == 7, shell.execution_count\n"
        "assert ns['In'] is hm.input_hist_parsed and ns['In'][1] == 'x = [1]' and len(ns['In']) == 7\n"
        "assert ns['Out'] is ns['_oh'] is hm.output_hist and sorted(ns['Out']) == [2, 3, 5, 6]\n"
        "assert ns['Out'][2] is ns['Out'][3] is ns['x'] is ns['_2'] and ns['_'] == 7 == shell.displayhook._\n"
        "assert ns['___'] is ns['x'] and ns['_i4'].startswith('def f') and ns['_i'] == cells[4]\n"
        "assert inspect.getsource(ns['f']).endswith(\"'source of f'\\n\")\n"
        "shell.run_cell('_ + 1', store_history=True).raise_error()\n"
        "assert ns['_'] == 8 and ns['Out'][7] == 8 and ns['In'][7] == '_ + 1' and shell.execution_count == 8\n"
        "assert not lost, lost",
        names=("x", "f", "_", "__", "___", "_2", "_3", "_6"),
        ipython=True,
        here=f"cells = {cells!r}",
    )


def test_restore_by_a_running_cell_makes_it_the_next(tmp_path: Path) -> None:
    session(
        tmp_path,
        ["1", "2", "3"],
        "at = {kind.kind: kind.capture(Hidden(ns, shell)) for kind in kinds() if kind.kind in ('history', 'outputs')}\n"
        "for cell in ('4', '5', '6'): run(cell)\n"
        "def back():\n"
        "    for kind in kinds():\n"
        "        if kind.kind in at: kind.restore(at[kind.kind], Hidden(ns, shell))\n"
        "ns['back'] = back\n"
        "run('back(); \"here\"')\n"
        "assert ns['In'] == ['', '1', '2', '3', 'back(); \"here\"'], ns['In']\n"
        "assert shell.execution_count == 5 and ns['Out'] == {1: 1, 2: 2, 3: 3, 4: 'here'}\n"
        "run('len(In)'); assert ns['Out'][5] == 6 == ns['_'] and '_i6' not in ns\n"
        "back(); run('9'); assert ns['Out'] == {1: 1, 2: 2, 3: 3, 4: 9}, ns['Out']",
        names=("_", "__", "___", "_1", "_2", "_3"),
        ipython=True,
    )


def test_shell_names_belong_to_the_user_when_bound_anew(tmp_path: Path) -> None:
    session(
        tmp_path,
        ["1"],
        "from jupyter_gpuaas.state.hidden import shell_names\n"
        "run('2')\n"
        "assert {'In', 'Out', '_ih', '_oh', '_dh', '_i', '_i1', 'exit', 'get_ipython'} <= shell_names(ns, shell)\n"
        "assert not {'_', '__', '_2'} & shell_names(ns, shell)\n"
        "run('Out = 5; exit = 6'); assert not {'Out', 'exit'} & shell_names(ns, shell)",
        ipython=True,
    )


def test_settings(tmp_path: Path) -> None:
    (tmp_path / "my_ext.py").write_text("def load_ipython_extension(ip): ip.user_ns['loaded_ext'] = True\n")
    cells = [
        "from __future__ import annotations",
        "import sys; sys.path.insert(0, '.')",
        "%load_ext my_ext\n%load_ext autoreload\n%autoreload 2",
        "%alias say echo hello %s\n%unalias mkdir\n%xmode Plain",
        "%config InteractiveShell.ast_node_interactivity = 'all'\n%pprint",
        "def on_error(self, etype, value, tb, tb_offset=None): return ['mine']\n"
        "get_ipython().set_custom_exc((ZeroDivisionError,), on_error)",
    ]
    session(
        tmp_path,
        cells,
        "import __future__\n"
        "assert ns['loaded_ext'] and 'my_ext' in shell.extension_manager.loaded and 'my_ext' in remarks[0]\n"
        "reloader = shell.magics_manager.registry['AutoreloadMagics']._reloader\n"
        "assert reloader.enabled and reloader.check_all\n"
        "aliases = dict(shell.alias_manager.aliases)\n"
        "assert aliases['say'] == 'echo hello %s' and 'mkdir' not in aliases and 'ls' in aliases\n"
        "assert shell.InteractiveTB.mode == 'Plain' and shell.ast_node_interactivity == 'all'\n"
        "assert not shell.display_formatter.formatters['text/plain'].pprint\n"
        "assert shell.compile.flags & __future__.annotations.compiler_flag\n"
        "assert shell.custom_exceptions == (ZeroDivisionError,)\n"
        "assert not lost, lost",
        names=("on_error",),
        ipython=True,
    )


def test_what_the_user_registered(tmp_path: Path) -> None:
    cells = [
        "from IPython.core.magic import register_line_magic, register_cell_magic, Magics, magics_class, line_magic\n"
        "@register_line_magic\ndef twice(line): return line * 2\n"
        "@register_cell_magic\ndef up(line, cell): return cell.upper()\n"
        "@magics_class\nclass Mine(Magics):\n    @line_magic\n    def whoami(self, line): return 'me ' + line\n"
        "get_ipython().register_magics(Mine)",
        "ran = []\ndef after(result): ran.append(1)\nget_ipython().events.register('post_run_cell', after)",
        "class P: pass\nclass Log:\n    def pre(self): self.n = getattr(self, 'n', 0) + 1\nlog = Log()\n"
        "get_ipython().events.register('pre_execute', log.pre)\n"
        "get_ipython().display_formatter.formatters['text/html'].for_type(P, lambda p: '<p>')",
        "def bang(lines): return [line.replace('!!', '1') for line in lines]\n"
        "get_ipython().input_transformers_cleanup.append(bang)\n"
        "get_ipython().display_formatter.formatters['text/html'].for_type(complex, str)",
        "pass",
    ]
    session(
        tmp_path,
        cells,
        "assert not lost, lost\n"
        "assert shell.run_line_magic('twice', 'ab') == 'abab' and shell.run_cell_magic('up', '', 'x') == 'X'\n"
        "assert shell.run_line_magic('whoami', 'x') == 'me x'\n"
        "run('y = !! + 1'); assert ns['y'] == 2 and ns['ran'] and ns['log'].n >= 1\n"
        "html = shell.display_formatter.formatters['text/html']\n"
        "assert html(ns['P']()) == '<p>' and html(1j) == '1j'",
        names=("ran", "after", "P", "log", "Log", "bang", "Mine", "twice", "up"),
        ipython=True,
    )


def test_interpreter(tmp_path: Path) -> None:
    cells = [
        "import sys, gc, signal, decimal, locale, socket, tracemalloc, threading, atexit",
        "sys.setrecursionlimit(4321); gc.set_threshold(500, 5, 5); gc.disable(); socket.setdefaulttimeout(3.5)\n"
        "decimal.getcontext().prec = 5; decimal.getcontext().traps[decimal.Inexact] = True\n"
        "locale.setlocale(locale.LC_CTYPE, 'C.UTF-8')\n"
        "def hook(*args): pass\nsys.excepthook = hook; threading.excepthook = hook\n"
        "signal.signal(signal.SIGUSR1, hook); signal.setitimer(signal.ITIMER_REAL, 100); atexit.register(hook)",
    ]
    session(
        tmp_path,
        cells,
        "import sys, gc, signal, decimal, locale, socket, threading\n"
        "assert sys.getrecursionlimit() == 4321 and gc.get_threshold() == (500, 5, 5) and not gc.isenabled()\n"
        "assert decimal.getcontext().prec == 5 and decimal.getcontext().traps[decimal.Inexact]\n"
        "assert locale.setlocale(locale.LC_CTYPE) == 'C.UTF-8' and socket.getdefaulttimeout() == 3.5\n"
        "hook = ns['hook']\n"
        "assert sys.excepthook is hook is threading.excepthook is signal.getsignal(signal.SIGUSR1)\n"
        "assert any('timer' in text for text in remarks) and any('atexit' in text for text in remarks)\n"
        "assert not lost, lost",
        names=("hook",),
    )


def test_logging(tmp_path: Path) -> None:
    cells = [
        "import logging, sys\n"
        "logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format='%(levelname)s|%(message)s')",
        "class Keep(logging.Handler):\n    def __init__(self): super().__init__(); self.kept = []\n"
        "    def emit(self, record): self.kept.append(record.getMessage())\n"
        "handler = Keep(); mine = logging.getLogger('mine'); mine.addHandler(handler); mine.setLevel(logging.ERROR)\n"
        "logging.getLogger('asyncio').setLevel(50); logging.getLogger('json').addHandler(handler)\n"
        "logging.disable(5); mine.propagate = False; import json",
    ]
    out = session(
        tmp_path,
        cells,
        "import logging\n"
        "assert not lost, lost\n"
        "mine = logging.getLogger('mine'); mine.error('e'); mine.info('i'); logging.getLogger('json').info('j')\n"
        "assert ns['handler'].kept == ['e', 'j'] and mine.handlers == [ns['handler']]\n"
        "assert logging.getLogger('asyncio').level == 50 and logging.root.manager.disable == 5\n"
        "assert ns['mine'] is mine and len(logging.root.handlers) == 1\n"
        "logging.info('shown')",
        names=("handler", "mine", "Keep"),
    )
    assert out == "INFO|j\nINFO|shown\n"
