"""Results of autograd: tensors that hang on a graph of nodes in C++."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

from ..rules.registry import Context, NotRestorable

USED_UP = (
    "Trying to backward through the graph a second time (or directly access saved tensors after they have already "
    "been freed): it had been used up when this tensor was saved in a checkpoint."
)
NOT_KEPT = "The graph of this tensor was not kept in the checkpoint that it was restored from: run its cell again."


def reduce_result(tensor: Any, context: Context) -> Any:
    """A view of a leaf is made again; of all else the value is kept, and a graph that says why it is none.

    A name that is such a result is reported instead, unless its graph was used up: to go on from it is what it is for.
    """
    from .tensors import extras_of, layout_of

    torch = sys.modules["torch"]
    leaf = _viewed_leaf(tensor, torch)
    if leaf is not None:
        made: Any = view_of_leaf, (leaf, tuple(tensor.size()), tensor.stride(), tensor.storage_offset())
        extras = extras_of(tensor, torch)
        return made if extras is None else (*made, extras, None, None, fill_result)
    spent = _is_used_up(tensor.grad_fn)
    if not spent and any(value is tensor for value in context.namespace.values()):
        raise NotRestorable(
            f"is a result of autograd ({tensor.grad_fn.name()}) whose graph cannot be stored; "
            "detach() it or run its cell again"
        )
    if tensor.layout is not torch.strided or type(tensor) is not torch.Tensor:
        raise NotRestorable("is a result of autograd that is no plain tensor; detach() it or run its cell again")
    if spent:
        context.rebuilt("a result of autograd whose graph was used up: its value, and backward() says so as before")
    else:
        context.rebuilt("a result of autograd in it has its value but not its graph: backward() through it fails")
    grad = tensor.grad if tensor.retains_grad else None
    made = without_graph, (spent, *layout_of(tensor, context))
    extras = extras_of(tensor, torch)
    if extras is None and grad is None:
        return made
    attributes, slots, _, hooks, _ = extras or (None,) * 5
    return *made, (attributes, slots, grad, hooks, None), None, None, fill_result


#: Nodes that only look at memory otherwise; any chain of them is one strided view.
_VIEWS = frozenset(
    f"{name}Backward{number}"
    for name in "Select Slice T Transpose Permute View Unsqueeze Squeeze Alias AsStrided Narrow Diagonal".split()
    for number in range(4)
)


def _viewed_leaf(tensor: Any, torch: Any) -> Any:
    """The leaf that a tensor is a view of and nothing more; None for any other result."""
    if type(tensor) is not torch.Tensor or tensor.layout is not torch.strided or tensor.retains_grad:
        return None
    node = tensor.grad_fn
    while node is not None and node.name() in _VIEWS and len(node.next_functions) == 1:
        node = node.next_functions[0][0]
    if node is None or node.name() != "torch::autograd::AccumulateGrad":
        return None
    leaf = node.variable
    same = leaf.dtype == tensor.dtype and leaf.untyped_storage()._cdata == tensor.untyped_storage()._cdata
    return leaf if same and not (tensor.is_conj() or tensor.is_neg() or tensor._backward_hooks) else None


def view_of_leaf(leaf: Any, size: Any, stride: Any, offset: int) -> Any:
    torch = importlib.import_module("torch")
    with torch.enable_grad(), torch._C.DisableTorchFunctionSubclass():
        return torch.as_strided(leaf, size, stride, offset)


def _is_used_up(root: Any) -> bool:
    """Whether backward() would fail as some node's saved tensors were freed."""
    seen: set[Any] = set()
    todo = [root]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for name in dir(node):
            if name.startswith("_raw_saved_") or name == "saved_tensors":
                continue
            if name.startswith("_saved_"):
                try:
                    getattr(node, name)
                except RuntimeError as error:
                    if "freed" in str(error):
                        return True
        if hasattr(node, "saved_tensors"):
            try:
                _ = node.saved_tensors
            except RuntimeError as error:
                if "freed" in str(error):
                    return True
        todo.extend(following for following, _ in node.next_functions)
    return False


def without_graph(spent: bool, *layout: Any) -> Any:
    """A tensor that is a result of autograd, on memory that others may share."""
    from .tensors import as_tensor

    torch = importlib.import_module("torch")
    value = as_tensor(*layout)
    with torch.enable_grad():
        anchor = torch.empty((), device=value.device, requires_grad=True)
        return _failing(USED_UP if spent else NOT_KEPT).apply(anchor, value)


def fill_result(tensor: Any, extras: tuple[Any, ...]) -> None:
    from .tensors import fill_tensor

    attributes, slots, grad, hooks, after = extras
    fill_tensor(tensor, (attributes, slots, None, hooks, after))
    if grad is not None:
        tensor.retain_grad()
        tensor.grad = grad


@functools.cache
def _failing(reason: str) -> Any:
    """A function of autograd whose backward says why there is none."""

    def forward(ctx: Any, anchor: Any, value: Any) -> Any:
        ctx.mark_dirty(value)
        return value

    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(reason)

    function: Any = sys.modules["torch"].autograd.Function
    steps = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(function)("NotKept", (function,), steps)
