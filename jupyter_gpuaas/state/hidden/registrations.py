"""What cells put into the registries and containers of libraries, which nobody can put back: told, so that one knows.

``np.sum = f`` is a patch and kept; ``copyreg.pickle(A, f)``, ``matplotlib.colormaps.register(c)``,
``module.TABLE["k"] = f`` and ``Abstract.register(A)`` change objects inside a library. The cells that did it are
remembered by their source, and after a restore into another process the user is told to run them again.
"""

from __future__ import annotations

import ast
import types
from typing import Any

from ..rules.registry import NotRestorable
from .stores import MISSING, attribute_of, chain_of, place_of
from .world import Hidden, Kind

_CHANGES = frozenset(
    "append extend insert add update setdefault pop popitem remove discard clear appendleft sort reverse".split()
)
#: What other kinds keep, by the module and attribute that the code goes through.
_ELSEWHERE = frozenset(
    {
        *("os.environ", "sys.path", "sys.modules", "sys.argv", "matplotlib.rcParams", "pandas.options"),
        *("atexit", "warnings", "logging", "linecache", "matplotlib.pyplot.rcParams", "pandas.api.extensions"),
    }
)
_LENGTH = 80


class Registrations(Kind):
    kind = "registrations"

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}

    def mark(self, world: Hidden) -> None:
        self._seen.clear()

    def look(self, world: Hidden) -> Any:
        if world.mentions("regist", "[", "copyreg", *(f".{name}(" for name in _CHANGES)):
            for node in ast.walk(world.tree):
                if _changes_library(node, world.namespace):
                    self._seen[_text(node)] = None
        return list(self._seen)

    def put_back(self, value: Any, world: Hidden) -> None:
        # In the process where they were made they still are.
        missing = [text for text in value if text not in self._seen]
        if missing:
            raise NotRestorable(f"are not made again: {'; '.join(missing)}. Run those cells again")


def _changes_library(node: ast.AST, namespace: dict[str, Any]) -> bool:
    if isinstance(node, ast.Call):
        chain = chain_of(node.func)
        return chain is not None and len(chain) > 1 and _registers(chain, namespace)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        chains = [chain_of(decorator) for decorator in node.decorator_list]
        return any(chain is not None and len(chain) > 1 and _registers(chain, namespace) for chain in chains)
    if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        chain = chain_of(node.value)
        return chain is not None and len(chain) > 1 and _owner(chain, namespace) is not MISSING
    return False


def _registers(chain: tuple[str, ...], namespace: dict[str, Any]) -> bool:
    """Whether calling it puts something into a library's registry or container."""
    name = chain[-1]
    if name in _CHANGES:
        owner = _owner(chain[:-1], namespace)
        return type(owner).__name__ in ("list", "dict", "set", "deque", "OrderedDict", "defaultdict")
    known = name.startswith(("register", "add_handler")) or chain[-2:] == ("copyreg", "pickle")
    return known and _owner(chain[:-1], namespace) is not MISSING


def _owner(chain: tuple[str, ...], namespace: dict[str, Any]) -> Any:
    """What the chain leads to where that belongs to a library; missing else, and where another kind keeps it."""
    owner = namespace.get(chain[0], MISSING)
    home = place_of(owner)
    if home is None:
        # A function of a library, such as one made by singledispatch.
        module = getattr(owner, "__module__", None) if type(owner) is types.FunctionType else None
        if module in (None, "__main__") or owner.__globals__ is namespace:
            return MISSING
        return owner
    path = ".".join(part for part in home if part)
    for part in ("", *chain[1:]):
        path = f"{path}.{part}" if part else path
        if path in _ELSEWHERE:
            return MISSING
        if part:
            owner = attribute_of(owner, part)
    return owner


def _text(node: ast.AST) -> str:
    """Source of it in one line, the head of a definition."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        text = "; ".join(f"@{ast.unparse(decorator)} of {node.name}" for decorator in node.decorator_list)
    else:
        text = ast.unparse(node)
        if isinstance(node, ast.Subscript):
            text += " = …"
    text = " ".join(text.split())
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}…"
