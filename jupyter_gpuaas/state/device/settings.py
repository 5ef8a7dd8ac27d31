"""Switches of torch that a notebook sets for the whole process or thread."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from ..rules.registry import NotRestorable

#: How a switch is read and how it is set, by paths below ``torch``; "=" is an attribute that is set.
_SWITCHES: tuple[tuple[str, str], ...] = (
    ("is_grad_enabled", "set_grad_enabled"),
    ("is_anomaly_enabled", "autograd.set_detect_anomaly"),
    ("is_warn_always_enabled", "set_warn_always"),
    ("get_float32_matmul_precision", "set_float32_matmul_precision"),
    ("is_autocast_cache_enabled", "set_autocast_cache_enabled"),
    ("backends.cuda.flash_sdp_enabled", "backends.cuda.enable_flash_sdp"),
    ("backends.cuda.mem_efficient_sdp_enabled", "backends.cuda.enable_mem_efficient_sdp"),
    ("backends.cuda.math_sdp_enabled", "backends.cuda.enable_math_sdp"),
    ("backends.cuda.cudnn_sdp_enabled", "backends.cuda.enable_cudnn_sdp"),
    ("backends.cudnn.enabled", "="),
    ("backends.cudnn.benchmark", "="),
    ("backends.cudnn.benchmark_limit", "="),
    ("backends.cudnn.deterministic", "="),
    ("backends.cudnn.allow_tf32", "="),
    ("backends.cuda.matmul.allow_tf32", "="),
    ("backends.cuda.matmul.allow_fp16_reduced_precision_reduction", "="),
    ("backends.cuda.matmul.allow_bf16_reduced_precision_reduction", "="),
    ("utils.deterministic.fill_uninitialized_memory", "="),
)
#: Those that are attributes of torch's modules, below ``torch``.
ATTRIBUTES = tuple(path for path, setter in _SWITCHES if setter == "=")
_AUTOCAST_DEVICES = ("cuda", "cpu")
_threads_at_first: int | None = None


def torch_settings(threads_mentioned: bool) -> dict[str, Any] | None:
    """All switches as plain values; None where torch is not loaded."""
    global _threads_at_first
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_default_dtype"):
        return None
    switches: dict[str, Any] = {}
    for path, _ in _SWITCHES:
        try:
            found = _walk(torch, path)
            value = found() if callable(found) else found
        except (AttributeError, RuntimeError):  # Not in this version; or set by the other of torch's two interfaces.
            continue
        if isinstance(value, (bool, int, str)):
            switches[path] = value
    threads = int(torch.get_num_threads())
    if _threads_at_first is None:
        _threads_at_first = -1 if threads_mentioned else threads
    return {
        "switches": switches,
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "device": str(torch.get_default_device()),
        "inference": bool(torch.is_inference_mode_enabled()),
        "deterministic": (
            bool(torch.are_deterministic_algorithms_enabled()),
            bool(torch.is_deterministic_algorithms_warn_only_enabled()),
        ),
        "autocast": {
            device: (bool(torch.is_autocast_enabled(device)), _name(torch.get_autocast_dtype(device)))
            for device in _AUTOCAST_DEVICES
        },
        "print": _print_options(),
        # How many threads are best is the host's affair unless the notebook said so.
        "threads": threads if threads != _threads_at_first else None,
        "cuda": int(torch.cuda.current_device()) if torch.cuda.is_initialized() else None,
    }


def set_torch_settings(value: dict[str, Any], place: Callable[[str], str]) -> None:
    """Set what differs.

    Raises
    ------
    NotRestorable
        Something cannot be set here; the rest is.
    """
    torch = importlib.import_module("torch")
    here = torch_settings(False) or {}
    failed: list[str] = []

    def attempt(what: str, do: Callable[[], Any]) -> None:
        try:
            do()
        except Exception as error:
            failed.append(f"{what}: {error}")

    for path, setter in _SWITCHES:
        if path in value["switches"] and value["switches"][path] != here["switches"].get(path):
            wanted = value["switches"][path]
            if setter == "=":
                owner, _, attribute = path.rpartition(".")
                attempt(path, lambda o=owner, a=attribute, w=wanted: setattr(_walk(torch, o), a, w))  # type: ignore[misc]
            else:
                attempt(path, lambda s=setter, w=wanted: _walk(torch, s)(w))  # type: ignore[misc]
    if value["dtype"] != here["dtype"]:
        attempt("default dtype", lambda: torch.set_default_dtype(getattr(torch, value["dtype"])))
    device = place(value["device"])
    if device != here["device"]:
        attempt("default device", lambda: torch.set_default_device(None if device == "cpu" else device))
    if value["deterministic"] != here["deterministic"]:
        on, warn_only = value["deterministic"]
        attempt("deterministic algorithms", lambda: torch.use_deterministic_algorithms(on, warn_only=warn_only))
    for kind, (on, dtype) in value["autocast"].items():
        if (on, dtype) != here["autocast"].get(kind):
            attempt("autocast", lambda k=kind, w=on: torch.set_autocast_enabled(k, w))  # type: ignore[misc]
            attempt("autocast", lambda k=kind, d=dtype: torch.set_autocast_dtype(k, getattr(torch, d)))  # type: ignore[misc]
    if value["print"] != here["print"]:
        attempt("print options", lambda: vars(sys.modules["torch._tensor_str"].PRINT_OPTS).update(value["print"]))
    if value["threads"] is not None and value["threads"] != torch.get_num_threads():
        attempt("threads", lambda: torch.set_num_threads(value["threads"]))
    if value["cuda"] is not None:
        wanted_device = place(f"cuda:{value['cuda']}")
        if wanted_device.startswith("cuda"):
            attempt("current device", lambda: torch.cuda.set_device(wanted_device))
    if value["inference"] != here["inference"]:
        failed.append("inference mode was entered and not left; enter it again" if value["inference"] else
                      "inference mode is on and cannot be left from outside")  # fmt: skip
    if failed:
        raise NotRestorable("; ".join(failed))


def _walk(torch: Any, path: str) -> Any:
    found = torch
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _print_options() -> dict[str, Any]:
    options = getattr(sys.modules.get("torch._tensor_str"), "PRINT_OPTS", None)
    return dict(sorted(vars(options).items())) if options is not None else {}
