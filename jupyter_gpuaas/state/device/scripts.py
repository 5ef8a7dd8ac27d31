"""TorchScript: saved and loaded by torch, with the very tensors that others hold in place of the copies in the file."""

from __future__ import annotations

import importlib
import io
import sys
import warnings
from typing import Any

from ..rules.registry import Context, restoring


def reduce_script(script: Any, context: Context) -> Any:
    torch = sys.modules["torch"]
    saved = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is on its way out is no news of the capture
        torch.jit.save(script, saved)
    context.rebuilt("TorchScript, loaded from what torch.jit.save writes")
    if not hasattr(script, "named_modules"):
        return script_of, (saved.getvalue(),)
    tensors = {
        (path, name): tensor
        for path, module in script.named_modules(remove_duplicate=False)
        for found in (module.named_parameters(recurse=False), module.named_buffers(recurse=False))
        for name, tensor in found
    }
    return script_of, (saved.getvalue(),), (tensors, script.training), None, None, fill_script


def script_of(saved: bytes) -> Any:
    torch = importlib.import_module("torch")
    moved = restoring().device_map
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(io.BytesIO(saved), map_location=restoring().device("cuda") if "cuda" in moved else None)


def fill_script(script: Any, state: tuple[dict[tuple[str, str], Any], bool]) -> None:
    tensors, training = state
    modules = dict(script.named_modules(remove_duplicate=False))
    for (path, name), tensor in tensors.items():
        modules[path]._c.setattr(name, tensor)
    script.train(training)
