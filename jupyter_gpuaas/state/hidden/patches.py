"""Attributes of imported modules and of library classes that the notebook set or deleted.

What counts as set by the notebook: what a cell's code assigns by name (``np.sum = f``, ``setattr(np, "sum", f)``); and
whatever a cell or the functions that it calls may have set where the value is, wraps or is an instance of something
that a cell defined. Everything else that changes in libraries (caches, counters, submodules that come with their first
use) is the libraries' own business.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

from ..device.settings import ATTRIBUTES
from ..rules.registry import NotRestorable
from .stores import Place, find_stores, place_of
from .world import Hidden, Kind, Losses, Unkept, keep, kept, made_by_notebook

_MISSING = object()
#: The owner was first seen when the notebook had set it already, or the attribute is made by code.
_UNKNOWN = object()
#: Attributes that say what a module or class is; and switches that other kinds keep.
_NOT_PATCHES = frozenset(
    "__dict__ __weakref__ __doc__ __name__ __module__ __path__ __file__ __spec__ __loader__ __package__ __cached__ "
    "__builtins__ __warningregistry__ __abstractmethods__ _abc_impl __annotations__ __subclasshook__".split()
)
#: Places that others write, or that other kinds keep.
_ELSEWHERE = frozenset(
    {
        *(("sys", "", name) for name in "path argv displayhook excepthook unraisablehook ps1 ps2".split()),
        *(("sys", "", name) for name in "last_value last_type last_traceback last_exc".split()),
        *(("builtins", "", name) for name in ("_", "display", "get_ipython")),
        ("threading", "", "excepthook"),
        *(("torch." + owner, "", name) for owner, _, name in (path.rpartition(".") for path in ATTRIBUTES)),
    }
)
_STREAMS = frozenset(("sys", "", name) for name in ("stdin", "stdout", "stderr"))
#: Types whose objects may be large, so that none is held on to only to set it back some day.
_LARGE = frozenset("ndarray Tensor Parameter DataFrame Series bytes bytearray list dict set".split())


class Patches(Kind):
    kind = "patches"

    def __init__(self) -> None:
        #: What attributes were when their owner was first seen; by module name and class.
        self._modules: dict[str, dict[str, Any]] = {}
        self._classes: dict[type, dict[str, Any]] = {}
        self._loaded = 0
        #: Whether what was there at the first look may be the notebook's.
        self._late = True
        #: Places that the notebook set, with what was there before.
        self._places: dict[Place, Any] = {}
        #: By id of module or class, which objects it had at the last look: where they are the same, so is the answer.
        self._looked: dict[int, int] = {}

    def mark(self, world: Hidden) -> None:
        # A kernel that waited for its session has marked before: what is as it was then need not be seen again.
        stale = {name for name in self._modules if self._is_stale(sys.modules.get(name))}
        stale |= {_home(kind) for kind in self._classes if self._is_stale(kind)}
        for name in stale & self._modules.keys():
            del self._modules[name]
        for kind in [kind for kind in self._classes if _home(kind) not in self._modules]:
            del self._classes[kind]
        self._places.clear()
        self._loaded = 0
        self._late = False
        self._see_new(world.namespace, theirs=True)

    def prepare(self, world: Hidden) -> None:
        self._see_new(world.namespace, theirs=True)

    # -- finding -----------------------------------------------------------------------------------------------

    def look(self, world: Hidden) -> Any:
        space = world.namespace
        stores = find_stores(world)
        fresh = self._see_new(space)
        for place in stores.said:
            self._note_said(place, fresh)
        for owner in self._changed() if world.full else stores.suspects.values():
            self._look_at(owner, space)
        value: list[tuple[Place, bool, Any]] = []
        for place in sorted(self._places):
            owner = owner_at(place)
            if owner is None:
                continue
            now = attribute(owner, place[2])
            if now is self._places[place]:
                continue  # set back
            if now is _MISSING:
                value.append((place, False, None))
            elif place in _STREAMS:
                value.append((place, True, Unkept("was replaced by the notebook; do so again")))
            else:
                value.append((place, True, keep(now, world)))
        return value

    def _is_stale(self, owner: Any) -> bool:
        """Whether it has other objects than at the last look, or is no module or class any more."""
        if not issubclass(type(owner), (type, types.ModuleType)):
            return True
        return self._looked.get(id(owner)) != _print_of(owner)

    def _see_new(self, space: dict[str, Any], theirs: bool = False) -> set[str]:
        """Remember the attributes of modules and classes that were loaded since the last look; names of these.

        With ``theirs``, none of what they have can be the notebook's.
        """
        if len(sys.modules) == self._loaded:
            return set()
        first_look = not self._modules
        fresh: dict[str, Any] = {}
        for name, module in list(sys.modules.items()):
            if name in self._modules or not issubclass(type(module), types.ModuleType):
                continue
            # The notebook's own, which has a second name once multiprocessing is imported.
            if name == "__main__" or vars(module).get("__name__") == "__main__" or vars(module) is space:
                continue
            fresh[name] = module
            attributes = self._modules[name] = {}
            for key, value in list(vars(module).items()):
                kind = type(value)
                attributes[key] = _UNKNOWN if kind.__name__ in _LARGE else value
                if issubclass(kind, type) and _home(value) == name and value not in self._classes:
                    self._classes[value] = dict(vars(value))
                    self._looked[id(value)] = _print_of(value)
            self._looked[id(module)] = _print_of(module)
        self._loaded = len(sys.modules)
        if first_look and self._late:
            self._looked.clear()
        if not first_look and not theirs:
            # The cell that imported them may have patched them as well.
            for module in fresh.values():
                self._look_at(module, space, fresh=True)
                for value in list(vars(module).values()):
                    if issubclass(type(value), type) and value in self._classes and _home(value) in fresh:
                        self._look_at(value, space, fresh=True)
        return set() if first_look else set(fresh)

    def _note_said(self, place: Place, fresh: set[str]) -> None:
        owner = owner_at(place)
        if owner is None or place in self._places or place in _ELSEWHERE or place[2] in _NOT_PATCHES:
            return
        if type(owner).__module__ == "logging":
            return
        before = _UNKNOWN
        if place[0] not in fresh and issubclass(type(owner), (type, types.ModuleType)):
            before = self._known(owner).get(place[2], _MISSING)
            if before is _MISSING and place[2] not in vars(owner):
                if issubclass(type(owner), type) or not hasattr(owner, place[2]):
                    return
                before = _UNKNOWN  # the module makes it by code
        self._places[place] = before

    def _look_at(self, owner: Any, space: dict[str, Any], fresh: bool = False) -> None:
        """Note attributes of a module or class whose values are the notebook's."""
        start = place_of(owner)
        if start is None:
            return
        known = self._known(owner)
        looked = known if not (self._late or fresh) else {}
        for name, value in list(vars(owner).items()):
            if looked.get(name, _MISSING) is value:
                continue
            if made_by_notebook(value, space) and name not in _NOT_PATCHES:
                place = (*start, name)
                if place not in self._places and place not in _ELSEWHERE:
                    before = known.get(name, _MISSING)
                    self._places[place] = _UNKNOWN if before is value else before

    def _changed(self) -> Iterator[Any]:
        """Modules and classes that have other objects than at the last look."""
        for owner in [*(sys.modules[name] for name in self._modules if name in sys.modules), *self._classes]:
            now = _print_of(owner)
            if self._looked.get(id(owner)) != now:
                self._looked[id(owner)] = now
                yield owner

    def _known(self, owner: Any) -> dict[str, Any]:
        if issubclass(type(owner), type):
            return self._classes.get(owner) or {}
        return self._modules.get(str(vars(owner).get("__name__"))) or {}

    # -- restoring ---------------------------------------------------------------------------------------------

    def put_back(self, value: Any, world: Hidden) -> None:
        losses = Losses()
        self._see_new(world.namespace)
        wanted = {place for place, _, _ in value}
        for place in [place for place in self._places if place not in wanted]:
            before = self._places.pop(place)
            owner = owner_at(place)
            if owner is None or attribute(owner, place[2]) is before:
                continue
            if before is _UNKNOWN:
                losses.add(f"{_told(place)} was set later and what it was is not known; restore into a new session")
            else:
                _set(owner, place, before, losses)
        for place, present, stored in value:
            try:
                importlib.import_module(place[0])
            except Exception as error:
                losses.add(f"{_told(place)} cannot be set: {error}")
                continue
            owner = owner_at(place)
            if owner is None:
                losses.add(f"{_told(place)} cannot be set: {place[1] or place[0]} is not there")
                continue
            self._see_new(world.namespace)
            if place not in self._places:
                before = attribute(owner, place[2])
                self._places[place] = before if type(before).__name__ not in _LARGE else _UNKNOWN
            try:
                _set(owner, place, kept(stored, world.namespace) if present else _MISSING, losses)
            except NotRestorable as error:
                losses.add(f"{_told(place)} {error}")
        losses.told()


def _print_of(owner: Any) -> int:
    """A number that is another once an attribute is another object."""
    return hash(tuple(map(id, vars(owner).values())))


def _set(owner: Any, place: Place, value: Any, losses: Losses) -> None:
    if attribute(owner, place[2]) is value:
        return
    try:
        if value is _MISSING:
            delattr(owner, place[2])
        else:
            setattr(owner, place[2], value)
    except Exception as error:
        losses.add(f"{_told(place)} cannot be set: {error}")


def _told(place: Place) -> str:
    return ".".join(part for part in place if part)


def owner_at(place: Place) -> Any:
    """What the attribute is of, if it is loaded."""
    found: Any = sys.modules.get(place[0])
    for part in place[1].split(".") if place[1] else ():
        found = getattr(found, part, None)
    return found


def attribute(owner: Any, name: str) -> Any:
    """The attribute as it is stored, so without binding; what only a property or ``__getattr__`` gives, by asking."""
    own = _vars(owner)
    if name in own:
        return own[name]
    if issubclass(type(owner), type):
        return _MISSING
    return getattr(owner, name, _MISSING)


def _vars(owner: Any) -> Any:
    try:
        return vars(owner)
    except TypeError:
        return {}


def _home(kind: type) -> str:
    return str(type.__getattribute__(kind, "__module__"))
