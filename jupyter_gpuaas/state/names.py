"""Which names of the notebook a cell reads and which it assigns.

Statements at the top level are walked in the order in which they run, so that a name which the cell has certainly
assigned before does not count as read. What is in scopes of its own (functions, lambdas, classes) is left to the
compiler: its code objects say which globals they touch, and the same reading serves functions that already exist.
When in doubt a name counts as read.
"""

from __future__ import annotations

import ast
import builtins
import copy
import dis
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import CodeType

_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_WRITES = frozenset({"STORE_GLOBAL"})
_DELETES = frozenset({"DELETE_GLOBAL"})
_BUILTINS = frozenset(dir(builtins))

#: Cell magics whose body is Python that runs in the namespace of the notebook.
PYTHON_CELLS = frozenset({"time", "timeit", "prun", "capture", "memit", "mprun", "lprun"})
PYTHON_LINES = frozenset({"time", "timeit", "prun", "memit", "mprun", "lprun", "debug", "pinfo"})
#: Of these, the ones that leave what they assign in the namespace.
_KEEPING = frozenset({"time", "capture", "prun"})
OPTION = re.compile(r"^\s*-{1,2}\w+(\s+\d+)?")
SHELL_NAME = re.compile(r"(?<!\$)\$(\w+)|\{([^{}]+)\}")


@dataclass
class CellNames:
    """What a piece of code does to the namespace that it runs in."""

    reads: set[str] = field(default_factory=set)
    #: Assigned by some path through the code; imports, definitions and loop variables included.
    assigns: set[str] = field(default_factory=set)
    deletes: set[str] = field(default_factory=set)
    #: Full names of the modules that are imported; ``.`` in front for relative ones.
    imports: set[str] = field(default_factory=set)

    def add(self, other: CellNames) -> None:
        """Take over what other code does."""
        self.reads |= other.reads
        self.assigns |= other.assigns
        self.deletes |= other.deletes
        self.imports |= other.imports


def analyse(source: str, transform: Callable[[str], str] | None = None) -> CellNames:
    """Names of a cell.

    Parameters
    ----------
    source
        The cell as typed.
    transform
        The shell's ``transform_cell``, which turns magics and ``!commands`` into Python.

    Raises
    ------
    SyntaxError
        The cell is not Python; it would fail in the remote session in the same way.
    """
    walk = _Walk(transform or (lambda text: text))
    walk.run(source)
    return walk.names


def of_code(code: CodeType) -> CellNames:
    """Globals that a code object, and those inside it, read, assign and import."""
    names = CellNames()
    _code(code, names, is_class=False)
    return names


def is_builtin(name: str) -> bool:
    """Whether the name means something without any namespace."""
    return name in _BUILTINS


def _code(code: CodeType, names: CellNames, *, is_class: bool) -> None:
    own: set[str] = set()
    module = ""
    for instruction in dis.get_instructions(code):
        name = instruction.argval
        if instruction.opname in _READS:
            if not (is_class and name in own):
                names.reads.add(name)
        elif instruction.opname == "STORE_NAME" and is_class:
            own.add(name)
        elif instruction.opname in _WRITES:
            names.assigns.add(name)
        elif instruction.opname in _DELETES:
            names.deletes.add(name)
        elif instruction.opname == "IMPORT_NAME":
            names.imports.add(name)
            module = name
        elif instruction.opname == "IMPORT_FROM":
            names.imports.add(f"{module}.{name}")  # May name a module too.
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            # Of the code inside other code only the body of a class keeps its names in a dictionary.
            _code(constant, names, is_class=not constant.co_flags & inspect.CO_OPTIMIZED)
    names.reads -= {"__name__", "__module__", "__qualname__", "__annotations__", "__build_class__"}


class _Walk(ast.NodeVisitor):
    """Walks statements in the order in which they run; ``bound`` holds what is certainly assigned by now."""

    def __init__(self, transform: Callable[[str], str]) -> None:
        self.names = CellNames()
        self.bound: set[str] = set()
        self._hidden: list[set[str]] = []  # names of the comprehensions around
        self._transform = transform

    def run(self, source: str) -> None:
        tree = compile(
            self._transform(source),
            "<cell>",
            "exec",
            ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        self._all(tree.body)

    def _all(self, nodes: Iterable[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    # -- names -----------------------------------------------------------------------------------

    def _read(self, name: str) -> None:
        if name not in self.bound and not any(name in hidden for hidden in self._hidden):
            self.names.reads.add(name)

    def _assign(self, name: str) -> None:
        if self._hidden and name in self._hidden[-1]:
            return
        self.names.assigns.add(name)
        self.names.deletes.discard(name)
        self.bound.add(name)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._read(node.id)
        elif isinstance(node.ctx, ast.Store):
            self._assign(node.id)
        else:
            self._delete(node.id)

    def _delete(self, name: str) -> None:
        self._read(name)
        self.bound.discard(name)
        self.names.deletes.add(name)

    # -- statements in which order matters -------------------------------------------------------

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        self._all(node.targets)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._all([node.annotation, node.value])
        if node.value is not None or not isinstance(node.target, ast.Name):
            self.visit(node.target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._read(node.target.id)
        self.visit(node.value)
        self.visit(node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        # Binds in the scope around the comprehension, never in the comprehension itself.
        hidden, self._hidden = self._hidden, []
        self.visit(node.target)
        self._hidden = hidden

    def visit_Global(self, node: ast.Global) -> None:
        return

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.names.imports.add(alias.name)
            self._assign(alias.asname or alias.name.partition(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = "." * node.level + (node.module or "")
        self.names.imports.add(module)
        for alias in node.names:
            if alias.name != "*":
                # `from package import module` may name a module too.
                self.names.imports.add(f"{module}.{alias.name}")
                self._assign(alias.asname or alias.name)

    # -- branches: what follows may rely only on what every way has bound ------------------------

    def _branches(self, *ways: Iterable[ast.AST], always: bool) -> None:
        before = set(self.bound)
        everywhere: set[str] | None = None
        for way in ways:
            self.bound = set(before)
            self._all(way)
            everywhere = self.bound if everywhere is None else everywhere & self.bound
        # One way may delete what was bound before.
        self.bound = (everywhere or set()) if always else before & (everywhere or before)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        self._branches(node.body, node.orelse, always=True)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.test)
        self._branches([node.body], [node.orelse], always=True)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.visit(node.values[0])
        self._branches(node.values[1:], always=False)

    def visit_While(self, node: ast.While) -> None:
        self.visit(node.test)
        self._branches(node.body, node.orelse, always=False)

    def _for(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self._branches([node.target, *node.body], node.orelse, always=False)

    visit_For = visit_AsyncFor = _for

    def _with(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            self._all([item.context_expr, item.optional_vars])
        if any("suppress" in ast.dump(item.context_expr) for item in node.items):
            self._branches(node.body, always=False)
        else:
            self._all(node.body)

    visit_With = visit_AsyncWith = _with

    def visit_Try(self, node: ast.Try) -> None:
        if node.handlers:
            self._branches(node.body + node.orelse, *_handlers(node), always=False)
        else:
            self._all(node.body)
        self._all(node.finalbody)

    visit_TryStar = visit_Try

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self._all([node.type])
        if node.name:
            self.bound.add(node.name)
        self._all(node.body)
        if node.name:  # Python deletes it at the end of the handler.
            self.bound.discard(node.name)

    def visit_Match(self, node: ast.Match) -> None:
        self.visit(node.subject)
        self._branches(*([case] for case in node.cases), always=False)

    def visit_match_case(self, node: ast.match_case) -> None:
        self._all([node.pattern, node.guard, *node.body])

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        self._all([node.pattern])
        if node.name:
            self._assign(node.name)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        if node.name:
            self._assign(node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self._all([*node.keys, *node.patterns])
        if node.rest:
            self._assign(node.rest)

    # -- scopes of their own ---------------------------------------------------------------------

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        self.visit(node.generators[0].iter)
        own = {
            name.id
            for generator in node.generators
            for name in ast.walk(generator.target)
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
        }
        self._hidden.append(own)
        before = set(self.bound)
        for index, generator in enumerate(node.generators):
            if index:
                self.visit(generator.iter)
            self._all([generator.target, *generator.ifs])
        values = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        self._all(values)
        self.bound = before
        self._hidden.pop()

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._all([*node.args.defaults, *node.args.kw_defaults])
        self._scope(ast.Expr(value=node))

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = node.args
        self._all(node.decorator_list)
        self._all([*arguments.defaults, *arguments.kw_defaults])
        self._scope(node)
        self._assign(node.name)

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._all([*node.decorator_list, *node.bases, *(key.value for key in node.keywords)])
        self._scope(node)
        self._assign(node.name)

    def _scope(self, node: ast.stmt) -> None:
        bare = copy.deepcopy(node)
        if isinstance(bare, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bare.decorator_list = []
        module = ast.fix_missing_locations(ast.Module(body=[bare], type_ignores=[]))
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        names = of_code(compile(module, "<cell>", "exec", flags, dont_inherit=True))
        names.assigns -= {getattr(node, "name", "")}
        for name in names.reads:
            if name != getattr(node, "name", None):  # recursion
                self._read(name)
        self.names.assigns |= names.assigns
        self.names.deletes |= names.deletes
        self.names.imports |= names.imports

    # -- magics, as the shell's transformer writes them ------------------------------------------

    def visit_Call(self, node: ast.Call) -> None:
        kind, arguments = read_magic(node)
        if not kind:
            self.generic_visit(node)
        elif kind == "run_cell_magic" and arguments[0] in PYTHON_CELLS:
            if arguments[0] != "capture":
                self._python(arguments[1])
            elif variable := [word for word in arguments[1].split() if word.isidentifier()]:
                self._assign(variable[0])
            self._python(arguments[2], keep=arguments[0] in _KEEPING)
        elif kind == "run_line_magic" and arguments[0] in PYTHON_LINES:
            self._python(arguments[1], keep=arguments[0] in _KEEPING)
        else:
            for text in arguments[1:] or arguments:
                self._expansions(text)

    def _python(self, text: str, *, keep: bool = False) -> None:
        while option := OPTION.match(text):
            text = text[option.end() :]
        inner = _Walk(self._transform)
        inner.bound = set(self.bound)
        try:
            inner.run(textwrap.dedent(text))
        except SyntaxError:
            return  # Options of the magic, not code.
        if keep:
            self.bound |= inner.bound
        else:
            inner.names.assigns.clear()
        self.names.add(inner.names)

    def _expansions(self, text: str) -> None:
        """``$name`` and ``{expression}``, which the shell fills in before the magic sees its line."""
        for match in SHELL_NAME.finditer(text):
            self._python(match[1] or match[2])


def _handlers(node: ast.Try) -> list[list[ast.AST]]:
    return [[handler] for handler in node.handlers]


def read_magic(node: ast.Call) -> tuple[str, list[str]]:
    """Method and constant arguments of ``get_ipython().method(...)``."""
    match node:
        case ast.Call(
            func=ast.Attribute(value=ast.Call(func=ast.Name(id="get_ipython")), attr=attr), args=arguments
        ) if attr in {"run_line_magic", "run_cell_magic", "system", "getoutput"}:
            values = [argument.value for argument in arguments if isinstance(argument, ast.Constant)]
            if len(values) == len(arguments) and all(isinstance(value, str) for value in values):
                return attr, [str(value) for value in values]
    return "", []
