"""Which objects the user's own modules hold, so that their functions may change them unnamed.

``helpers.register(x)`` in one cell and ``helpers.tick()`` in a later one: nothing in the second says ``x``. Installed
libraries are not looked into: what they hold is said by the rules, as an escape.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Mapping
from typing import Any

from .escapes import is_of_the_user

#: Of the user's modules; where they hold more, they count as holding everything.
MAX_OBJECTS = 100_000

#: By id, as a metaclass may have an ``__eq__`` and ``__hash__`` of its own.
_LEAVES = frozenset(
    id(kind)
    for kind in (
        *(type(None), bool, int, float, complex, str, bytes, types.BuiltinFunctionType, types.ModuleType),
        *(types.CodeType, types.GetSetDescriptorType, types.MemberDescriptorType, types.WrapperDescriptorType),
        types.MethodDescriptorType,
    )
)
#: Modules whose objects lead everywhere and change nothing of what they lead to.
_NOT_THROUGH = frozenset({"logging", "threading", "_thread"})
_OURS = __name__.partition(".")[0]

#: Name of a module -> its id, and whether it is the user's.
_judged: dict[str, tuple[int, bool]] = {}
_NEVER = (0, True)


def held_by_modules(namespace: Mapping[str, Any]) -> frozenset[int] | None:
    """Ids of what the user's modules reach; ``None``: everything, or too much to tell. Valid while the objects live."""
    judged = _judged.get
    modules = [
        module
        for name, module in sys.modules.copy().items()
        # Most were judged before, and there may be thousands.
        if judged(name, _NEVER) != (id(module), False)
        and is_users_module(name, module)
        and vars(module) is not namespace
    ]
    # Through a module the whole of what it imports would be reached; through a class, all of its bases.
    seen: set[int] = set()
    waiting = [value for module in modules for name, value in vars(module).items() if not name.startswith("__")]
    while waiting:
        value = waiting.pop()
        if id(type(value)) in _LEAVES or id(value) in seen or type(value).__module__ in _NOT_THROUGH:
            continue
        if value is namespace:
            return None
        if isinstance(value, type) and not is_users_module(value.__module__, sys.modules.get(value.__module__)):
            continue
        if type(value) is types.FunctionType:
            # Not its globals: these are a module's, or the namespace.
            waiting += [value.__closure__, value.__defaults__, value.__kwdefaults__, value.__dict__]
            continue
        seen.add(id(value))
        if len(seen) > MAX_OBJECTS:
            return None
        waiting += gc.get_referents(value)
    return frozenset(seen)


def is_users_module(name: str, module: Any) -> bool:
    """Whether this entry of ``sys.modules`` is a module of the user's, neither installed nor the notebook's own."""
    # The notebook's own has a second name, `__mp_main__`, once multiprocessing is imported.
    if type(module) is not types.ModuleType or module is sys.modules.get("__main__") or name.partition(".")[0] == _OURS:
        return False
    judged = _judged.get(name)
    if judged is None or judged[0] != id(module):
        judged = _judged[name] = (id(module), is_of_the_user(name))
    return judged[1]
