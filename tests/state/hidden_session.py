"""A session's hidden state from one process to another: cells run, all kinds captured, restored in a fresh process."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

_CELLS = """
import builtins, sys, pickle
sys.path.insert(0, {root!r})
from jupyter_gpuaas.state.hidden import BEFORE_NAMES, Hidden, kinds, mark_baseline
from jupyter_gpuaas.state.pickler import dump, load, under
from jupyter_gpuaas.state.rules.registry import Context, NotRestorable, Restoring
if {ipython!r}:
    from IPython.core.interactiveshell import InteractiveShell
    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False
    ns = shell.user_ns
    def run(code):
        shell.run_cell(code, store_history=True).raise_error()
else:
    shell = None
    ns = {{"__name__": "__main__", "__builtins__": builtins.__dict__}}
    def run(code):
        exec(compile(code, "<cell>", "exec"), ns)
mark_baseline(ns)
"""

_CAPTURE = """
values = None
for cell in pickle.loads({cells!r}):
    run(cell)
    world = Hidden(ns, shell, cell)
    values = {{kind.kind: kind.capture(world) for kind in kinds()}}
if {full!r}:
    values = {{kind.kind: kind.capture(Hidden(ns, shell, None, True)) for kind in kinds()}}
own = [name for name in ns if name in {names!r}]
def packed(*values, own=frozenset()):
    pickled = dump(values, Context(ns), own=own)
    return bytes(pickled.stream), [bytes(buffer) for buffer in pickled.buffers]
for kind, value in values.items():
    assert type(value).__name__ != "Unkept", (kind, value.reason)
content = {{kind: packed(value) for kind, value in values.items() if value is not None}}
content[""] = packed(*[ns[name] for name in own], own=frozenset(own))
with open({file!r}, "wb") as file:
    pickle.dump((own, content), file)
"""

_RESTORE = """
with open({file!r}, "rb") as file:
    own, content = pickle.load(file)
restoring, lost = Restoring(ns), {{}}
with under(restoring):
    for early in (True, False):
        for kind in kinds():
            if kind.kind in content and (kind.kind in BEFORE_NAMES) == early:
                try:
                    kind.restore(load(*content[kind.kind])[0], Hidden(ns, shell))
                except NotRestorable as error:
                    lost[kind.kind] = str(error)
        if early:
            ns.update(zip(own, load(*content[""])))
remarks = restoring.remarks
"""


def session(
    tmp_path: Path,
    cells: list[str],
    check: str,
    *,
    names: tuple[str, ...] = (),
    ipython: bool = False,
    full: bool = False,
    here: str = "",
) -> str:
    """Run the cells, capture after each, restore the last capture in a fresh process and check it there.

    ``check`` finds ``ns``, ``shell``, ``lost`` (reasons by kind) and ``remarks``. ``here`` runs there before the
    restore. Returns what the check printed.
    """
    file = str(tmp_path / "hidden.pickle")
    root = str(Path(__file__).resolve().parents[2])
    known = {"root": root, "ipython": ipython, "file": file, "names": names, "full": full}
    known["cells"] = pickle.dumps(cells)
    _run((_CELLS + _CAPTURE).format(**known), tmp_path)
    return _run(_CELLS.format(**known) + here + "\n" + _RESTORE.format(**known) + "\n" + check, tmp_path)


def _run(script: str, folder: Path) -> str:
    file = folder / "session_script.py"  # for tracebacks with source
    file.write_text(script)
    command = f"exec(compile(open({str(file)!r}).read(), {str(file)!r}, 'exec'))"
    done = subprocess.run([sys.executable, "-c", command], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
