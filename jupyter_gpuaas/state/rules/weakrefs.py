"""Weak references: to the same objects as before, which are restored with them.

An object that only the weak reference holds after the restore is gone at once, and the report says so.
"""

from __future__ import annotations

import weakref
from typing import Any

from .registry import Context, NotRestorable, restoring, rule


class _Gone:
    """Referred to for a moment, by what refers to something that is gone."""

    def method(self) -> None:
        """Be referred to."""


@rule("weakref.ReferenceType")
def reduce_reference(reference: Any, context: Context) -> Any:
    if isinstance(reference, weakref.KeyedRef):
        raise NotRestorable("is an inner part of a weak dictionary")
    kind = type(reference)
    # A WeakMethod makes its attributes itself, of its method.
    own = None if isinstance(reference, weakref.WeakMethod) else getattr(reference, "__dict__", None) or None
    target = reference()
    if target is None:
        return dead_reference, (kind,), own
    callback = None if isinstance(reference, weakref.WeakMethod) else reference.__callback__
    if callback is not None:
        context.escaped("finalizer")
    return make_reference, (kind, target, callback), own


def make_reference(kind: Any, target: Any, callback: Any) -> Any:
    reference = kind(target) if callback is None else kind(target, callback)
    restoring().finally_.append(lambda: _say(reference() is None))
    return reference


def dead_reference(kind: Any) -> Any:
    return kind(_Gone().method if issubclass(kind, weakref.WeakMethod) else _Gone())


def _say(gone: bool) -> None:
    if gone:
        restoring().remark("what a weak reference referred to was held by nothing that was restored, and is gone")


@rule("weakref.ProxyType", "weakref.CallableProxyType")
def reduce_proxy(proxy: Any, context: Context) -> Any:
    try:
        # Every attribute of a proxy is the target's, so this is a method of the target.
        target = proxy.__reduce_ex__.__self__
    except ReferenceError:
        return dead_proxy, ()
    return make_proxy, (target,)


def make_proxy(target: Any) -> Any:
    proxy = weakref.proxy(target)
    watch = weakref.ref(target)
    restoring().finally_.append(lambda: _say(watch() is None))
    return proxy


def dead_proxy() -> Any:
    return weakref.proxy(_Gone())


_INNER = frozenset({"data", "_remove", "_pending_removals", "_iterating", "_dirty_len"})


@rule("weakref.WeakValueDictionary", "weakref.WeakKeyDictionary", "_weakrefset.WeakSet")
def reduce_collection(collection: Any, context: Context) -> Any:
    own = {name: value for name, value in vars(collection).items() if name not in _INNER}
    held = list(collection) if isinstance(collection, weakref.WeakSet) else list(collection.items())
    return make_collection, (type(collection),), (held, own), None, None, fill_collection


def make_collection(kind: Any) -> Any:
    collection = kind.__new__(kind)
    base = next(base for base in kind.__mro__ if base.__module__ in ("weakref", "_weakrefset"))
    base.__init__(collection)
    return collection


def fill_collection(collection: Any, state: tuple[list[Any], dict[str, Any]]) -> None:
    held, own = state
    collection.__dict__.update(own)
    if isinstance(collection, weakref.WeakSet):
        weakref.WeakSet.update(collection, held)
    else:
        for key, value in held:
            collection[key] = value
    count = len(held)
    restoring().finally_.append(lambda: _say(len(collection) < count))


@rule("weakref.finalize")
def reduce_finalize(finalizer: Any, context: Context) -> Any:
    alive = finalizer.peek()
    if alive is None:
        return dead_finalize, (type(finalizer),)
    context.escaped("finalizer")
    return make_finalize, (type(finalizer), *alive, finalizer.atexit)


def make_finalize(kind: Any, target: Any, function: Any, args: Any, kwargs: Any, atexit: bool) -> Any:
    finalizer = kind(target, function, *args, **(kwargs or {}))
    finalizer.atexit = atexit
    return finalizer


def dead_finalize(kind: Any) -> Any:
    gone = _Gone()
    finalizer = kind(gone, int)
    finalizer.detach()
    return finalizer
