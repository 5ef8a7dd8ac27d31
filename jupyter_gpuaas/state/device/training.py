"""Models, optimizers and schedulers: their hooks, and the methods that torch patches into instances."""

from __future__ import annotations

import functools
import importlib
import sys
import weakref
from typing import Any

from ..rules.registry import Context
from .tensors import claim_hook_ids

_PLAIN: Any = object


def reduce_module(module: Any, context: Context) -> Any:
    """As pickle does it, but hooks keep their ids to themselves, and a lost compilation is said."""
    torch = sys.modules["torch"]
    kind: Any = type(module)
    if kind.__reduce_ex__ is not _PLAIN.__reduce_ex__ or kind.__reduce__ is not _PLAIN.__reduce__:
        return NotImplemented
    if module.__dict__.get("_compiled_call_impl") is not None:
        context.rebuilt("a module that compile() was called on: not compiled until that is called again")
    if "parametrizations" in vars(module).get("_modules", ()) and type(module).__name__.startswith("Parametrized"):
        # Its class was made for it alone, of the class that it had and a property for each parametrized tensor.
        return empty_module, (type(module).__base__,), dict(vars(module)), None, None, fill_parametrized
    reduced = module.__reduce_ex__(5)
    if reduced[0].__module__ != "copyreg" or len(reduced) < 3 or not _hooks(module, torch):
        return reduced
    return *reduced[:3], *(tuple(reduced[3:]) + (None,) * 2)[:2], fill_module


def fill_module(module: Any, state: Any) -> None:
    module.__setstate__(state)
    claim_hook_ids(*_hooks(module, sys.modules["torch"]))


def empty_module(kind: Any) -> Any:
    return kind.__new__(kind)


def fill_parametrized(module: Any, state: dict[str, Any]) -> None:
    module.__setstate__(state)
    claim_hook_ids(*_hooks(module, sys.modules["torch"]))
    parametrize = importlib.import_module("torch.nn.utils.parametrize")
    parametrize._inject_new_class(module)
    for name in list(module._modules["parametrizations"]._modules):
        parametrize._inject_property(module, name)


def _hooks(owner: Any, torch: Any) -> list[Any]:
    """The mappings of hook ids to hooks that are not empty."""
    return [
        found for name, found in vars(owner).items() if name.endswith("_hooks") and isinstance(found, dict) and found
    ]


def reduce_optimizer(optimizer: Any, context: Context) -> Any:
    """All that an optimizer has; torch's own way keeps neither hooks nor what a subclass adds."""
    torch = sys.modules["torch"]
    kind: Any = type(optimizer)
    if kind.__getstate__ is not torch.optim.Optimizer.__getstate__ or kind.__reduce_ex__ is not _PLAIN.__reduce_ex__:
        return NotImplemented
    state = dict(vars(optimizer))
    counted = getattr(state.get("step"), "_wrapped_by_lr_sched", False)
    if counted:
        del state["step"]
    return empty_optimizer, (kind,), (state, counted), None, None, fill_optimizer


def empty_optimizer(kind: Any) -> Any:
    return object.__new__(kind)


def fill_optimizer(optimizer: Any, state: tuple[dict[str, Any], bool]) -> None:
    attributes, counted = state
    optimizer.__setstate__(attributes)  # patches the class, too, for the profiler
    claim_hook_ids(*_hooks(optimizer, sys.modules["torch"]))
    if counted:
        count_steps(optimizer)


def count_steps(optimizer: Any) -> None:
    """Wrap the optimizer's step as a scheduler does, which wants to know whether it was called."""
    reference = weakref.ref(optimizer)
    plain = type(optimizer).step

    @functools.wraps(plain)
    def step(*arguments: Any, **named: Any) -> Any:
        found: Any = reference()
        found._opt_called = True
        return plain.__get__(found, type(found))(*arguments, **named)

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = step


def reduce_scheduler(scheduler: Any, context: Context) -> Any:
    state = dict(vars(scheduler))
    refers = state.pop("_scale_fn_ref", None)
    return empty_optimizer, (type(scheduler),), (state, refers is not None), None, None, fill_scheduler


def fill_scheduler(scheduler: Any, state: tuple[dict[str, Any], bool]) -> None:
    attributes, refers = state
    vars(scheduler).update(attributes)
    if refers:
        scheduler._init_scale_fn()


def reduce_handle(handle: Any, context: Context) -> Any:
    """The handle of a hook; its mapping may be gone."""
    return empty_optimizer, (type(handle),), handle.__getstate__(), None, None, fill_handle


def fill_handle(handle: Any, state: Any) -> None:
    handle.__setstate__(state)


# -- compiled ----------------------------------------------------------------------------------------------


def reduce_compiled_module(module: Any, context: Context) -> Any:
    """A module that torch.compile gave: the module in it, compiled anew at its first call."""
    options = _options(module.dynamo_ctx, context)
    context.rebuilt("compiled anew by torch.compile at its first call")
    extra = {name: value for name, value in vars(module).items() if name in _USERS}
    return compiled_module, (module._orig_mod, options), extra, None, None, fill_compiled_module


#: What a user may have put on the wrapper itself; the rest of it is made from the module in it.
_USERS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "training")


def compiled_module(original: Any, options: dict[str, Any]) -> Any:
    return importlib.import_module("torch").compile(original, **options)


def fill_compiled_module(module: Any, extra: dict[str, Any]) -> None:
    for name, value in extra.items():
        if isinstance(value, dict):
            vars(module)[name].update(value)
        else:
            vars(module)[name] = value
    claim_hook_ids(*_hooks(module, sys.modules["torch"]))


def reduce_compiled_function(function: Any, context: Context) -> Any:
    """A function that torch.compile gave; None for any other."""
    original = function.__dict__.get("_torchdynamo_orig_callable")
    if original is None or not function.__dict__.get("_is_torch_compile"):
        return None
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    options = _options(cells["self"].cell_contents, context)
    context.rebuilt("compiled anew by torch.compile at its first call")
    return compiled_function, (original, options)


def compiled_function(original: Any, options: dict[str, Any]) -> Any:
    return importlib.import_module("torch").compile(original, **options)


def _options(made: Any, context: Context) -> dict[str, Any]:
    """How torch.compile was called, read off the context object that it left."""
    backend: Any = made.callback
    while hasattr(backend, "_torchdynamo_orig_backend") or hasattr(backend, "_torchdynamo_orig_callable"):
        backend = getattr(backend, "_torchdynamo_orig_backend", None) or backend._torchdynamo_orig_callable
    options: dict[str, Any] = {"fullgraph": bool(made.fullgraph), "dynamic": made._dynamic}
    kind = type(backend).__name__
    if "Inductor" in kind:
        config = getattr(backend, "config", None)
        options["options"] = dict(config) or None if config else None
    elif kind == "_TorchCompileWrapper":
        options["backend"] = backend.compiler_name if backend.compiler_name in _backends() else backend.compiler_fn
        options["options"] = backend.kwargs.get("options")
        options["mode"] = backend.kwargs.get("mode")
    elif callable(backend):
        options["backend"] = backend
    return {name: value for name, value in options.items() if value is not None}


def _backends() -> list[str]:
    registry = importlib.import_module("torch._dynamo.backends.registry")
    found: list[str] = list(registry.list_backends(exclude_tags=()))
    return found


def compiler_names(namespace: dict[str, Any]) -> set[str]:
    """Names that torch.compile put into a namespace for the code that it made; they end with that code."""
    utils = sys.modules.get("torch._dynamo.utils")
    if utils is None:
        return set()
    kept = utils.CleanupManager.instance.values  # a dict in torch's own weak dictionary
    hooks = [hook for hooks in list((kept if isinstance(kept, dict) else kept()).values()) for hook in hooks]
    return {hook.name for hook in hooks if hook.scope is namespace}
