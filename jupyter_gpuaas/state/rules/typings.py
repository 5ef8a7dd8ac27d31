"""What ``typing`` makes and finds again by the name of a module's variable only, which the notebook's are not."""

from __future__ import annotations

import sys
from typing import Any

from .definitions import of_namespace
from .registry import Context, rule


@rule("typing.NewType", "typing.ParamSpec", "typing.TypeVarTuple", exact=True)
@rule("typing_extensions.ParamSpec", "typing_extensions.TypeVarTuple", exact=True)
def reduce_typing(obj: Any, context: Context) -> Any:
    name = obj.__name__
    kind = type(obj)
    if obj.__module__ != "__main__" and getattr(sys.modules.get(obj.__module__), name, None) is obj:
        return NotImplemented
    if name not in context.own and context.namespace.get(name) is obj:
        context.references.add(name)
        return of_namespace, (name,)
    arguments = (name, obj.__supertype__) if kind.__name__ == "NewType" else (name,)
    return typing_object, (kind, *arguments), dict(vars(obj)), None, None, fill_typing


def typing_object(kind: Any, *arguments: Any) -> Any:
    return kind(*arguments)


def fill_typing(obj: Any, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        setattr(obj, name, value)
