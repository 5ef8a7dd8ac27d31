"""The case matrix: what a notebook may hold, and how one sees afterwards that it is still what it was.

A case is written as two pieces of source: cells that make something, and a check that runs in a fresh process after
the restore, in the restored namespace. The cases themselves are in ``matrix/``, one file a kind.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
import textwrap
from dataclasses import dataclass

#: Cells of a set-up are divided by a line with only this.
CELL = "# %%"

EXACT = frozenset({"exact"})
#: What a rule may make anew as long as it then behaves as before.
RIGHT = frozenset({"exact", "rebuilt"})
#: Things that a good system may also have to give up, if it says so.
HONEST = frozenset({"exact", "rebuilt", "replayed", "reported"})
#: Things that end with their process; a "stored" one would be a lie.
GONE = frozenset({"reported", "replayed"})


@dataclass(frozen=True)
class Case:
    """One thing that a notebook may hold.

    Attributes
    ----------
    setup
        Sources of notebook cells, run one after the other.
    check
        Runs in the restored namespace and raises if anything is not what it was: identity, sharing, position and
        behaviour, not only equality.
    allowed
        Outcomes that a good system may have, of ``exact``, ``rebuilt``, ``replayed``, ``reported``.
    strict
        Runs after the check where the outcome is "exact": what may be missing only if the report says that something
        was made anew.
    between
        Runs after the capture in the namespace that was captured: the world goes on, the checkpoint must not.
    loses
        Kinds of state without a name that may be reported as lost, such as ``registrations``.
    needs
        Packages without which there is no such case.
    """

    kind: str
    name: str
    setup: list[str]
    check: str
    allowed: frozenset[str]
    strict: str = ""
    between: str = ""
    needs: tuple[str, ...] = ()
    loses: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.kind}: {self.name}"


def case(
    kind: str,
    name: str,
    setup: str,
    check: str,
    allowed: frozenset[str],
    *,
    strict: str = "",
    between: str = "",
    loses: tuple[str, ...] = (),
) -> Case:
    """A case from indented sources; what it needs is read off its imports."""
    whole = textwrap.dedent(setup).strip()
    cells = [cell.strip() + "\n" for cell in whole.split(CELL)]
    sources = [textwrap.dedent(source).strip() + "\n" if source else "" for source in (check, strict, between)]
    packages = sorted(_imported([*cells, *sources]) - sys.stdlib_module_names)
    return Case(kind, name, cells, sources[0], allowed, sources[1], sources[2], tuple(packages), loses)


def _imported(sources: list[str]) -> set[str]:
    """Top-level names of the modules that these sources import, those made by the case itself left out."""
    found: set[str] = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return {name for name in found if not name.startswith(("mine_", "__"))}


def load_cases() -> list[Case]:
    """Every case, in the order of the files of ``matrix/``."""
    package = importlib.import_module(f"{__package__}.matrix" if __package__ else "matrix")
    cases: list[Case] = []
    for module in pkgutil.iter_modules(package.__path__):
        cases += importlib.import_module(f"{package.__name__}.{module.name}").CASES
    ids = [one.id for one in cases]
    assert len(ids) == len(set(ids)), f"two cases of one name: {sorted(one for one in ids if ids.count(one) > 1)}"
    return cases
