"""What a cell does besides computing variables, read off its source.

Code of the notebook's functions and classes is followed where it is called and its source is at hand; what a call does
that is neither followed nor in the tables is unknown, which counts as an effect. So do operators and attributes of
classes with effects in their own. What C code does unasked is not seen.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

from . import effect_tables as tables
from .escapes import ATTRIBUTES, NAMES, is_of_the_user
from .magics_read import without_magics

#: What an expression gives: a module or function by its full name, plain data, or ``None``: nobody knows.
_DATA = "data"

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda


def definitions(sources: Iterable[str]) -> dict[str, Definition]:
    """Functions and classes that cells define at their top level; of one name, the last."""
    found: dict[str, Definition] = {}
    for source in sources:
        try:
            body = ast.parse(source).body
        except (SyntaxError, ValueError):
            continue
        found.update(_defined(body))
    return found


def effects(
    source: str,
    *,
    types: Mapping[str, str] | None = None,
    known: Mapping[str, Definition] | None = None,
    seen: Iterable[str] = (),
) -> tuple[str, ...]:
    """Visible effects of a cell, in words; none: to run it again gives the same and changes nothing else.

    Parameters
    ----------
    source
        Python, as the shell compiled it.
    types
        Of variables that it reads, as far as known: qualified names such as ``numpy.ndarray``; of modules the word
        ``module`` and their name, such as ``module numpy``.
    known
        See ``definitions``.
    seen
        What an ``EffectWatch`` saw it do.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return tuple(dict.fromkeys(seen))
    bodies, opaque = without_magics(tree) if "get_ipython" in source else ([tree], "")
    walk = _Effects(types or {}, {**(known or {}), **_defined(tree.body)})
    for word in seen:
        walk.say(word)
    if opaque:
        walk.say(opaque)
    if "get_ipython" in source:
        walk.say(tables.SUBPROCESS)
    walk.doubt(*bodies, *(known or {}).values())
    for body in bodies:
        walk.run(body.body)
    walk.implicit()
    return tuple(walk.found)


def _defined(body: Iterable[ast.stmt]) -> dict[str, Definition]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name: node for node in body if isinstance(node, kinds)}


class _Effects(ast.NodeVisitor):
    def __init__(self, types: Mapping[str, str], known: Mapping[str, Definition]) -> None:
        self.found: dict[str, None] = {}
        self._known = dict(known)
        #: Name -> what it gives; in one scope, as far as it is the same on every way.
        self._gives: dict[str, str | None] = {}
        for name, kind in types.items():
            if kind.startswith("module "):
                self._gives[name] = kind.removeprefix("module ")
            elif kind.partition(".")[0] in tables.DATA:
                self._gives[name] = _DATA
            else:
                self._gives[name] = None
        #: Bound where the order of statements does not tell when.
        self._unsure: set[str] = set()
        self._followed: set[int] = set()
        self._seeded: set[str] = set()
        self._depth = 0

    def doubt(self, *trees: ast.AST) -> None:
        """Names that other scopes, patterns and handlers bind stand for anything."""
        for node in (node for tree in trees for node in ast.walk(tree)):
            match node:
                case ast.Global(names=names) | ast.Nonlocal(names=names):
                    self._unsure.update(names)
                case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                    self._unsure.add(name)
                case ast.ExceptHandler(name=str(name)):
                    self._unsure.add(name)

    def say(self, word: str) -> None:
        if word:
            self.found.setdefault(word)

    def run(self, body: Iterable[ast.AST]) -> None:
        for node in body:
            self.visit(node)

    def implicit(self) -> None:
        """What operators, attributes and ends of objects of the notebook's classes run."""
        for definition in list(self._known.values()):
            if isinstance(definition, ast.ClassDef):
                for name, method in _defined(definition.body).items():
                    if name.startswith("__") or (not isinstance(method, ast.Lambda) and method.decorator_list):
                        self._follow(method)

    # -- what things are -------------------------------------------------------------------------

    def _what(self, node: ast.AST) -> str | None:
        if isinstance(node, ast.Name):
            if node.id in self._unsure:
                return None
            if node.id in self._gives:
                return self._gives[node.id]
            if node.id in self._known:
                return f"notebook.{node.id}"
            return f"builtins.{node.id}"
        if isinstance(node, ast.Attribute):
            base = self._what(node.value)
            return base if base is None or base == _DATA else f"{base}.{node.attr}"
        if isinstance(node, ast.Call):
            name = self._what(node.func)
            if name == _DATA or (name is not None and tables.does(name) == ""):
                return _DATA if name not in ("builtins.getattr", "builtins.next", "builtins.type") else None
            return None
        if isinstance(node, (ast.Subscript, ast.Starred)):
            return _DATA if self._what(node.value) == _DATA and not self._mixed(node.value) else None
        if isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Constant, ast.JoinedStr)):
            return _DATA
        if isinstance(node, (ast.List, ast.Tuple, ast.Set, ast.Dict, ast.ListComp, ast.SetComp, ast.DictComp)):
            return _DATA
        return None

    def _mixed(self, node: ast.AST) -> bool:
        """Whether a container may hold more than data, so that an item of it may be anything."""
        return not isinstance(node, (ast.Constant, ast.JoinedStr))

    def _bind(self, target: ast.AST, gives: str | None) -> None:
        if isinstance(target, ast.Name):
            self._known.pop(target.id, None)
            # In a loop or a branch an earlier binding may still stand.
            before = self._gives.get(target.id, gives)
            self._gives[target.id] = gives if self._depth == 0 or before == gives else None
        elif isinstance(target, (ast.Tuple, ast.List)):
            for part in target.elts:
                self._bind(part, None)
        elif isinstance(target, ast.Starred):
            self._bind(target.value, _DATA)
        elif isinstance(target, (ast.Attribute, ast.Subscript)):
            self.visit(target.value)
            root = self._what(target.value)
            if root is not None and root != _DATA and not root.startswith("notebook."):
                # Of a module, or of a variable that may stand for one.
                self.say(f"{tables.PROCESS}: assigns to {ast.unparse(target)}")

    # -- statements ------------------------------------------------------------------------------

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        gives = self._what(node.value)
        for target in node.targets:
            self._bind(target, gives)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self._bind(node.target, self._what(node.value))

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)
        if not isinstance(node.target, ast.Name):
            self._bind(node.target, None)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self._bind(node.target, self._what(node.value))

    def visit_Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            self._bind(target, None)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._module(alias.name)
            self._gives[alias.asname or alias.name.partition(".")[0]] = (
                alias.name if alias.asname else alias.name.partition(".")[0]
            )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        self._module("." if node.level else module)
        for alias in node.names:
            if alias.name == "*":
                self.say(tables.TEXT)
            self._gives[alias.asname or alias.name] = f"{module}.{alias.name}"

    def _module(self, name: str) -> None:
        if name == "." or is_of_the_user(name):
            self.say(f"unknown: imports {name}")

    def _block(self, *parts: Iterable[ast.AST]) -> None:
        self._depth += 1
        for part in parts:
            self.run(part)
        self._depth -= 1

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        self._block(node.body, node.orelse)

    def visit_While(self, node: ast.While) -> None:
        # Twice: what the end of a loop binds is there at its next beginning.
        for _ in range(2):
            self._block([node.test], node.body, node.orelse)

    def _for(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        for _ in range(2):
            self._depth += 1
            self._bind(node.target, _DATA if _is_range(node.iter) else None)
            self._depth -= 1
            self._block(node.body, node.orelse)

    visit_For = _for

    def visit_Try(self, node: ast.Try) -> None:
        self._block(node.body, *(handler.body for handler in node.handlers), node.orelse, node.finalbody)

    visit_TryStar = visit_Try

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars is not None:
                opens = (
                    isinstance(item.context_expr, ast.Call) and self._what(item.context_expr.func) == "builtins.open"
                )
                self._bind(item.optional_vars, _DATA if opens else None)
            if isinstance(item.context_expr, ast.Name):
                self.say(f"unknown: enters {item.context_expr.id}")
        self.run(node.body)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        self.say(tables.THREADS)
        self.generic_visit(node)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self.say(tables.THREADS)
        self._for(node)

    def visit_Await(self, node: ast.Await) -> None:
        self.say(tables.THREADS)
        self.generic_visit(node)

    def visit_Global(self, node: ast.Global) -> None:
        return

    # -- definitions: their bodies run when they are called ----------------------------------------

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._decorators(node.decorator_list)
        self.run([*node.args.defaults, *(default for default in node.args.kw_defaults if default)])
        self._known[node.name] = node
        self._gives.pop(node.name, None)

    visit_FunctionDef = visit_AsyncFunctionDef = _definition

    def _decorators(self, nodes: Iterable[ast.expr]) -> None:
        for node in nodes:
            if isinstance(node, ast.Call):
                self.visit(node)
            else:
                self._call(node, [])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._decorators(node.decorator_list)
        for base in node.bases:
            if self._what(base) is None:
                self.say(f"unknown: derives from {ast.unparse(base)}")
        outer = dict(self._gives), dict(self._known)
        self.run(node.body)
        self._gives, self._known = outer
        self._known[node.name] = node
        self._gives.pop(node.name, None)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._follow(node)  # Given to somebody who may call it.

    # -- calls -------------------------------------------------------------------------------------

    def visit_Call(self, node: ast.Call) -> None:
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        self.run(arguments)
        for argument in arguments:
            name = self._what(argument)
            if name is None or name == _DATA:
                continue
            what = tables.does(name)
            if name.startswith("notebook."):
                self._follow_name(name)  # Who gets a function may call it.
            elif what is not None:
                self.say(what)
            elif not name.startswith("builtins."):
                self.say(f"unknown: gives away {name}")
        self._call(node.func, arguments, node)

    def _call(self, function: ast.expr, arguments: list[ast.expr], node: ast.Call | None = None) -> None:
        self.visit(function)
        name = self._what(function)
        if isinstance(function, ast.Call):
            name = None
        if name is None or name == _DATA:
            self._method(function, is_data=name == _DATA)
        elif name.startswith("notebook."):
            if name.count(".") > 1:
                self._method(function, is_data=False)
            else:
                self._follow_name(name)
        elif name in ("builtins.open", "io.open"):
            self.say(_opening(node, place=1))
        elif name in tables.SEEDS and arguments and _constant(arguments):
            self._seeded.add(tables.SEEDS[name])
        elif name in tables.SEEDED:
            self.say("" if arguments and _constant(arguments) else tables.RANDOM)
        else:
            what = tables.does(name)
            if what == tables.RANDOM and any(name.startswith(seeded) for seeded in self._seeded):
                return
            self.say(f"unknown: calls {name.removeprefix('builtins.')}" if what is None else what)

    def _method(self, function: ast.expr, *, is_data: bool) -> None:
        if not isinstance(function, ast.Attribute):
            if isinstance(function, ast.Lambda):
                return
            self.say(f"unknown: calls {ast.unparse(function)}" if not is_data else "")
            return
        name = function.attr
        methods = self._methods(name)
        for method in methods:
            self._follow(method)
        if name in tables.METHODS:
            self.say(tables.WRITES if name == "open" else tables.METHODS[name])
        elif not is_data and not methods:
            self.say(f"unknown: calls {ast.unparse(function)}")

    def _methods(self, name: str) -> list[Definition]:
        classes = [item for item in self._known.values() if isinstance(item, ast.ClassDef)]
        return [method for item in classes for own, method in _defined(item.body).items() if own == name]

    def _follow_name(self, name: str) -> None:
        definition = self._known.get(name.split(".")[1])
        if definition is None:
            self.say(f"unknown: calls {name.removeprefix('notebook.')}")
        else:
            self._follow(definition)

    def _follow(self, definition: Definition) -> None:
        if id(definition) in self._followed:
            return
        self._followed.add(id(definition))
        gives, depth, known = dict(self._gives), self._depth, dict(self._known)
        if isinstance(definition, ast.ClassDef):
            for base in definition.bases:
                what = self._what(base)
                if what is not None and what.startswith("notebook."):
                    self._follow_name(what)
                elif what is None or tables.does(what) is None:
                    self.say(f"unknown: calls {ast.unparse(base)}")
            for name, method in _defined(definition.body).items():
                if name in ("__init__", "__new__", "__post_init__", "__call__"):
                    self._follow(method)
        else:
            arguments = definition.args
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                self._gives[argument.arg] = None
                self._known.pop(argument.arg, None)
            for rest in (arguments.vararg, arguments.kwarg):
                if rest is not None:
                    self._gives[rest.arg] = _DATA
            self.run([definition.body] if isinstance(definition, ast.Lambda) else definition.body)
        self._gives, self._depth, self._known = gives, depth, known

    # -- names that escape -------------------------------------------------------------------------

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in NAMES and node.id not in self._gives:
            self.say(tables.TEXT)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.visit(node.value)
        if node.attr in ATTRIBUTES - {"modules", "eval", "query"}:
            self.say(tables.TEXT)
        if self._what(node) in ("os.environ", "sys.path"):
            self.say(tables.PROCESS)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        gives = dict(self._gives)
        for generator in node.generators:
            self.visit(generator.iter)
            self._bind(generator.target, _DATA if _is_range(generator.iter) else None)
            self.run(generator.ifs)
        self.run([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt])
        self._gives = gives

    def visit_Set(self, node: ast.Set) -> None:
        if not all(isinstance(item, ast.Constant) and isinstance(item.value, (int, float)) for item in node.elts):
            self.say(tables.RANDOM)
        self.generic_visit(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self.say(tables.RANDOM)
        self._comprehension(node)

    visit_ListComp = visit_GeneratorExp = visit_DictComp = _comprehension


def _is_range(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("range", "enumerate")


def _constant(nodes: Iterable[ast.expr]) -> bool:
    return all(isinstance(node, ast.Constant) and node.value is not None for node in nodes)


def _opening(node: ast.Call | None, *, place: int) -> str:
    if node is None:
        return tables.WRITES
    mode: ast.expr | None = node.args[place] if len(node.args) > place else None
    mode = next((keyword.value for keyword in node.keywords if keyword.arg == "mode"), mode)
    if mode is None and not any(keyword.arg is None for keyword in node.keywords):
        return tables.READS
    if isinstance(mode, ast.Constant) and isinstance(mode.value, str) and not set(mode.value) & set("wax+"):
        return tables.READS
    return tables.WRITES
