"""Objects of the user's classes that pickle would make by running the user's own methods, or without a part of them.

Pickle makes an object of a subclass of ``set`` by calling the subclass with a list, of ``str`` by calling its
``__new__`` with one argument, and fills those of ``dict`` by its ``__setitem__``: methods that were never written for
that, and may take other arguments, count, or write a log. Here the *base* makes and fills the object, with its own
methods; so it also reads what is in it. What a base like ``defaultdict`` or ``datetime`` forgets, attributes of a
subclass, is kept.

An object that has its dict in common with something else (``config = vars(options)``) goes on having it.
"""

from __future__ import annotations

import copyreg
import ctypes
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from functools import partial
from sys import getrefcount
from typing import Any
from weakref import WeakKeyDictionary

from .escapes import is_of_the_user

#: Makes a reduce value, or gives NotImplemented where Python's own way is right.
Reduce = Callable[[Any], Any]

_CONTAINERS = (list, deque, set, OrderedDict, defaultdict, Counter, dict)
_VALUES = (tuple, frozenset, str, bytes, bytearray, int, float, complex)
#: Of those, which forget attributes.
_FORGETFUL = (defaultdict, Counter)
#: What pickle calls of a container or value, when it reads it or makes it anew.
_CALLED = {"__new__", "__init__", "__iter__", "items", "__setitem__", "append", "extend"}
_PICKLES_ITSELF = {"__reduce__", "__reduce_ex__", "__getnewargs__", "__getnewargs_ex__"}
_OWN_STATE = {"__getstate__", "__setstate__"}
#: Held by the object, and as an argument.
_ALONE = 2


_of_libraries: WeakKeyDictionary[type, Reduce | None] = WeakKeyDictionary()


def reduce_for(kind: type) -> Reduce | None:
    """How objects of this type are reduced; None where it is Python's own way for all of them."""
    if kind in _of_libraries:
        return _of_libraries[kind]
    users, base = _parts(kind)
    found = _reduce_for(kind, users, base)
    if not users:  # methods of the user's classes may change
        _of_libraries[kind] = found
    return found


def _reduce_for(kind: type, users: list[type], base: Any) -> Reduce | None:
    own = {name for each in users for name in vars(each)}
    if own & _PICKLES_ITSELF or kind in copyreg.dispatch_table:
        return None
    if users and base in _CONTAINERS:
        return partial(_container, base) if own & _CALLED or base in _FORGETFUL else None
    if users and base in _VALUES:
        return partial(_value, base) if own & _CALLED else None
    if kind is Counter:
        return lambda counter: _container(Counter, counter) if counter.__dict__ else NotImplemented
    if kind is types.SimpleNamespace:
        return _sharing
    if base.__reduce__ is not object.__reduce__ or base.__reduce_ex__ is not object.__reduce_ex__:
        return partial(_inherited, base) if users else None
    if base is object and ("__new__" in own or {"__setattr__", "__slots__"} <= own):
        return _made_without_new
    names = {name for each in kind.__mro__[:-1] for name in vars(each)}
    if kind.__dictoffset__ and _has_usual_dict(kind) and not names & (_PICKLES_ITSELF | _OWN_STATE):
        return _sharing
    return None


def _parts(kind: type) -> tuple[list[type], Any]:
    """The user's classes at the head of the order of resolution, and the first that is not the user's."""
    users: list[type] = []
    for each in kind.__mro__:
        if each.__module__ != "__main__" and not is_of_the_user(each.__module__):
            return users, each
        users.append(each)
    return users, object


def _has_usual_dict(kind: type) -> bool:
    found = (vars(each)["__dict__"] for each in kind.__mro__ if "__dict__" in vars(each))
    return all(isinstance(each, types.GetSetDescriptorType) for each in found)


# -- what is made by its base ----------------------------------------------------------------------------------------


def _container(base: Any, obj: Any) -> Any:
    args: tuple[Any, ...] = ()
    if base in (list, deque, set):
        content = list(base.__iter__(obj))
        if base is deque:
            args = (), deque.maxlen.__get__(obj)
    else:
        content = list((OrderedDict if base is OrderedDict else dict).items(obj))
        if base is defaultdict:
            args = (obj.default_factory,)
    return make, (type(obj), base, args), (base, content, _state(obj)), None, None, fill


def _value(base: Any, obj: Any) -> Any:
    plain: Any
    if base is tuple:
        plain = tuple.__getitem__(obj, slice(None))
    elif base is frozenset:
        plain = frozenset(frozenset.__iter__(obj))
    elif base is bytearray:
        plain = bytes(memoryview(obj))
    elif base is complex:
        plain = complex(complex.real.__get__(obj), complex.imag.__get__(obj))
    else:
        (plain,) = base.__getnewargs__(obj)
    return make, (type(obj), base, (plain,)), (base, None, _state(obj)), None, None, fill


def _inherited(base: Any, obj: Any) -> Any:
    """By the reduce method of the base, which knows neither the subclass's arguments nor its attributes."""
    reduced = base.__reduce_ex__(obj, 5)
    if not isinstance(reduced, tuple) or len(reduced) > 3 or (len(reduced) == 3 and reduced[2] is not None):
        return NotImplemented
    function, args = reduced[:2]
    state = _state(obj)
    if function is type(obj):
        return make, (function, base, args), (base, None, state), None, None, fill
    return (function, args, (base, None, state), None, None, fill) if state is not None else NotImplemented


def _made_without_new(obj: Any) -> Any:
    return make, (type(obj), object, ()), (object, None, _state(obj)), None, None, fill


def make(kind: type, base: Any, args: tuple[Any, ...]) -> Any:
    """An object as the base makes it of these arguments."""
    made = base.__new__(kind, *args)
    if args and base.__init__ is not object.__init__:
        base.__init__(made, *args)
    return made


def fill(made: Any, state: tuple[Any, Any, Any]) -> None:
    """Put in what was in it, by the methods of the base."""
    base, content, attributes = state
    if content is not None:
        if issubclass(base, dict):
            for key, value in content:
                base.__setitem__(made, key, value)
        elif base is set:
            set.update(made, content)
        else:
            base.extend(made, content)
    if attributes is None:
        return
    setter = getattr(type(made), "__setstate__", None)
    if setter is not None and setter is not getattr(base, "__setstate__", None):
        setter(made, attributes)
        return
    attributes, slots = attributes if isinstance(attributes, tuple) and len(attributes) == 2 else (attributes, None)
    if attributes:
        made.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(made, name, value)


def _state(obj: Any) -> Any:
    """What pickle takes for the state beside the content."""
    if hasattr(obj, "__getstate__"):  # of every object since Python 3.11
        return obj.__getstate__() or None
    attributes = getattr(obj, "__dict__", None) or None
    names = copyreg._slotnames(type(obj))  # type: ignore[attr-defined]
    slots = {name: getattr(obj, name) for name in names if hasattr(obj, name)}
    return (attributes, slots) if slots else attributes


# -- a dict in common ------------------------------------------------------------------------------------------------


def _sharing(obj: Any) -> Any:
    """Python's own way, unless somebody else holds the dict of this object, too."""
    if getrefcount(obj.__dict__) == _ALONE:
        return NotImplemented
    attributes = obj.__dict__
    if type(obj) is types.SimpleNamespace:
        return types.SimpleNamespace, (), (attributes, None), None, None, have_dict
    state = _state(obj)
    slots = state[1] if isinstance(state, tuple) else None
    return make, (type(obj), object, ()), (attributes, slots), None, None, have_dict


def have_dict(made: Any, state: tuple[dict[str, Any], dict[str, Any] | None]) -> None:
    """Let an object have this very dict."""
    attributes, slots = state
    if type(made) is types.SimpleNamespace:
        _exchange_dict(made, attributes)
    else:
        object.__setattr__(made, "__dict__", attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(made, name, value)


def _exchange_dict(made: Any, attributes: dict[str, Any]) -> None:
    """As ``made.__dict__ = attributes``, which a SimpleNamespace refuses."""
    find = ctypes.pythonapi._PyObject_GetDictPtr
    find.argtypes, find.restype = [ctypes.py_object], ctypes.POINTER(ctypes.c_void_p)
    place, before = find(made), made.__dict__
    if not place:
        raise TypeError("has its attributes where they cannot be shared")
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(attributes))
    place[0] = id(attributes)
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(before))
