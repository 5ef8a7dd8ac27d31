"""What a kind of hidden state is, and what it may know and say."""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import sys
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from ..lost import Lost
from ..pickler import dump
from ..rules.registry import Context, NotRestorable, _restoring


@dataclass
class Hidden:
    """What a kind looks at.

    Attributes
    ----------
    shell
        IPython's ``InteractiveShell``, where there is one.
    cell
        Source of the cell that has just finished.
    full
        Look at everything, also what is slow.
    here
        Gives the place here of a path that was stored.
    """

    namespace: dict[str, Any]
    shell: Any | None = None
    cell: str | None = None
    full: bool = False
    here: Callable[[str], str] = str

    @cached_property
    def tree(self) -> ast.Module:
        """The cell's syntax tree, empty where it has none."""
        if not self.cell:
            return ast.Module([], [])
        try:
            return ast.parse(self.cell)
        except (SyntaxError, ValueError, RecursionError):
            pass
        try:
            return ast.parse(self.shell.transform_cell(self.cell) if self.shell is not None else "")
        except Exception:  # An input transformer of the user's may raise anything.
            return ast.Module([], [])

    @cached_property
    def bound(self) -> dict[int, str]:
        """id of each object that the namespace binds -> its name."""
        bound: dict[int, str] = {}
        for name, value in list(self.namespace.items()):
            if isinstance(name, str) and (id(value) not in bound or bound[id(value)].startswith("_")):
                bound[id(value)] = name
        return bound

    def mentions(self, *words: str) -> bool:
        """Whether the cell's source has one of these words in it."""
        return self.cell is not None and any(word in self.cell for word in words)


class HiddenState(Protocol):
    """State of a session that has no name in the namespace."""

    #: What the state is of: ``"random"``, ``"environment"``.
    kind: str

    def capture(self, world: Hidden) -> Any:
        """A picklable value, or None where there is nothing to say."""

    def restore(self, value: Any, world: Hidden) -> None:
        """Make it so again.

        Raises
        ------
        NotRestorable
            It cannot be, and why. What can be, is.
        """

    def prepare(self, world: Hidden) -> None:
        """Do what the first capture would spend its time with; no code of the notebook's has run here yet."""


class Kind:
    """Base of the kinds. Each is made once and remembers what there was before the user's first cell."""

    kind: str
    #: The last value and a copy of it, where it was plain.
    _last: tuple[Any, Any] | None = None

    def mark(self, world: Hidden) -> None:
        """Remember what there is, as not being the user's."""

    def prepare(self, world: Hidden) -> None:
        """See ``HiddenState``."""
        self.capture(world)

    def capture(self, world: Hidden) -> Any:
        """See ``HiddenState``. Never raises: what goes wrong is told at the restore.

        A value that is the very object of the last time has not changed and need not be looked into.
        """
        try:
            value = self.look(world)
        except Exception as error:
            return Unkept(f"could not be looked at: {type(error).__name__}: {error}")
        if self._last is not None and _are_equal(self._last[1], value):
            return self._last[0]
        try:
            # What is compared must be a copy: the value may hold lists that live on.
            self._last = value, _plain_copy(value)
        except _NotPlain:
            self._last = None
        return value

    def restore(self, value: Any, world: Hidden) -> None:
        """See ``HiddenState``."""
        if isinstance(value, Unkept):
            raise NotRestorable(value.reason)
        self.put_back(value, world)

    def look(self, world: Hidden) -> Any:
        """The state as a picklable value, or None."""
        raise NotImplementedError

    def put_back(self, value: Any, world: Hidden) -> None:
        """Make it so again; may raise ``NotRestorable``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Named:
    """Stands for an object by the name that the namespace binds it to."""

    name: str

    def __reduce__(self) -> Any:
        return Named, (self.name,)


@dataclass(frozen=True)
class Unkept:
    """Stands for an object that cannot be kept, with the reason."""

    reason: str

    def __reduce__(self) -> Any:
        return Unkept, (self.reason,)


class Losses:
    """Collects what could not be restored while the rest is."""

    def __init__(self) -> None:
        self._reasons: list[str] = []

    def add(self, reason: str) -> None:
        if reason not in self._reasons:
            self._reasons.append(reason)

    def told(self) -> None:
        """Raise ``NotRestorable`` with all of them, if there are any."""
        if self._reasons:
            raise NotRestorable("; ".join(self._reasons))


def remark(text: str) -> None:
    """Tell the user something about the restore that is under way."""
    restoring = _restoring.get(None)
    if restoring is not None:
        restoring.remark(text)


#: Of a type's flags: what a class statement sets, and many extension modules too (``Py_TPFLAGS_HEAPTYPE, _BASETYPE``).
_BY_STATEMENT = 1 << 9 | 1 << 10
#: What only C code gives a class of its own.
_OF_C = (types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType)
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
#: Objects that have been tried, and the reason where they cannot be kept; holds none of them alive.
_tried: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def keep(value: Any, world: Hidden) -> Any:
    """The value, or what stands for it: its name in the namespace, or the reason why it cannot be kept."""
    if isinstance(value, _PLAIN):
        return value
    name = name_of(value, world)
    if name is not None:
        return Named(name)
    if isinstance(value, types.MethodType):
        owner = name_of(value.__self__, world)
        if owner is not None:
            return (Named(owner), value.__func__.__name__)
    try:
        reason = _tried.get(value)
    except TypeError:  # It takes no weak references, or has no hash.
        reason = None
    if reason is None:
        reason = _reason(value, world.namespace)
        with contextlib.suppress(TypeError):
            _tried[value] = reason
    return Unkept(reason) if reason else value


class _NotPlain(Exception):
    pass


def _plain_copy(value: Any) -> Any:
    """A copy of scalars and containers; raises ``_NotPlain`` for anything else."""
    kind = type(value)
    if kind in _PLAIN or kind is Named or kind is Unkept:
        return value
    if kind is dict:
        return {_plain_copy(key): _plain_copy(item) for key, item in value.items()}
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        return kind([_plain_copy(item) for item in value])
    raise _NotPlain


def _are_equal(last: Any, value: Any) -> bool:
    try:
        return type(last) is type(value) and bool(last == value)
    except Exception:  # Arrays are neither equal nor not.
        return False


def _reason(value: Any, namespace: dict[str, Any]) -> str:
    """Why it cannot be pickled, if so."""
    try:
        dump((value,), Context(namespace))
    except NotRestorable as error:
        return str(error)
    return ""


def kept(value: Any, namespace: dict[str, Any]) -> Any:
    """The other way round.

    Raises
    ------
    NotRestorable
        It was not kept, or its name is gone.
    """
    if isinstance(value, Unkept):
        raise NotRestorable(value.reason)
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Named):
        return getattr(kept(value[0], namespace), value[1])
    if isinstance(value, Named):
        if value.name not in namespace:
            raise NotRestorable(f"needs {value.name}, which is not there")
        found = namespace[value.name]
        if type(found) is Lost:
            raise NotRestorable(f"needs {value.name}, which was not restored")
        return found
    return value


def name_of(value: Any, world: Hidden) -> str | None:
    """A name that the namespace binds to this very object."""
    own = getattr(value, "__name__", None)
    if isinstance(own, str) and world.namespace.get(own) is value:
        return own
    return world.bound.get(id(value))


def made_by_notebook(value: Any, namespace: dict[str, Any], depth: int = 2) -> bool:
    """Whether the value is, wraps or is an instance of something that a cell defined."""
    kind = type(value)
    if kind in _PLAIN or kind in (dict, list, tuple, set, types.ModuleType):
        return False
    if kind is types.FunctionType:
        if value.__globals__ is namespace:
            return True
        inner = getattr(value, "__wrapped__", None)
        if inner is not None and depth:
            return made_by_notebook(inner, namespace, depth - 1)
        if value.__closure__ and depth:
            return any(made_by_notebook(_content(cell), namespace, depth - 1) for cell in value.__closure__)
        return False
    if kind is types.MethodType:
        return made_by_notebook(value.__func__, namespace, depth) or of_notebook(type(value.__self__), namespace)
    if issubclass(kind, type):
        return of_notebook(value, namespace)
    if of_notebook(kind, namespace):
        return True
    if not depth:
        return False
    if kind in (staticmethod, classmethod):
        return made_by_notebook(value.__func__, namespace, depth)
    if kind is property:
        parts: list[Any] = [value.fget, value.fset, value.fdel]
    else:
        own = getattr(kind, "__dict__", {}).get("__dict__") and object.__getattribute__(value, "__dict__")
        parts = list(own.values()) if type(own) is dict and len(own) <= 16 else []
        if kind.__module__ == "functools" and hasattr(kind, "func"):
            parts += [value.func, *value.args, *value.keywords.values()]
        parts = [part for part in parts if type(part) is types.FunctionType or issubclass(type(part), type)]
    return any(made_by_notebook(part, namespace, depth - 1) for part in parts)


def of_notebook(kind: type, namespace: dict[str, Any]) -> bool:
    """Whether a class was defined in the namespace, as far as its module tells."""
    module = type.__getattribute__(kind, "__module__")
    if module == "builtins":  # so are called classes of a namespace that has no name, and many of extension modules
        return "__name__" not in namespace and _is_by_statement(kind, namespace)
    return module in ("__main__", namespace.get("__name__"))


def _is_by_statement(kind: type, namespace: dict[str, Any]) -> bool:
    if kind.__flags__ & _BY_STATEMENT != _BY_STATEMENT or getattr(builtins, kind.__name__, None) is kind:
        return False
    own = type.__getattribute__(kind, "__dict__").values()
    functions = [each for value in own if type(each := getattr(value, "__func__", value)) is types.FunctionType]
    if functions:  # some libraries only say that their classes are of builtins
        return any(function.__globals__ is namespace for function in functions)
    return not any(
        value.__objclass__ is kind if isinstance(value, _OF_C) else isinstance(value, types.BuiltinFunctionType)
        for value in own
    )


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def loaded(module: str) -> Any:
    """The module, where this process has it already."""
    return sys.modules.get(module)


def needed(module: str) -> Any:
    """The module, imported for a restore.

    Raises
    ------
    NotRestorable
        It cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        top = module.partition(".")[0]
        raise NotRestorable(f"needs the module {top}, which cannot be imported here: {error}") from error
