"""What a checkpoint needs of the process that it is restored in, and whether this process has it."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterable

from ..errors import WorldMismatch
from ..store.manifest import World


def world_of(modules: Iterable[str], devices: tuple[str, ...] = ()) -> World:
    """This process, as far as objects of these top-level modules depend on it."""
    packages = {}
    for module in sorted(modules):
        found = _package(module)
        if found:
            packages[found[0]] = found[1]
    return World(_python(), platform.platform(terse=True), packages, devices, _work())


def relocated(world: World) -> Callable[[str], str]:
    """What gives the place here of a path that a checkpoint has: the session's own working folder may be elsewhere."""
    before, now = world.work.rstrip("/"), _work().rstrip("/")

    def here(path: str) -> str:
        inside = bool(before and now) and (path == before or path.startswith(before + "/"))
        return now + path[len(before) :] if inside else path

    return here


def _work() -> str:
    return os.environ.get("GPUAAS_WORK", "")


def check(world: World, *, exact: bool = True) -> list[str]:
    """Compare a checkpoint's world to this process.

    Parameters
    ----------
    exact
        Whether a package of another major version is an error; it is a remark otherwise.

    Returns
    -------
    Remarks for the user: packages of another version.

    Raises
    ------
    WorldMismatch
        Another Python, or a package that is missing; the message says what to install.
    """
    if world.python != _python():
        raise WorldMismatch(
            f"the checkpoint was taken in {world.python}, this is {_python()}.",
            hint=f"Restore it in a kernel of {world.python}.",
        )
    missing: list[str] = []
    other: list[str] = []
    remarks: list[str] = []
    for package, version in world.packages.items():
        try:
            here = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"{package}=={version}")
            continue
        if here != version:
            (other if exact and _major(here) != _major(version) else remarks).append(
                f"{package} was {version}, here it is {here}"
            )
    if missing or other:
        problems = [*other, *(f"{package} is not installed" for package in missing)]
        wanted = " ".join([*missing, *(f"{entry.split()[0]}=={entry.split()[2].rstrip(',')}" for entry in other)])
        raise WorldMismatch(f"this process differs: {'; '.join(problems)}.", hint=f"pip install {wanted}")
    return remarks


def _python() -> str:
    return f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"


def _major(version: str) -> tuple[str, ...]:
    """What may not differ: the first number, with the second where the first is zero."""
    parts = version.split(".")
    return tuple(parts[:2]) if parts[0] == "0" else tuple(parts[:1])


@functools.cache
def _package(module: str) -> tuple[str, str] | None:
    """The distribution that a top-level module comes from, and its version; none for the standard library."""
    if module in sys.stdlib_module_names or module in ("__main__", "jupyter_gpuaas"):
        return None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        # Most are called as their module is; what a distribution of that name holds must be seen, though.
        named = importlib.metadata.distribution(module)
        if f"\n{module}/" in "\n" + (named.read_text("RECORD") or ""):
            return named.metadata["Name"], named.version
    for distribution in _distributions().get(module, ()):
        return distribution, importlib.metadata.version(distribution)
    return None


@functools.cache
def _distributions() -> dict[str, list[str]]:
    # Reading the lists of all installed packages costs 0.3 s, once a process.
    return dict(importlib.metadata.packages_distributions())
