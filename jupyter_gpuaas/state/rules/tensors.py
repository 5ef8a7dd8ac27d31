"""Tensors, storages, devices and generators of torch; what is to be done for them is in `state.device`."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from ..device.storages import reduce_typed, reduce_untyped
from ..device.tensors import reduce_tensor
from .registry import Context, restoring, rule

rule("torch.Tensor")(reduce_tensor)
rule("torch.storage.UntypedStorage")(reduce_untyped)
rule("torch.storage.TypedStorage")(reduce_typed)


@rule("torch.device", exact=True)
def reduce_device(device: Any, context: Context) -> Any:
    return device_of, (str(device),)


def device_of(stored: str) -> Any:
    """The device that takes the place of this one, as the device map says: code that names it goes on working."""
    torch = importlib.import_module("torch")
    mapped = restoring().device(stored)
    if mapped != stored:
        restoring().remark(f"a torch.device that was {stored} is {mapped}")
    return torch.device(mapped)


@rule("torch._C.Generator")
def reduce_generator(generator: Any, context: Context) -> Any:
    torch = sys.modules["torch"]
    if generator is torch.default_generator:
        return default_generator, ()
    return generator_of, (str(generator.device), generator.get_state())


def default_generator() -> Any:
    """The one that random functions of torch use; its state is not a variable's."""
    return importlib.import_module("torch").default_generator


def generator_of(stored: str, state: Any) -> Any:
    torch = importlib.import_module("torch")
    device = restoring().device(stored)
    generator = torch.Generator(device)
    state = state.cpu()  # it was mapped as all memory is, and states are read on the CPU
    if torch.device(device).type == torch.device(stored).type:
        generator.set_state(state)
    else:
        # The algorithms differ, so the numbers cannot go on; the seed is kept, which is what a run on it begins with.
        restoring().remark(f"a torch.Generator of {stored} is one of {device}, newly seeded: its numbers differ")
        generator.manual_seed(int.from_bytes(bytes(state.numpy().tobytes()[:8]), "little") & (2**63 - 1))
    return generator
