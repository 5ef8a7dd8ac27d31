"""Loggers by name, with level, handlers and filters; handlers anew, log files opened for appending whatever they were.

Pickle keeps of a logger its name only. Its parents, on which it depends, are no variables: `hidden.logs` has them.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from .registry import Context, NotRestorable, rule

#: What the tree of loggers, not the notebook, decides.
_OF_TREE = frozenset({"name", "parent", "manager", "_cache"})


@rule("logging.Logger")
def reduce_logger(logger: Any, context: Context) -> Any:
    context.escaped("logging")
    is_root = logger is logging.root
    registered = is_root or logging.Logger.manager.loggerDict.get(logger.name) is logger
    state = {name: value for name, value in vars(logger).items() if name not in _OF_TREE}
    made = (type(logger), "" if is_root else logger.name, registered)
    return get_logger, made, state, None, None, fill_logger


def get_logger(kind: Any, name: str, registered: bool) -> Any:
    if not registered:
        return kind(name)
    if not name or name in logging.Logger.manager.loggerDict or kind is logging.getLoggerClass():
        return logging.getLogger(name)
    usual = logging.getLoggerClass()
    logging.setLoggerClass(kind)
    try:
        return logging.getLogger(name)
    finally:
        logging.setLoggerClass(usual)


def fill_logger(logger: Any, state: dict[str, Any]) -> None:
    level = state.pop("level")
    logger.__dict__.update(state)
    logger.setLevel(level)  # clears what was cached of levels


@rule("logging.Manager", "logging.PlaceHolder")
def reduce_manager(manager: Any, context: Context) -> Any:
    if manager is logging.Logger.manager:
        return the_manager, ()
    raise NotRestorable("is a tree of loggers")


def the_manager() -> Any:
    return logging.Logger.manager


@rule("logging.LoggerAdapter")
def reduce_adapter(adapter: Any, context: Context) -> Any:
    return bare, (type(adapter),), dict(vars(adapter))


def bare(kind: Any) -> Any:
    return kind.__new__(kind)


@rule("logging.Handler")
def reduce_handler(handler: Any, context: Context) -> Any:
    if handler is logging.lastResort:
        return last_resort, ()
    state = {name: value for name, value in vars(handler).items() if name != "lock"}
    known = handler.get_name()
    is_named = known is not None and logging._handlers.get(known) is handler  # type: ignore[attr-defined]
    opens = isinstance(handler, logging.FileHandler) and handler.stream is not None
    if isinstance(handler, logging.FileHandler):
        state.pop("stream", None)
    if opens:
        handler.flush()
        context.rebuilt("a log handler whose file is opened again for appending")
    return make_handler, (type(handler),), (state, is_named, opens), None, None, fill_handler


def last_resort() -> Any:
    return logging.lastResort


def make_handler(kind: Any) -> Any:
    handler = kind.__new__(kind)
    logging.Handler.__init__(handler)
    return handler


def fill_handler(handler: Any, state: tuple[dict[str, Any], bool, bool]) -> None:
    attributes, is_named, opens = state
    name = attributes.pop("_name", None)
    handler.__dict__.update(attributes)
    if is_named:
        handler.set_name(name)
    else:
        handler._name = name
    if not isinstance(handler, logging.FileHandler):
        return
    handler.stream = None
    if opens:
        if not os.path.isdir(os.path.dirname(handler.baseFilename)):
            raise NotRestorable(f"logs into {handler.baseFilename}, whose folder does not exist here")
        mode, handler.mode = handler.mode, "a"  # "w" would empty the log
        try:
            handler.stream = handler._open()
        finally:
            handler.mode = mode
        if hasattr(handler, "_statstream"):  # WatchedFileHandler
            handler._statstream()
