"""Other systems that save a notebook's variables, each driven as its documentation says.

Loaded by the zygotes of ``tests/state/fresh.py``; a zygote may run in the environment of one of these systems, so each
imports its library when it is used.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from tests.state.fresh import Restored, System, run_cells


class Dill:
    """``dill.dump_module`` and ``dill.load_module``."""

    def run_and_save(self, cells: list[str], folder: Path) -> dict[str, Any]:
        import dill

        namespace = run_cells(cells)
        dill.dump_module(folder / "dill")
        return namespace

    def load(self, folder: Path) -> Restored:
        import dill

        dill.load_module(folder / "dill")
        return Restored(sys.modules["__main__"].__dict__, {})


class CloudPickle:
    """One pickle of the whole namespace."""

    def run_and_save(self, cells: list[str], folder: Path) -> dict[str, Any]:
        import cloudpickle

        namespace = run_cells(cells)
        with open(folder / "cloudpickle", "wb") as file:
            cloudpickle.dump({name: value for name, value in namespace.items() if not name.startswith("__")}, file)
        return namespace

    def load(self, folder: Path) -> Restored:
        import cloudpickle

        namespace = sys.modules["__main__"].__dict__
        with open(folder / "cloudpickle", "rb") as file:
            namespace.update(cloudpickle.load(file))
        return Restored(namespace, {})


class Kishu:
    """Kishu in an IPython shell: it commits after each cell, and checks the last commit out in another shell."""

    def run_and_save(self, cells: list[str], folder: Path) -> dict[str, Any]:
        import nbformat

        nbformat.write(nbformat.v4.new_notebook(), folder / "notebook.ipynb")
        shell, kishu = self._start(folder)
        kishu.install_kishu_hooks()
        committed = None
        for cell in cells:
            shell.run_cell(cell, store_history=True).raise_error()
            before, committed = committed, kishu._kishu_branch.get_head().commit_id
            if committed == before:
                # IPython prints what a hook raises and goes on.
                raise RuntimeError("made no commit")
        (folder / "commit").write_text(committed)
        return shell.user_ns

    def load(self, folder: Path) -> Restored:
        shell, kishu = self._start(folder)
        kishu.checkout((folder / "commit").read_text(), skip_notebook=True)
        return Restored(shell.user_ns, {})

    def _start(self, folder: Path) -> tuple[Any, Any]:
        os.environ["IPYTHONDIR"] = str(folder / "ipython")
        from IPython.core.interactiveshell import InteractiveShell
        from kishu.jupyterint import KishuForJupyter
        from kishu.notebook_id import NotebookId

        shell = InteractiveShell.instance()
        kishu = KishuForJupyter(NotebookId("key", folder / "notebook.ipynb", "kernel"), ip=shell)
        # It would ask a front end to save the notebook.
        kishu._test_mode = True
        return shell, kishu


SYSTEMS: dict[str, System] = {"dill": Dill(), "cloudpickle": CloudPickle(), "kishu": Kishu()}
#: Imported before the forks.
PRELOADED = ("kishu.jupyterint", "IPython.core.interactiveshell")
