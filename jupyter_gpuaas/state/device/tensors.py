"""Tensors of torch as views of their storages, with what pickle drops: gradients, hooks, attributes, flags."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

from ..rules.registry import Context, NotRestorable
from .graphs import reduce_result
from .storages import canonical


def reduce_tensor(tensor: Any, context: Context) -> Any:
    torch = sys.modules["torch"]
    kind = type(tensor)
    if "__reduce_ex__" in _own(kind, torch) or "__reduce__" in _own(kind, torch):
        return NotImplemented
    with torch._C.DisableTorchFunctionSubclass():
        if tensor.grad_fn is not None:
            return reduce_result(tensor, context)
        extras = extras_of(tensor, torch)
        if not _is_plain(tensor, torch):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Hooks are kept by us.
                function, arguments = tensor._reduce_ex_internal(5)
            return _with(function, arguments, (kind, tensor.requires_grad), extras)
        base = _base(tensor, torch)
        if base is not None:
            place = (tensor.storage_offset(), tuple(tensor.size()), tensor.stride())
            return _with(as_view, (base, *place), (kind, tensor.requires_grad), extras)
        return _with(as_tensor, layout_of(tensor, context), (kind, tensor.requires_grad), extras)


def layout_of(tensor: Any, context: Context) -> tuple[Any, ...]:
    """Arguments of `as_tensor` for a dense tensor without what autograd knows of it."""
    storage = canonical(tensor.untyped_storage(), context)
    place = (tensor.storage_offset(), tuple(tensor.size()), tensor.stride())
    return storage, tensor.dtype, *place, (tensor.is_conj(), tensor.is_neg(), tensor.is_inference())


def extras_of(tensor: Any, torch: Any) -> tuple[Any, ...] | None:
    """What else belongs to a tensor; None for nothing."""
    attributes = dict(tensor.__dict__) or None
    slots = {
        name: getattr(tensor, name)
        for base in type(tensor).__mro__
        for name in _names(base.__dict__.get("__slots__", ()))
        if not name.startswith("__") and hasattr(tensor, name)
    }
    after = tensor._post_accumulate_grad_hooks if tensor.is_leaf and tensor.requires_grad else None
    grad = tensor.grad if tensor.is_leaf else None
    extras = (attributes, slots or None, grad, tensor._backward_hooks, after)
    return extras if any(part is not None for part in extras) else None


def fill_tensor(tensor: Any, extras: tuple[Any, ...]) -> None:
    attributes, slots, grad, hooks, after = extras
    torch = sys.modules["torch"]
    with torch._C.DisableTorchFunctionSubclass():
        if attributes:
            tensor.__dict__.update(attributes)
        for name, value in (slots or {}).items():
            object.__setattr__(tensor, name, value)
        if grad is not None:
            if grad.dtype != tensor.dtype:
                tensor.grad_dtype = grad.dtype
            tensor.grad = grad
        if hooks is not None:
            tensor._backward_hooks = hooks
        if after is not None:
            tensor._post_accumulate_grad_hooks = after
    claim_hook_ids(*(found for found in (hooks, after) if found is not None))


def claim_hook_ids(*hooks: Any) -> None:
    """Let the next hook get an id that none of these has; else it would take the place of one of them."""
    handle = importlib.import_module("torch.utils.hooks").RemovableHandle
    for mapping in hooks:
        for key in mapping:
            if isinstance(key, int):
                handle.next_id = max(handle.next_id, key + 1)


def _with(function: Any, arguments: tuple[Any, ...], dress: tuple[Any, bool], extras: Any) -> Any:
    made = dressed, (function, arguments, *dress)
    return made if extras is None else (*made, extras, None, None, fill_tensor)


def dressed(function: Any, arguments: tuple[Any, ...], kind: Any, requires_grad: bool) -> Any:
    """A tensor of its class, with its gradient flag."""
    torch = importlib.import_module("torch")
    tensor = function(*arguments)
    if kind is torch.Tensor:
        return tensor.requires_grad_() if requires_grad else tensor
    return torch.Tensor._make_subclass(kind, tensor, requires_grad)


def as_tensor(
    storage: Any, dtype: Any, offset: int, size: Any, stride: Any, flags: tuple[bool, bool, bool] = (False,) * 3
) -> Any:
    """A tensor on a storage."""
    torch = importlib.import_module("torch")
    conj, neg, inference = flags
    with torch.inference_mode(inference), torch.no_grad():
        tensor = torch.empty(0, dtype=dtype, device=storage.device).set_(storage, offset, size, stride)
    if conj or neg:
        torch._utils.set_tensor_metadata(tensor, {name: True for name, on in (("conj", conj), ("neg", neg)) if on})
    return tensor


def as_view(base: Any, offset: int, size: Any, stride: Any) -> Any:
    """A view that autograd knows as one: what is written through it counts as a change of its base."""
    torch = importlib.import_module("torch")
    with torch.inference_mode(base.is_inference()), torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
        return torch.as_strided(base, size, stride, offset)


def _base(tensor: Any, torch: Any) -> Any:
    base = tensor._base
    if base is None or (type(base) is not torch.Tensor and type(base).__name__ != "Parameter"):
        return None
    if base.dtype != tensor.dtype or base.grad_fn is not None or not _is_plain(base, torch):
        return None
    flags = (tensor.is_conj(), tensor.is_neg(), base.is_conj(), base.is_neg())
    if any(flags) or base.untyped_storage()._cdata != tensor.untyped_storage()._cdata:
        return None
    return base if base.is_inference() == tensor.is_inference() else None


def _is_plain(tensor: Any, torch: Any) -> bool:
    """Dense, with memory."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.device.type == "xla":
        return False
    dispatch = type(tensor).__torch_dispatch__
    if type(tensor) is not torch.Tensor and dispatch is not torch.Tensor.__torch_dispatch__:
        if type(tensor).__module__.startswith("torch._subclasses"):
            raise NotRestorable(f"is a {type(tensor).__name__}, which belongs to a trace of torch")
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(tensor) or _refuse()


def _refuse() -> bool:
    raise NotRestorable("is a tensor inside a transformation of torch.func, which ends with its call")


def _own(kind: Any, torch: Any) -> set[str]:
    """Names that the classes between this one and torch's define."""
    found: set[str] = set()
    for base in kind.__mro__:
        if base in (torch.Tensor, torch.nn.Parameter):
            break
        found.update(base.__dict__)
    return found


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)
