"""What this package needs of others, compared with what is installed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator

import msgspec

NAME = "jupyter_gpuaas"


class Need(msgspec.Struct, frozen=True):
    """A package that is needed, by all or for an extra."""

    name: str
    #: Versions that will do, as pip writes them.
    wants: str
    #: Installed version; empty for none.
    has: str
    #: Empty for what everybody needs.
    extra: str = ""

    @property
    def fits(self) -> bool:
        """Whether it is there in a version that will do."""
        from packaging.specifiers import SpecifierSet

        return bool(self.has) and SpecifierSet(self.wants).contains(self.has, prereleases=True)


def installed(name: str) -> str:
    """The version of a package that is installed; empty for none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def needs(
    extras: Iterable[str] = (), *, written: Iterable[str] | None = None, version: Callable[[str], str] = installed
) -> Iterator[Need]:
    """What is needed by all, and for these extras.

    Parameters
    ----------
    written
        Requirements as in the metadata of a package; those of this one by default.
    version
        Installed version of a package by its name.
    """
    from packaging.requirements import Requirement

    for line in (importlib.metadata.requires(NAME) or ()) if written is None else written:
        requirement = Requirement(line)
        for extra in ("", *extras):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield Need(requirement.name, str(requirement.specifier), version(requirement.name), extra)
                break
