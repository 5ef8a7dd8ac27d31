"""Settings of the interpreter and of Python's library that a notebook changes for the whole process."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import sys
import threading
import tracemalloc
from typing import Any

from ..rules.registry import NotRestorable
from .world import Hidden, Kind, Losses, keep, kept, loaded, made_by_notebook, needed, remark

_HOOKS = (("sys", "displayhook"), ("sys", "excepthook"), ("sys", "unraisablehook"), ("threading", "excepthook"))
_SIGNALS = tuple(signal.valid_signals())  # slow: Python makes each an enum's member anew
#: Signals that the kernel handles itself while cells run.
_OF_KERNEL = frozenset({signal.SIGINT})


class Interpreter(Kind):
    """Limits, garbage collection, hooks and signal handlers."""

    kind = "interpreter"

    def __init__(self) -> None:
        self._baseline = _numbers()
        self._registered: list[str] = []

    def mark(self, world: Hidden) -> None:
        self._baseline = _numbers()
        self._registered = []

    def look(self, world: Hidden) -> Any:
        space = world.namespace
        hooks = {}
        for module, name in _HOOKS:
            hook = getattr(sys if module == "sys" else threading, name)
            if made_by_notebook(hook, space):
                hooks[module, name] = keep(hook, world)
        handlers = {}
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler) and number not in _OF_KERNEL and made_by_notebook(handler, space):
                handlers[int(number)] = keep(handler, world)
        if world.mentions("atexit"):
            self._note("a function that atexit was given does not run at the end of this process")
        if world.mentions("settrace", "setprofile", "sys.monitoring") and (sys.gettrace() or sys.getprofile()):
            self._note("a trace or profile function was set and is not set again")
        timers = any(signal.getitimer(which)[0] for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL))
        now = _numbers()
        return {
            "numbers": {name: value for name, value in now.items() if value != self._baseline.get(name)},
            "hooks": hooks,
            "handlers": handlers,
            "timer": timers,
            "told": list(self._registered),
        }

    def _note(self, text: str) -> None:
        if text not in self._registered:
            self._registered.append(text)

    def put_back(self, value: Any, world: Hidden) -> None:
        losses = Losses()
        wanted = {**self._baseline, **value["numbers"]}
        now = _numbers()
        for name, number in wanted.items():
            if now.get(name) != number:
                try:
                    _set_number(name, number)
                except Exception as error:
                    losses.add(f"{name} cannot be {number}: {error}")
        for (module, name), hook in value["hooks"].items():
            try:
                setattr(sys if module == "sys" else threading, name, kept(hook, world.namespace))
            except NotRestorable as error:
                losses.add(f"{module}.{name} {error}")
        for module, name in _HOOKS:
            owner: Any = sys if module == "sys" else threading
            if (module, name) not in value["hooks"] and made_by_notebook(getattr(owner, name), world.namespace):
                setattr(owner, name, getattr(owner, f"__{name}__", getattr(owner, name)))
        self._restore_signals(value, world, losses)
        self._registered = list(value["told"])
        for text in value["told"]:
            remark(text)
        if value["timer"]:
            remark("a timer of signal.setitimer() or alarm() was running and is not started again")
        losses.told()

    def _restore_signals(self, value: Any, world: Hidden, losses: Losses) -> None:
        present = [
            number
            for number in _SIGNALS
            if callable(handler := signal.getsignal(number)) and made_by_notebook(handler, world.namespace)
        ]
        for number in {*value["handlers"], *present}:
            name = _signal_name(number)
            if threading.current_thread() is not threading.main_thread():
                losses.add(f"the handler of {name} can be set by the main thread only")
                continue
            try:
                handler = value["handlers"].get(number, signal.SIG_DFL)
                signal.signal(number, kept(handler, world.namespace))
            except (NotRestorable, OSError, ValueError) as error:
                losses.add(f"the handler of {name} {error}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals
        return f"signal {number}"


def _numbers() -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "recursion limit": sys.getrecursionlimit(),
        "switch interval": sys.getswitchinterval(),
        "dont_write_bytecode": sys.dont_write_bytecode,
        "gc thresholds": gc.get_threshold(),
        "gc": gc.isenabled(),
        "gc debug": gc.get_debug(),
        "faulthandler": faulthandler.is_enabled(),
    }
    if hasattr(sys, "get_int_max_str_digits"):
        numbers["int digits"] = sys.get_int_max_str_digits()
    sockets = loaded("socket")
    if sockets is not None:
        numbers["socket timeout"] = sockets.getdefaulttimeout()
    numbers["tracemalloc"] = tracemalloc.get_traceback_limit() if tracemalloc.is_tracing() else 0
    mask = _umask()
    if mask is not None:
        numbers["umask"] = mask
    processes = loaded("multiprocessing.context")
    if processes is not None:
        chosen = processes._default_context._actual_context
        numbers["multiprocessing start method"] = chosen.get_start_method() if chosen is not None else None
    return numbers


def _umask() -> int | None:
    """What new files do not permit, read without setting it; None where Linux does not say it."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    return None


def _set_number(name: str, value: Any) -> None:
    if name == "recursion limit":
        sys.setrecursionlimit(value)
    elif name == "switch interval":
        sys.setswitchinterval(value)
    elif name == "dont_write_bytecode":
        sys.dont_write_bytecode = value
    elif name == "gc thresholds":
        gc.set_threshold(*value)
    elif name == "umask":
        os.umask(value)
    elif name == "gc":
        (gc.enable if value else gc.disable)()
    elif name == "gc debug":
        gc.set_debug(value)
    elif name == "int digits":
        sys.set_int_max_str_digits(value)
    elif name == "socket timeout":
        needed("socket").setdefaulttimeout(value)
    elif name == "multiprocessing start method":
        needed("multiprocessing").set_start_method(value, force=True)
    elif name == "faulthandler":
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a stderr without a file
            (faulthandler.enable if value else faulthandler.disable)()
    elif name == "tracemalloc":
        tracemalloc.start(value) if value else tracemalloc.stop()


class DecimalContext(Kind):
    """Of this thread."""

    kind = "decimal"

    def look(self, world: Hidden) -> Any:
        decimal = loaded("decimal")
        if decimal is None:
            return None
        context = decimal.getcontext()
        return {
            "numbers": (context.prec, context.rounding, context.Emin, context.Emax, context.capitals, context.clamp),
            "flags": sorted(kind.__name__ for kind, on in context.flags.items() if on),
            "traps": sorted(kind.__name__ for kind, on in context.traps.items() if on),
        }

    def put_back(self, value: Any, world: Hidden) -> None:
        decimal = needed("decimal")
        prec, rounding, low, high, capitals, clamp = value["numbers"]
        context = decimal.Context(prec, rounding, low, high, capitals, clamp)
        for kind in context.flags:
            context.flags[kind] = kind.__name__ in value["flags"]
            context.traps[kind] = kind.__name__ in value["traps"]
        # Into the one that is there, which the user may hold.
        here = decimal.getcontext()
        for name in ("prec", "rounding", "Emin", "Emax", "capitals", "clamp", "flags", "traps"):
            setattr(here, name, getattr(context, name))


class Locale(Kind):
    kind = "locale"
    _CATEGORIES = ("LC_COLLATE", "LC_CTYPE", "LC_MONETARY", "LC_NUMERIC", "LC_TIME", "LC_MESSAGES")

    def __init__(self) -> None:
        self._baseline: dict[str, str] = {}

    def mark(self, world: Hidden) -> None:
        self._baseline = self._now()

    def _now(self) -> dict[str, str]:
        locale = loaded("locale")
        if locale is None:
            return {}
        return {name: locale.setlocale(getattr(locale, name)) for name in self._CATEGORIES if hasattr(locale, name)}

    def look(self, world: Hidden) -> Any:
        return {name: value for name, value in self._now().items() if value != self._baseline.get(name, "C")}

    def put_back(self, value: Any, world: Hidden) -> None:
        now = self._now()
        wanted = {**{name: self._baseline.get(name, "C") for name in now}, **value}
        losses = Losses()
        for name, setting in wanted.items():
            if now.get(name) != setting:
                locale = needed("locale")
                try:
                    locale.setlocale(getattr(locale, name), setting)
                except locale.Error:
                    losses.add(f"{name} was {setting}, which is not installed here")
        losses.told()
