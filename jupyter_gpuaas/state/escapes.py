"""What reaches variables without naming them: code that evaluates text, walks frames or modules, or asks the shell.

Tables by name, for code that is only read, and by value, for names that an earlier cell bound to such things.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Mapping
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import BuiltinFunctionType, BuiltinMethodType, FrameType, FunctionType, ModuleType, TracebackType
from typing import Any

#: Globals whose use says that nothing can be said.
NAMES = frozenset(
    {
        *("exec", "eval", "compile", "globals", "locals", "vars", "__import__", "breakpoint"),
        *("get_ipython", "__builtins__", "__main__", "__loader__", "__spec__"),
    }
)

#: Attributes, wherever they are read and whatever is imported under these names.
ATTRIBUTES = frozenset(
    {
        *("modules", "_getframe", "_getframemodulename", "_current_frames", "settrace", "setprofile", "call_tracing"),
        *("get_objects", "get_referrers", "get_referents", "currentframe", "getouterframes", "getclosurevars"),
        *("f_globals", "f_locals", "f_back", "gi_frame", "cr_frame", "ag_frame", "tb_frame", "exc_info"),
        *("__globals__", "__builtins__", "__subclasses__", "__main__", "__import__", "__loader__"),
        *("user_ns", "user_ns_hidden", "user_module", "user_global_ns", "run_cell", "run_cell_async", "run_code"),
        *("run_line_magic", "run_cell_magic", "safe_execfile", "get_ipython", "kernel_app"),
        *("reload", "import_module", "run_module", "run_path", "exec_module", "load_module", "_load"),
        *("runctx", "runeval", "set_trace", "interact", "InteractiveConsole", "py_object", "pythonapi", "read_pickle"),
        # Text that is evaluated with the caller's names: pandas, patsy, statsmodels, timeit.
        *("eval", "query", "dmatrix", "dmatrices", "from_formula", "ols", "timeit"),
    }
)

#: Of these, the ones that mean something else when they are called at once, such as ``model.modules()``.
HARMLESS_CALLED = frozenset({"modules"})
#: ... and when they are called without arguments, such as ``model.eval()``.
HARMLESS_CALLED_BARE = frozenset({"eval"})

#: Modules that lead everywhere -> what may be read of them (any other use escapes). ``None``: all but ``ATTRIBUTES``.
MODULES: Mapping[str, frozenset[str] | None] = {
    "__main__": frozenset(),
    "_ctypes": frozenset(),
    "_pickle": frozenset(),
    "bdb": frozenset(),
    "builtins": frozenset({"print", "len", "open", "input", "range", "sum", "min", "max", "sorted", "type"}),
    "cloudpickle": frozenset({"dump", "dumps", "register_pickle_by_value"}),
    "ctypes": frozenset({"sizeof"}),
    "dill": frozenset({"dump", "dumps", "pickles"}),
    "gc": frozenset(
        {
            *("collect", "enable", "disable", "isenabled", "freeze", "unfreeze", "get_count", "get_stats"),
            *("get_threshold", "set_threshold", "get_freeze_count", "is_tracked"),
        }
    ),
    "importlib": frozenset({"metadata", "resources", "util", "invalidate_caches"}),
    "inspect": frozenset(
        {
            *("signature", "Signature", "Parameter", "getsource", "getsourcelines", "getsourcefile", "getfile"),
            *("getdoc", "cleandoc", "getmro", "isclass", "isfunction", "ismethod", "ismodule", "isbuiltin"),
            *("iscoroutine", "iscoroutinefunction", "isawaitable", "isgenerator", "isgeneratorfunction"),
            *("isabstract", "isroutine", "isasyncgen", "isasyncgenfunction"),
        }
    ),
    "pdb": frozenset(),
    "pickle": frozenset({"dump", "dumps", "HIGHEST_PROTOCOL", "DEFAULT_PROTOCOL", "PickleError", "PicklingError"}),
    "runpy": frozenset(),
    "shelve": frozenset(),
    "sys": None,
}

_FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "builtins": ("exec", "eval", "compile", "globals", "locals", "vars", "__import__", "breakpoint"),
    "sys": ("_getframe", "_current_frames", "settrace", "setprofile", "call_tracing", "exc_info"),
    "gc": ("get_objects", "get_referrers", "get_referents"),
    "inspect": ("currentframe", "stack", "trace", "getouterframes", "getinnerframes", "getclosurevars"),
    "importlib": ("reload", "import_module", "__import__"),
    "runpy": ("run_module", "run_path"),
    "pickle": ("load", "loads", "Unpickler"),
    "dill": ("load", "loads", "load_module", "load_session", "Unpickler"),
    "cloudpickle": ("load", "loads"),
    "timeit": ("timeit", "repeat", "Timer"),
    "pandas": ("eval", "read_pickle"),
    "IPython": ("get_ipython",),
}


def by_member(module: str, attribute: str | None) -> str:
    """Why the use of this attribute of a module escapes, or ``""``; ``None``: the module is not asked for one."""
    if module not in MODULES:
        return ""
    allowed = MODULES[module]
    if attribute is None or attribute in ATTRIBUTES or (allowed is not None and attribute not in allowed):
        return f"uses {module}" if attribute is None else f"uses {module}.{attribute}"
    return ""


def by_value(value: Any, namespace: object = None) -> str:
    """Why code that has this object may reach any variable, or ``""``.

    Modules are not judged here, as it depends on what is read of them; see ``by_member``.
    """
    kind = type(value)
    if kind in _PLAIN:
        return ""
    if kind is dict:
        if value is namespace or value is sys.modules:
            return "uses the dictionary of all variables" if value is namespace else "uses sys.modules"
        return ""
    if kind is FrameType or kind is TracebackType:
        return "uses a frame"
    if kind is FunctionType or kind in (BuiltinFunctionType, BuiltinMethodType, type):
        name = _functions().get(id(value), "")
        return f"uses {name}" if name else ""
    if issubclass(kind, BaseException):
        return "uses the frames of an exception" if value.__traceback__ is not None else ""
    if any(base.__name__ == "InteractiveShell" for base in kind.__mro__):
        return "uses the shell"
    return ""


_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, list, tuple, set, frozenset})


def _functions() -> dict[int, str]:
    """Ids of functions that escape, of the modules that are loaded by now; modules keep them alive."""
    loaded = tuple(module for module in _FUNCTIONS if module in sys.modules)
    return _functions_of(loaded)


@cache
def _functions_of(modules: tuple[str, ...]) -> dict[int, str]:
    found = {}
    for module in modules:
        for name in _FUNCTIONS[module]:
            # In the dictionary: a lazy module shall not load anything because it is asked.
            function = vars(sys.modules[module]).get(name)
            if function is not None:
                found[id(function)] = name if module == "builtins" else f"{module}.{name}"
    return found


def is_of_the_user(module: str) -> bool:
    """Whether a module's code is neither Python's nor installed; what cannot be found counts as the user's."""
    top = module.partition(".")[0]
    loaded = sys.modules.get(top)
    spec = getattr(loaded, "__spec__", None) if loaded is not None else _found(top)
    origin = getattr(loaded, "__file__", None) or getattr(spec, "origin", None)
    if isinstance(origin, str):
        return origin not in ("built-in", "frozen") and not origin.startswith(_installed())
    folders = list(getattr(spec, "submodule_search_locations", None) or ())
    if folders:  # a package without a file of its own, such as mpl_toolkits
        return not all(folder.startswith(_installed()) for folder in folders)
    return top not in sys.builtin_module_names


def _found(module: str) -> ModuleSpec | None:
    try:
        return find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None


@cache
def _installed() -> tuple[str, ...]:
    import site

    paths = sysconfig.get_paths()
    folders = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {site.getusersitepackages(), *site.getsitepackages()}
    return tuple(folder.rstrip("/") + "/" for folder in folders if folder)


def module_name(value: Any) -> str:
    """Name of the module that this is, or ``""``."""
    return value.__name__ if type(value) is ModuleType else ""
