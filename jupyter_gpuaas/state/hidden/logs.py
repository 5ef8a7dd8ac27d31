"""Loggers: their levels, and the handlers and filters that the notebook gave them."""

from __future__ import annotations

import contextlib
import logging
import sys
import types
import weakref
from typing import Any

from ..escapes import is_of_the_user
from ..rules.registry import NotRestorable
from .world import Hidden, Kind, Losses, keep, kept, made_by_notebook, name_of

_ROOT = ""
#: Level, propagate, disabled.
_Level = tuple[int, bool, bool]


class Logs(Kind):
    """Levels of all loggers that are not as a new one is; handlers where they are the notebook's.

    A library gives its own loggers their handlers when it is imported. The notebook's are those that a cell spoke of,
    defined or named, and those of the root and of loggers of its own that did not come with an import.
    """

    kind = "logging"

    def __init__(self) -> None:
        #: By logger that was not as new: handlers and filters that were there before the notebook, and its level.
        self._before: dict[str, list[Any]] = {}
        self._levels: dict[str, _Level] = {}
        self._loaded = 0
        #: Handler or filter -> whether it was the notebook's when it was first seen.
        self._users: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()

    def mark(self, world: Hidden) -> None:
        loggers = [(name, logger) for name, logger in _loggers() if not _is_as_new(logger)]
        self._before = {name: [*logger.handlers, *logger.filters] for name, logger in loggers}
        self._levels = {name: _level(logger) for name, logger in loggers}
        self._loaded = len(sys.modules)

    def look(self, world: Hidden) -> Any:
        levels: dict[str, _Level] = {}
        parts: dict[str, tuple[list[Any], list[Any]]] = {}
        taken = []
        for name, logger in _loggers():
            if _is_as_new(logger) and name not in self._levels:
                continue
            level = _level(logger)
            if level != self._usual(name):
                levels[name] = level
            before = self._before.get(name, ())
            if any(part not in logger.handlers and part not in logger.filters for part in before):
                taken.append(name)
            if logger.handlers or logger.filters:
                handlers = [keep(one, world) for one in logger.handlers if self._is_users(one, name, world)]
                filters = [keep(one, world) for one in logger.filters if self._is_users(one, name, world)]
                if handlers or filters:
                    parts[name] = handlers, filters
        self._loaded = len(sys.modules)
        return {"levels": levels, "parts": parts, "taken": taken, "disable": logging.root.manager.disable}

    def _usual(self, name: str) -> _Level:
        return self._levels.get(name, (logging.WARNING if name == _ROOT else logging.NOTSET, True, False))

    def _is_users(self, part: Any, name: str, world: Hidden) -> bool:
        if any(part is known for known in self._before.get(name, ())):
            return False
        try:
            known = self._users.get(part)
            if known is None:
                known = self._users[part] = self._judge(part, name, world)
        except TypeError:  # It takes no weak references, or has no hash.
            return made_by_notebook(part, world.namespace)
        return known

    def _judge(self, part: Any, name: str, world: Hidden) -> bool:
        """Whose it is, by the cell after which it is first seen."""
        if world.mentions("Handler", "Filter", "dictConfig", "basicConfig", "fileConfig"):
            return True
        if made_by_notebook(part, world.namespace) or name_of(part, world) is not None:
            return True
        # Of a logger that bears no library's name: the notebook's, unless modules were loaded that may have made it.
        if name.partition(".")[0] in sys.modules:
            return False
        return len(sys.modules) == self._loaded or not _is_of_a_module(logging.getLogger(name))

    def put_back(self, value: Any, world: Hidden) -> None:
        losses = Losses()
        logging.disable(value["disable"])
        for name, logger in _loggers():
            if name not in value["levels"]:
                _set_level(logger, self._usual(name))
            for part in [*logger.handlers, *logger.filters]:
                if self._is_users(part, name, world):
                    _remove(logger, part)
            for part in self._before.get(name, ()):
                if name in value["taken"]:
                    _remove(logger, part)
                elif part not in logger.handlers and part not in logger.filters:
                    (logger.addHandler if isinstance(part, logging.Handler) else logger.addFilter)(part)
        for name, level in value["levels"].items():
            _set_level(logging.getLogger(name or None), level)
        for name, (handlers, filters) in value["parts"].items():
            logger = logging.getLogger(name or None)
            if name == _ROOT or name.partition(".")[0] not in sys.modules:
                # Those that came back with a logger of the namespace, where they are other objects.
                for part in [*logger.handlers, *logger.filters]:
                    if not any(part is known for known in self._before.get(name, ())):
                        _remove(logger, part)
            for add, stored in [(logger.addHandler, one) for one in handlers] + [
                (logger.addFilter, one) for one in filters
            ]:
                try:
                    part = kept(stored, world.namespace)
                    add(part)
                    with contextlib.suppress(TypeError):
                        self._users[part] = True
                except NotRestorable as error:
                    losses.add(f"a handler or filter of logger {name or 'root'} {error}")
        losses.told()


def _remove(logger: Any, part: Any) -> None:
    logger.removeHandler(part)
    logger.removeFilter(part)


def _is_of_a_module(logger: Any) -> bool:
    """Whether an installed module binds it: such loggers have their handlers from there, whatever they are called."""
    return any(
        name != "__main__" and any(value is logger for value in list(vars(module).values()))
        for name, module in list(sys.modules.items())
        if isinstance(module, types.ModuleType) and not is_of_the_user(name)
    )


def _loggers() -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = [(_ROOT, logging.root)]
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            found.append((name, logger))
    return found


def _is_as_new(logger: Any) -> bool:
    return not (logger.level or logger.handlers or logger.filters or logger.disabled) and logger.propagate is True


def _level(logger: Any) -> _Level:
    return int(logger.level), bool(logger.propagate), bool(logger.disabled)


def _set_level(logger: Any, level: _Level) -> None:
    if _level(logger) != level:
        logger.setLevel(level[0])
        logger.propagate, logger.disabled = level[1:]
