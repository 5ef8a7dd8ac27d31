"""Each system: how it saves a namespace so that it survives a power cut, and how a fresh process gets it back.

A system saves the whole namespace or, the second time, what it takes for changed; its caller waits all that time, for
ours only while the state is copied.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from states import STATES, run

KEY = b"0123456789abcdef"


class Saved(NamedTuple):
    """What one save cost."""

    #: Until it is durable.
    seconds: float
    #: Until the next cell may run.
    stall_s: float


class System:
    """One system in one process; ``folder`` is where it keeps things."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, cell: str, scale: float, before: Callable[[], None] = lambda: None) -> Saved:
        """Run a cell in ``__main__``, call ``before``, and save."""
        namespace = run(cell, scale)
        before()
        begun = time.perf_counter()
        self.save(namespace)
        seconds = time.perf_counter() - begun
        return Saved(seconds, seconds)

    def save(self, namespace: dict[str, Any]) -> None:
        raise NotImplementedError

    def load(self) -> dict[str, Any]:
        """The namespace, in a process that has none of it."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """Do once what needs imports; files in ``folder`` stay as they are."""
        importlib.import_module("cloudpickle")
        importlib.import_module("dill")


class Ours(System):
    """A checkpoint after each cell into a folder, as sessions make them."""

    def __init__(self, folder: Path) -> None:
        from jupyter_gpuaas.state import Checkpointer
        from jupyter_gpuaas.store import FolderStore

        super().__init__(folder)
        self.checkpointer = Checkpointer(FolderStore(folder / "store"), key=KEY)
        self.newest: Any = None
        self.pending: Any = None

    def run(self, cell: str, scale: float, before: Callable[[], None] = lambda: None) -> Saved:
        namespace = run(cell, scale)
        before()
        begun = time.perf_counter()
        if self.newest is None:
            self.newest = self.checkpointer.capture(namespace)
            seconds = stall_s = time.perf_counter() - begun
        else:
            stall_s = self.begin(cell.format(scale=scale), namespace)
            self.newest = self.pending.write()
            seconds = time.perf_counter() - begun
        (self.folder / "id").write_text(self.newest.id)
        return Saved(seconds, stall_s)

    def begin(self, cell: str, namespace: dict[str, Any]) -> float:
        """How long the next cell waits, finding out what this one may have touched included."""
        begun = time.perf_counter()
        names = self.checkpointer.touched_by(cell, namespace).names
        self.pending = self.checkpointer.begin(namespace, parent=self.newest, touched=names, source=cell)
        return time.perf_counter() - begun

    def load(self) -> dict[str, Any]:
        result = self.checkpointer.restore((self.folder / "id").read_text())
        lost = [name for name, verdict in result.report.items() if verdict.outcome == "lost"]
        if lost:
            raise RuntimeError(f"lost: {', '.join(lost)}")
        found: dict[str, Any] = result.namespace
        return found

    def warm_up(self) -> None:
        from jupyter_gpuaas.state import Checkpointer
        from jupyter_gpuaas.store import MemoryStore

        super().warm_up()  # dill is imported when a first class or function is saved
        nothing = Checkpointer(MemoryStore(), key=KEY)
        nothing.restore(nothing.capture({"nothing": []}))


class _Pickler(System):
    """Writes one file of the whole namespace."""

    def save(self, namespace: dict[str, Any]) -> None:
        values = {
            name: value
            for name, value in namespace.items()
            if not name.startswith("__") and not isinstance(value, types.ModuleType)
        }
        with open(self.folder / "saved", "wb") as file:
            self.write(values, file)
            file.flush()
            os.fsync(file.fileno())

    def write(self, values: dict[str, Any], file: Any) -> None:
        raise NotImplementedError

    def load(self) -> dict[str, Any]:
        with open(self.folder / "saved", "rb") as file:
            return self.read(file)

    def read(self, file: Any) -> dict[str, Any]:
        found: dict[str, Any] = pickle.load(file)
        return found


class CloudPickle(_Pickler):
    def write(self, values: dict[str, Any], file: Any) -> None:
        import cloudpickle

        cloudpickle.dump(values, file, protocol=5)


class Pickle5(_Pickler):
    """Buffers out of band, behind the pickle."""

    def write(self, values: dict[str, Any], file: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        stream = pickle.dumps(values, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        pickle.dump((stream, [view.nbytes for view in views]), file)
        for view in views:
            file.write(view)

    def read(self, file: Any) -> dict[str, Any]:
        import numpy

        stream, sizes = pickle.load(file)
        buffers = [numpy.empty(size, numpy.uint8) for size in sizes]
        for buffer in buffers:
            file.readinto(buffer)
        found: dict[str, Any] = pickle.loads(stream, buffers=buffers)
        return found


class TorchSave(_Pickler):
    def write(self, values: dict[str, Any], file: Any) -> None:
        import torch

        torch.save(values, file, pickle_protocol=5)

    def read(self, file: Any) -> dict[str, Any]:
        import torch

        found: dict[str, Any] = torch.load(file, weights_only=False)
        return found


class SafeTensors(System):
    """The tensors of a model and of its optimizer; the restoring program has the code that makes both."""

    def save(self, namespace: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        model, optimizer = namespace["model"], namespace["optimizer"]
        tensors = {f"model.{name}": value.detach() for name, value in model.named_parameters()}
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
        save_file(tensors, self.folder / "saved")
        with open(self.folder / "saved", "rb") as file:
            os.fsync(file.fileno())

    def load(self) -> dict[str, Any]:
        import torch
        from safetensors.torch import load_file

        tensors = load_file(self.folder / "saved")
        width = len(tensors["model.0.bias"])
        with torch.device("meta"):
            model = torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(17)])
        model[16].weight = model[0].weight
        weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        model.load_state_dict(weights, strict=False, assign=True)
        model[16].weight = model[0].weight
        optimizer = torch.optim.Adam(model.parameters())
        empty = optimizer.state_dict()
        state: dict[int, dict[str, Any]] = {}
        for key, value in tensors.items():
            kind, number, name = key.split(".")
            if kind == "optimizer":
                state.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": empty["param_groups"]})
        tied, flat = model[0].weight, torch.arange(1000.0)
        return {
            "model": model,
            "optimizer": optimizer,
            "width": width,
            "tied": tied,
            "view": tied.detach()[:10],
            "flat": flat,
            "half": flat[500:],
        }

    def warm_up(self) -> None:
        importlib.import_module("safetensors.torch")


class Dill(System):
    """``dill.dump_module``."""

    def save(self, namespace: dict[str, Any]) -> None:
        import dill

        dill.dump_module(self.folder / "saved")
        with open(self.folder / "saved", "rb") as file:
            os.fsync(file.fileno())

    def load(self) -> dict[str, Any]:
        import dill

        dill.load_module(self.folder / "saved")
        return sys.modules["__main__"].__dict__


class Kishu(System):
    """Kishu in an IPython shell: it commits in a hook behind each cell, and all waits for that."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import nbformat

        os.environ["IPYTHONDIR"] = str(folder / "ipython")
        os.environ["HOME"] = str(folder)
        from IPython.core.interactiveshell import InteractiveShell
        from kishu.jupyterint import KishuForJupyter
        from kishu.notebook_id import NotebookId

        nbformat.write(nbformat.v4.new_notebook(), folder / "notebook.ipynb")
        self._shell = InteractiveShell.instance()
        self._kishu = KishuForJupyter(NotebookId("key", folder / "notebook.ipynb", "kernel"), ip=self._shell)
        # It would ask a front end to save the notebook.
        self._kishu._test_mode = True
        self._ended_s = 0.0
        self._hooked = False
        self._before_save: Callable[[], None] = lambda: None

    def run(self, cell: str, scale: float, before: Callable[[], None] = lambda: None) -> Saved:
        self._before_save = before
        if not self._hooked:
            self._shell.events.register("post_run_cell", self._cell_ended)
            self._kishu.install_kishu_hooks()
            self._hooked = True
        last = self._head() if (self.folder / "commit").exists() else None
        self._shell.run_cell(cell.format(scale=scale), store_history=True).raise_error()
        seconds = time.perf_counter() - self._ended_s
        if self._head() == last:
            # IPython prints what a hook raises and goes on.
            raise RuntimeError("made no commit")
        (self.folder / "commit").write_text(self._head())
        sys.modules["__main__"].__dict__.update(self._shell.user_ns)
        return Saved(seconds, seconds)

    def _cell_ended(self, result: Any) -> None:
        self._before_save()
        self._ended_s = time.perf_counter()

    def _head(self) -> str:
        return str(self._kishu._kishu_branch.get_head().commit_id)

    def load(self) -> dict[str, Any]:
        self._kishu.checkout((self.folder / "commit").read_text(), skip_notebook=True)
        found: dict[str, Any] = self._shell.user_ns
        return found


class _Entry(NamedTuple):
    words: str
    make: type[System]
    states: tuple[str, ...] = tuple(STATES)


SYSTEMS = {
    "ours": _Entry("jupyter_gpuaas", Ours),
    "pickle5": _Entry("pickle 5, out of band", Pickle5),
    "cloudpickle": _Entry("cloudpickle", CloudPickle),
    "dill": _Entry("dill.dump_module", Dill),
    "torch": _Entry("torch.save", TorchSave, ("model",)),
    "safetensors": _Entry("safetensors", SafeTensors, ("model",)),
    "kishu": _Entry("Kishu", Kishu),
}
