"""Where the rules for what pickle refuses or gets wrong are found: by the name of a type, no library is imported.

A rule is a function ``(obj, context) -> reduce value`` (what ``object.__reduce__`` may return), registered for the
qualified names of the types that it serves and, unless ``exact``, of their subclasses. It runs while a name is
captured; the callable in its reduce value runs while it is restored, and must be importable from the module of the
rule. A rule that cannot give its object back says so by raising ``NotRestorable`` with a reason for the user.

::

    @rule("_thread.RLock")
    def reduce_rlock(lock, context):
        if lock._is_owned():
            raise NotRestorable("is a lock that is held by a running thread")
        context.rebuilt("a new lock, not held")
        return threading.RLock, ()
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

Rule = Callable[[Any, "Context"], Any]

_rules: dict[str, tuple[Rule, bool]] = {}
_found: dict[type, Rule | None] = {}
_loaded = False


class NotRestorable(Exception):
    """This object cannot come back; the message completes the sentence "*name* …" for the user.

    Raised by a rule at capture, or by its rebuilding callable at restore when the world there does not allow it.
    """


class Context:
    """What a rule may know and say while a name is captured.

    Attributes
    ----------
    namespace
        The namespace that is captured; the globals of the notebook's functions.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        #: Names whose objects this pickle holds itself, rather than refer to them.
        self.own: frozenset[str] = frozenset()
        #: How things were made anew where they are not stored exactly, in words; shown in the report.
        self.rebuilds: list[str] = []
        #: Code objects that went by value and run in the namespace.
        self.codes: list[Any] = []
        #: What rules gave to the pickler.
        self.reduced: list[Any] = []
        #: Built-in functions in it, some of which reach variables without naming them.
        self.builtins: list[Any] = []
        #: Names of the namespace that the pickle refers to instead of holding their objects.
        self.references: set[str] = set()
        #: Ids of functions and classes that went by value.
        self.by_value: set[int] = set()
        #: Modules that must be importable where it is restored.
        self.modules: set[str] = set()
        #: Kinds of outside registries that know this object, such as ``"pyplot"``: library code may change it unnamed.
        self.escapes: set[str] = set()
        #: Objects that whoever loads the pickle has, and gives as ``Restoring.known`` in the same order.
        self.known: list[Any] = []
        #: Address of memory that one object owns alone -> what to allocate for it, see ``Region.maker``.
        self.owners: dict[int, tuple[Any, ...]] = {}
        #: For the use of rules: things to be remembered for the length of one pickle, by a key of the rule's own.
        self.memo: dict[Any, Any] = {}

    def rule_for(self, kind: type) -> Rule | None:
        """The rule to follow for objects of this type; a context for another purpose may have rules of its own."""
        return find_rule(kind)

    def rebuilt(self, how: str) -> None:
        """Say that something is made anew by a rule rather than stored, e.g. ``"a new lock, not held"``."""
        if how not in self.rebuilds:
            self.rebuilds.append(how)

    def owns(self, address: int, maker: tuple[Any, ...]) -> None:
        """Say that the out-of-band buffer at this address is the whole memory of one object, to be allocated so.

        numpy knows whether an array owns its memory, and torch does not say so of a storage: an array's word counts.
        """
        if maker[0] == "ndarray":
            self.owners[address] = maker
        else:
            self.owners.setdefault(address, maker)

    def escaped(self, kind: str) -> None:
        """Say that code that does not name this object may change it."""
        self.escapes.add(kind)


class Restoring:
    """What a rebuilding callable may know and say; see ``restoring``.

    Attributes
    ----------
    namespace
        The namespace that is being filled.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        device_map: dict[str, str] | None = None,
        here: Callable[[str], str] = lambda path: path,
    ) -> None:
        self.namespace = namespace
        #: Gives the place here of a path that was stored; see ``world.relocated``.
        self.here = here
        self.device_map = device_map or {}
        #: What stands for ``Context.known`` here.
        self.known: list[Any] = []
        #: What the user should know although the name came back; shown in the report.
        self.remarks: list[str] = []
        #: Called when all names are bound, in order: links between objects that pickling cannot express.
        self.finally_: list[Callable[[], None]] = []
        self.memo: dict[Any, Any] = {}

    def remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)

    def device(self, stored: str) -> str:
        """The device to use for one that is stored as ``cuda:0`` or ``cpu``, by the caller's map.

        The most exact entry wins: ``cuda:0`` before ``cuda``; without an entry it stays what it was.
        """
        return self.device_map.get(stored) or self.device_map.get(stored.partition(":")[0]) or stored


_restoring: ContextVar[Restoring] = ContextVar("gpuaas_restoring")


def restoring() -> Restoring:
    """The restore that is under way; for rebuilding callables."""
    return _restoring.get()


def rule(*types: str, exact: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule for types by ``module.qualname``.

    Parameters
    ----------
    exact
        Not for subclasses.
    """

    def register(function: Rule) -> Rule:
        for name in types:
            if name in _rules:
                raise ValueError(f"{name} has a rule already: {_rules[name][0].__qualname__}")
            _rules[name] = function, exact
        return function

    return register


def find_rule(kind: type) -> Rule | None:
    """The rule for objects of this type: its own, else that of the nearest base."""
    try:
        return _found[kind]
    except KeyError:
        pass
    _load()
    found: Rule | None = None
    for base in kind.__mro__:
        entry = _rules.get(f"{base.__module__}.{base.__qualname__}")
        if entry is not None and (base is kind or not entry[1]):
            found = entry[0]
            break
    _found[kind] = found
    return found


def _load() -> None:
    """Import every module of this package; each registers its rules."""
    global _loaded
    if not _loaded:
        package = importlib.import_module(__package__)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{__package__}.{module.name}")
        _loaded = True  # Not before: a module that fails to load fails each time, rather than leave its rules out.
