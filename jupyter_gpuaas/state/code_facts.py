"""What a code object says about the globals that it reaches."""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Iterable
from functools import lru_cache
from types import CodeType

import msgspec

from .escapes import ATTRIBUTES, HARMLESS_CALLED, HARMLESS_CALLED_BARE, MODULES, NAMES, by_member


class CodeFacts(msgspec.Struct, frozen=True):
    """What code does, that inside it included where not said otherwise; "here" is what runs when it runs."""

    #: Globals that it loads, binds or deletes.
    names: frozenset[str] = frozenset()
    #: Binds or deletes attributes or items.
    stores_attributes: bool = False
    #: May run code that is not its own, here: calls, operators, attributes, iteration, display.
    calls: bool = False
    #: Why nothing can be said of what it reaches, or ``""``.
    opaque: str = ""
    #: ... here.
    opaque_here: str = ""
    #: Of ``names``, those here.
    own: frozenset[str] = frozenset()
    #: Globals that it binds or deletes.
    binds: frozenset[str] = frozenset()
    #: Globals that it loads, each with the attribute that it takes from it at once, or ``""``.
    members: frozenset[tuple[str, str]] = frozenset()
    #: Modules that it imports.
    imports: frozenset[str] = frozenset()
    #: ... here.
    own_imports: frozenset[str] = frozenset()


def merged(parts: Iterable[CodeFacts]) -> CodeFacts:
    """Facts of pieces of code that run one after the other."""
    every = tuple(parts)
    if len(every) == 1:
        return every[0]
    nothing = CodeFacts()
    return CodeFacts(
        names=nothing.names.union(*(part.names for part in every)),
        stores_attributes=any(part.stores_attributes for part in every),
        calls=any(part.calls for part in every),
        opaque=next((part.opaque for part in every if part.opaque), ""),
        opaque_here=next((part.opaque_here for part in every if part.opaque_here), ""),
        own=nothing.own.union(*(part.own for part in every)),
        binds=nothing.binds.union(*(part.binds for part in every)),
        members=nothing.members.union(*(part.members for part in every)),
        imports=nothing.imports.union(*(part.imports for part in every)),
        own_imports=nothing.own_imports.union(*(part.own_imports for part in every)),
    )


_LOADS = frozenset({"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS", "LOAD_CLASSDEREF"})
_LOCALS = frozenset({"LOAD_FAST", "LOAD_DEREF", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW"})
_BINDS = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_BINDS_NAMES = frozenset({"STORE_NAME", "DELETE_NAME"})
_STORES = frozenset({"STORE_ATTR", "DELETE_ATTR", "STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE"})
_ATTRIBUTE = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
#: What runs no code of anybody's: constants, names, plain containers, definitions. All others may.
_QUIET = frozenset(
    {
        *("RESUME", "NOP", "CACHE", "EXTENDED_ARG", "NOT_TAKEN", "SETUP_ANNOTATIONS", "GEN_START", "RETURN_GENERATOR"),
        *("LOAD_CONST", "LOAD_SMALL_INT", "LOAD_CLOSURE", "LOAD_FAST", "MAKE_CELL", "COPY_FREE_VARS", "PUSH_NULL"),
        *("LOAD_NAME", "LOAD_GLOBAL", "STORE_NAME", "STORE_GLOBAL", "DELETE_NAME", "DELETE_GLOBAL", "STORE_FAST"),
        *("COPY", "SWAP", "DUP_TOP", "ROT_TWO", "ROT_THREE", "ROT_FOUR", "IS_OP", "RETURN_VALUE", "RETURN_CONST"),
        *("BUILD_LIST", "BUILD_TUPLE", "BUILD_CONST_KEY_MAP", "MAKE_FUNCTION", "SET_FUNCTION_ATTRIBUTE"),
        *("IMPORT_NAME", "IMPORT_FROM", "JUMP_FORWARD", "JUMP_ABSOLUTE", "JUMP_BACKWARD"),
    }
)
#: Quiet after a constant only.
_QUIET_OF_CONSTANT = frozenset({"LIST_EXTEND", "SET_UPDATE"})
_SKIPPED = frozenset({"CACHE", "EXTENDED_ARG", "PRECALL", "PUSH_NULL"})
_CALLS = frozenset({"CALL", "PRECALL", "CALL_METHOD", "CALL_FUNCTION"})
#: What the body of every class loads for itself.
_OF_CLASSES = frozenset({"__name__", "__qualname__", "__module__"})


def facts(code: CodeType) -> CodeFacts:
    """Facts of a code object and of those inside it."""
    return _facts(code, False)


@lru_cache(maxsize=8192)
def _facts(code: CodeType, is_inside: bool) -> CodeFacts:
    # Code objects are equal when they do the same, so equal ones may share an entry of the cache.
    here = _Reading(code, is_class=is_inside and not code.co_flags & inspect.CO_OPTIMIZED)
    inside = [_facts(constant, True) for constant in code.co_consts if isinstance(constant, CodeType)]
    own = CodeFacts(
        names=frozenset(here.names),
        stores_attributes=here.stores,
        calls=here.calls,
        opaque=here.opaque,
        opaque_here=here.opaque,
        own=frozenset(here.names),
        binds=frozenset(here.binds),
        members=frozenset(here.members),
        imports=frozenset(here.imports),
        own_imports=frozenset(here.imports),
    )
    if not inside:
        return own
    together = merged([own, *inside])
    return msgspec.structs.replace(
        together, calls=own.calls, opaque_here=own.opaque_here, own=own.own, own_imports=own.own_imports
    )


class _Reading:
    """Reads the instructions of one code object."""

    def __init__(self, code: CodeType, *, is_class: bool) -> None:
        self.names: set[str] = set()
        self.binds: set[str] = set()
        self.members: set[tuple[str, str]] = set()
        self.imports: set[str] = set()
        self.stores = self.calls = False
        self.opaque = ""
        #: Local names of modules that this code imports.
        self._aliases: dict[str, str] = {}
        self._module = ""
        self._is_class = is_class
        instructions = [step for step in dis.get_instructions(code) if step.opname not in ("CACHE", "EXTENDED_ARG")]
        last: dis.Instruction | None = None
        for place, step in enumerate(instructions):
            self._step(step, last, instructions[place + 1 : place + 3])
            last = step
        if self._is_class:
            self.names -= _OF_CLASSES

    def _escape(self, why: str) -> None:
        self.opaque = self.opaque or why

    def _step(self, step: dis.Instruction, last: dis.Instruction | None, after: list[dis.Instruction]) -> None:
        name = step.opname
        if name not in _QUIET and not self._is_quiet(step, last):
            self.calls = True
        if name in _LOADS:
            self._load(step.argval, after)
        elif name in _LOCALS:
            if (module := self._aliases.get(step.argval, "")) in MODULES:
                self._escape(by_member(module, _attribute(after) or None))
        elif name in _BINDS or (name in _BINDS_NAMES and not self._is_class):
            self.names.add(step.argval)
            self.binds.add(step.argval)
        elif name in _STORES:
            self.stores = True
        elif name in _ATTRIBUTE:
            self._attribute(step, after)
        elif name == "IMPORT_NAME":
            self._import(step.argval, after)
        elif name == "IMPORT_FROM":
            if step.argval in ATTRIBUTES or by_member(self._module, step.argval):
                self._escape(f"uses {self._module}.{step.argval}")
        elif name == "IMPORT_STAR" or "IMPORT_STAR" in step.argrepr:
            self._escape("imports with a star")

    def _is_quiet(self, step: dis.Instruction, last: dis.Instruction | None) -> bool:
        before = last.opname if last else ""
        if step.opname == "POP_TOP":  # Ends `from a import b`; else a value is thrown away or shown.
            return before in ("STORE_NAME", "STORE_FAST", "STORE_GLOBAL")
        if step.opname == "BUILD_MAP":  # Keys are hashed.
            return step.arg == 0
        return step.opname in _QUIET_OF_CONSTANT and before == "LOAD_CONST"

    def _load(self, name: str, after: list[dis.Instruction]) -> None:
        self.names.add(name)
        attribute = _attribute(after)
        self.members.add((name, attribute))
        if name in NAMES:
            self._escape(f"uses {name}")
        elif (module := self._aliases.get(name, name)) in MODULES and attribute:
            # Bare, it may be a variable of this name; who has the value decides.
            self._escape(by_member(module, attribute))

    def _attribute(self, step: dis.Instruction, after: list[dis.Instruction]) -> None:
        name = step.argval
        if name not in ATTRIBUTES:
            return
        is_method = step.opname == "LOAD_METHOD" or (sys.version_info >= (3, 12) and bool((step.arg or 0) & 1))
        if is_method and name in HARMLESS_CALLED:
            return
        following = next((other for other in after if other.opname != "PUSH_NULL"), None)
        called_bare = following is not None and following.opname in _CALLS and following.arg == 0
        if not (is_method and called_bare and name in HARMLESS_CALLED_BARE):
            self._escape(f"uses {name}")

    def _import(self, module: str, after: list[dis.Instruction]) -> None:
        self._module = module
        self.imports.add(module)
        if module == "__main__":
            self._escape("uses __main__")
        if after and after[0].opname.startswith("STORE_"):
            alias, top = after[0].argval, module.partition(".")[0]
            if top in MODULES:
                self._aliases[alias] = top


def _attribute(after: list[dis.Instruction]) -> str:
    """The attribute that the next instruction takes, or ``""``."""
    return str(after[0].argval) if after and after[0].opname in _ATTRIBUTE else ""
