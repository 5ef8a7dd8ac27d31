"""Random states of torch's and cupy's devices, as plain bytes."""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

from ..rules.registry import NotRestorable, _restoring


def torch_states() -> dict[str, Any] | None:
    """States by device; those of a device that was never used are those that a seed gave it."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_rng_state"):
        return None
    states: dict[str, Any] = {"cpu": _bytes(torch.get_rng_state())}
    cuda = torch.cuda
    if cuda.is_initialized():
        # On the host: a generator of CUDA keeps seed and offset there, so nothing waits for the device.
        for index, generator in enumerate(cuda.default_generators):
            states[f"cuda:{index}"] = _bytes(generator.get_state())
    else:
        # torch.manual_seed before the first use of CUDA: torch has put it off, and so do we.
        seed = _waiting_seed(cuda)
        if seed is not None:
            states["cuda"] = seed
    return states


def set_torch_states(states: dict[str, Any]) -> None:
    """Continue from there.

    Raises
    ------
    NotRestorable
        A device is not here and the map names no other.
    """
    torch = importlib.import_module("torch")
    missing = []
    restoring = _restoring.get(None)
    for stored, state in states.items():
        if stored == "cpu":
            torch.set_rng_state(_tensor(torch, state))
            continue
        if stored == "cuda":
            torch.cuda.manual_seed_all(state)
            continue
        device = torch.device(restoring.device(stored) if restoring else stored)
        if device.type == "cpu":
            continue  # The CPU has a state of its own.
        if device.type != "cuda" or device.index is None or device.index >= torch.cuda.device_count():
            if any(state[8:16]):  # Seed and offset; one that was never drawn from is nobody's loss.
                missing.append(stored)
            continue
        torch.cuda.init()
        torch.cuda.default_generators[device.index].set_state(_tensor(torch, state))
    if missing:
        raise NotRestorable(f"of {', '.join(missing)} has no device here; seed it again, or give a device map")


def _waiting_seed(cuda: Any) -> int | None:
    """The seed that waits for CUDA to be initialized."""
    entry = getattr(getattr(cuda, "_lazy_seed_tracker", None), "manual_seed_all_cb", None)
    if not entry:
        return None
    try:
        seed = inspect.getclosurevars(entry[0]).nonlocals["seed"]
    except (KeyError, TypeError, IndexError):
        return None
    return seed if isinstance(seed, int) else None


def _bytes(state: Any) -> bytes:
    return bytes(state.numpy())


def _tensor(torch: Any, state: bytes) -> Any:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)


def cupy_states() -> list[str] | None:
    """Devices whose legacy generator was used. cuRAND tells nobody how far it has come."""
    generator = sys.modules.get("cupy.random._generator")
    if generator is None:
        return None
    return sorted(f"cuda:{device}" for device in getattr(generator, "_random_states", {}))


def set_cupy_states(devices: list[str]) -> None:
    """Nothing, where none was in use.

    Raises
    ------
    NotRestorable
        One was in use.
    """
    if devices:
        raise NotRestorable(
            f"of cupy on {', '.join(devices)} cannot be read out of cuRAND; "
            "call cupy.random.seed() again, or use cupy.random.default_rng()"
        )
