"""A cell without its magics: what they run as Python, and what they name, put in their place as code."""

from __future__ import annotations

import ast
import keyword
import re
import textwrap
from collections.abc import Iterable

from .names import OPTION, PYTHON_CELLS, PYTHON_LINES, SHELL_NAME, read_magic

#: Other programs.
_SHELL = frozenset({"system", "sx", "getoutput", "bash", "sh", "script", "perl", "ruby", "pip", "conda", "mamba", "uv"})
#: Magics that do nothing to variables but what their line names.
_HARMLESS = _SHELL | frozenset(
    {
        *(
            "ls",
            "ll",
            "lf",
            "lk",
            "ldir",
            "lx",
            "cat",
            "cp",
            "mv",
            "rm",
            "mkdir",
            "rmdir",
            "less",
            "more",
            "man",
            "pwd",
            "cd",
            "dirs",
            "pushd",
            "popd",
        ),
        *("micromamba", "who", "whos", "who_ls", "history", "hist", "lsmagic", "magic"),
        *("quickref", "pinfo", "pinfo2", "pdoc", "pdef", "psource", "pfile", "psearch", "page", "matplotlib", "env"),
        *("set_env", "precision", "colors", "config", "xmode", "automagic", "pprint", "html", "HTML", "javascript"),
        *("js", "latex", "markdown", "svg", "SVG", "writefile", "file", "bookmark", "tb"),
    }
)
_LINES = PYTHON_LINES - {"debug", "pinfo"}
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_BINDING_OPTION = re.compile(r"--(?:out|err|proc)[ =]+([^\W\d]\w*)")


def without_magics(tree: ast.Module) -> tuple[list[ast.Module], str]:
    """The cell and further code that its magics run; and why nothing can be said, or ``""``.

    The tree is changed in place.
    """
    taker = _Taker()
    taker.visit(tree)
    return [ast.fix_missing_locations(tree), *taker.found], taker.opaque


class _Taker(ast.NodeTransformer):
    def __init__(self) -> None:
        self.found: list[ast.Module] = []
        self.opaque = ""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        kind, arguments = read_magic(node)
        if not kind:
            return self.generic_visit(node)
        if kind in ("system", "getoutput"):
            name, line, body = kind, " ".join(arguments), None
        else:
            name, line = arguments[0], " ".join(arguments[1:2])
            body = arguments[2] if kind == "run_cell_magic" and len(arguments) > 2 else None
        if body is None and name in _LINES:
            self._python(line)
        elif body is not None and name in PYTHON_CELLS:
            if name == "capture":
                self._bind(word for word in line.split() if word.isidentifier())
            else:
                self._python(line)
            self._python(body)
        elif name in _HARMLESS:
            self._bind(_BINDING_OPTION.findall(line))
            if kind.startswith("run_"):  # The commands of a shell are no names, the arguments of a magic may be.
                self._mention(line)
        else:
            self.opaque = self.opaque or f"runs the magic {name}"
        for match in SHELL_NAME.finditer(line if body is None else f"{line} {body}"):
            self._python(match[1] or match[2], strict=False)
        if name in _SHELL:
            return ast.copy_location(ast.Constant(""), node)  # Another process runs it.
        return ast.copy_location(ast.Call(ast.Name("print", ast.Load()), [], []), node)

    def _bind(self, names: Iterable[str]) -> None:
        for name in names:
            self.found.append(ast.parse(f"{name} = None"))

    def _mention(self, text: str) -> None:
        for name in _IDENTIFIER.findall(text):
            if not keyword.iskeyword(name):
                self.found.append(ast.parse(name))

    def _python(self, text: str, *, strict: bool = True) -> None:
        while option := OPTION.match(text):
            text = text[option.end() :]
        try:
            inner = ast.parse(textwrap.dedent(text))
        except (SyntaxError, ValueError):
            if strict:
                self.opaque = self.opaque or "runs a magic inside a magic"
            else:
                self._mention(text)
            return
        bodies, opaque = without_magics(inner)
        self.found += bodies
        self.opaque = self.opaque or opaque
