"""A namespace as a value that two namespaces have in common exactly if nobody could tell them apart.

Objects and memory are numbered in the order in which they are met, so that aliases are part of the value.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np


class Walk:
    """One walk over one namespace."""

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self._namespace = namespace
        self._objects: dict[int, int] = {}
        self._alive: list[Any] = []
        self._memory: list[tuple[int, int]] = []
        self._regions: dict[int, int] = {}

    def form(self, names: list[str]) -> list[tuple[str, Any]]:
        """The names in this order; nothing is compared by identity with objects outside."""
        self._find_memory(names)
        return [(name, self._of(self._namespace[name])) for name in names]

    def _find_memory(self, names: list[str]) -> None:
        """Merge all memory that is reached into regions, by address."""
        seen: set[int] = set()
        spans: list[tuple[int, int]] = []
        todo = [self._namespace[name] for name in names]
        while todo:
            obj = todo.pop()
            if id(obj) in seen:
                continue
            seen.add(id(obj))
            self._alive.append(obj)
            if isinstance(obj, np.ndarray):
                spans.append(_bounds(obj))
                if obj.base is not None:
                    todo.append(_base(obj))
                if obj.dtype == object:
                    todo.extend(obj.ravel().tolist())
            elif _is_tensor(obj):
                storage = obj.detach().untyped_storage()
                spans.append((storage.data_ptr(), storage.data_ptr() + storage.nbytes()))
                if obj.grad is not None:
                    todo.append(obj.grad)
            elif isinstance(obj, dict):
                todo.extend(obj.values())
            elif isinstance(obj, (list, tuple, set)):
                todo.extend(obj)
            elif hasattr(obj, "_mgr"):
                todo.extend(np.asarray(block.values) for block in obj._mgr.blocks)
            elif isinstance(obj, types.FunctionType):
                todo.extend(cell.cell_contents for cell in obj.__closure__ or ())
            elif hasattr(obj, "__dict__") and not isinstance(obj, (type, types.ModuleType)):
                todo.append(vars(obj))
        for low, high in sorted(spans):
            if self._memory and low < self._memory[-1][1]:
                self._memory[-1] = (self._memory[-1][0], max(high, self._memory[-1][1]))
            else:
                self._memory.append((low, high))

    def _where(self, address: int, nbytes: int) -> tuple[int, int] | None:
        """Number of the region and offset in it."""
        if not nbytes:
            return None
        for low, high in self._memory:
            if low <= address < high:
                return self._regions.setdefault(low, len(self._regions)), address - low
        raise AssertionError("memory that the first walk did not find")

    def _of(self, obj: Any) -> Any:
        if obj is None or isinstance(obj, (int, float, str, bytes, complex, np.generic)):
            return type(obj).__name__, repr(obj)
        if isinstance(obj, types.ModuleType):
            return "module", obj.__name__
        if id(obj) in self._objects:
            return "again", self._objects[id(obj)]
        self._objects[id(obj)] = len(self._objects)
        self._alive.append(obj)
        if isinstance(obj, np.ndarray):
            start = obj.__array_interface__["data"][0]
            content = self._items(obj) if obj.dtype == object else obj.tobytes()
            base = None if obj.base is None else self._of(_base(obj))
            flags = (obj.flags.writeable, obj.flags.owndata)
            where = self._where(start, obj.nbytes)
            return "array", str(obj.dtype), obj.shape, obj.strides, where, flags, base, content
        if _is_tensor(obj):
            where = self._where(obj.data_ptr(), obj.numel())
            grad = None if obj.grad is None else self._of(obj.grad)
            value = obj.detach().numpy().tobytes()
            return type(obj).__name__, str(obj.dtype), obj.shape, obj.stride(), where, obj.requires_grad, grad, value
        if hasattr(obj, "_mgr"):
            blocks = [np.asarray(block.values) for block in obj._mgr.blocks]
            places = [self._where(block.__array_interface__["data"][0], block.nbytes) for block in blocks]
            axes = [[repr(label) for label in axis] for axis in obj.axes]
            return type(obj).__name__, axes, self._of(obj.to_numpy().tolist()), places
        if isinstance(obj, dict):
            return "dict", [(self._of(key), self._of(value)) for key, value in obj.items()]
        if isinstance(obj, (list, tuple)):
            return type(obj).__name__, [self._of(item) for item in obj]
        if isinstance(obj, set):
            return "set", sorted(repr(item) for item in obj)
        if isinstance(obj, types.FunctionType):
            own = obj.__globals__ is self._namespace
            cells = [self._cell(cell) for cell in obj.__closure__ or ()]
            return "function", obj.__name__, own, obj.__code__.co_code, cells, self._of(obj.__defaults__)
        if isinstance(obj, type):
            methods = sorted(name for name in vars(obj) if not name.startswith("__"))
            return "class", obj.__name__, [(name, self._of(vars(obj)[name])) for name in methods]
        if isinstance(obj, (types.BuiltinFunctionType, types.MethodType)):
            return "method", obj.__name__, self._of(obj.__self__)
        return "instance", self._of(type(obj)), self._of(vars(obj))

    def _cell(self, cell: Any) -> Any:
        key = id(cell)
        if key in self._objects:
            return "again", self._objects[key]
        self._objects[key] = len(self._objects)
        return "cell", self._of(cell.cell_contents)

    def _items(self, array: Any) -> list[Any]:
        return [self._of(item) for item in array.ravel().tolist()]


def canonical(namespace: Mapping[str, Any], without: Collection[str] = ()) -> list[tuple[str, Any]]:
    """The form of all names that are not the interpreter's."""
    names = sorted(name for name in namespace if not name.startswith("__") and name not in without)
    return Walk(namespace).form(names)


def _bounds(array: Any) -> tuple[int, int]:
    low = high = array.__array_interface__["data"][0]
    for length, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += stride * (length - 1)
        else:
            high += stride * (length - 1)
    return low, high + array.itemsize if array.size else low


def _base(array: Any) -> Any:
    """The base, without what stands between where numpy makes a view from an address."""
    return array.base.base if type(array.base).__name__ in ("DummyArray", "Within") else array.base


def _is_tensor(obj: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(obj, torch.Tensor)
