"""What the user registered with IPython: magics, event callbacks, formatters, input and syntax transformers, comms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..rules.registry import NotRestorable
from .world import Hidden, Kind, Losses, keep, kept, made_by_notebook, needed

#: Where a cell's source says one of these, what is new in a table is the user's, whatever it is.
_WORDS = ("register", "for_type", "transformer", "define_magic", "type_printers", "events")
_missing = object()


class ShellTables(Kind):
    """Tables and lists of callables; kept is what the notebook put there.

    That is what a cell defined, and what came with a cell that says so.
    """

    kind = "shell.registered"

    def __init__(self) -> None:
        #: Table -> key -> what is there and not the user's.
        self._others: dict[str, dict[Any, Any]] = {}
        #: Tables and keys of what is the user's although no cell defined it.
        self._mine: set[tuple[str, Any]] = set()
        self._marked = False

    def mark(self, world: Hidden) -> None:
        self._marked = world.shell is not None
        self._mine.clear()
        self._others = {name: dict(table) for name, table in _tables(world.shell)} if world.shell is not None else {}

    def look(self, world: Hidden) -> Any:
        if world.shell is None:
            return None
        said = world.mentions(*_WORDS)
        found: dict[str, list[tuple[Any, Any]]] = {}
        for name, table in _tables(world.shell):
            others = self._others.setdefault(name, {} if said else dict(table))
            mine = []
            for key, value in table.items():
                if others.get(key, _missing) is value:
                    if self._marked or not made_by_notebook(value, world.namespace):
                        continue
                    del others[key]
                elif not made_by_notebook(value, world.namespace):
                    if not said and (name, key) not in self._mine:
                        others[key] = value  # a library's, or a magic that was loaded at its first use
                        continue
                    self._mine.add((name, key))
                mine.append((key, value))
            if mine:
                found[name] = [(_key(key, world), _value(name, value, world)) for key, value in mine]
        return found

    def put_back(self, value: Any, world: Hidden) -> None:
        shell = world.shell
        if shell is None:
            return
        losses = Losses()
        # What came after the capture goes.
        for name, table in _tables(shell):
            others = self._others.get(name, {})
            for key, present in list(table.items()):
                if others.get(key, _missing) is present:
                    continue
                if made_by_notebook(present, world.namespace) or (name, key) in self._mine:
                    _put(shell, name, key, others.get(key, _missing), present)
        self._mine.clear()
        for name, entries in value.items():
            for key, stored in entries:
                try:
                    self._restore_one(shell, name, kept(key, world.namespace), stored, world)
                except NotRestorable as error:
                    losses.add(f"{name.partition(':')[0]} {_told(key)} {error}")
                except Exception as error:
                    losses.add(f"{name.partition(':')[0]} {_told(key)}: {type(error).__name__}: {error}")
        losses.told()

    def _restore_one(self, shell: Any, name: str, key: Any, stored: Any, world: Hidden) -> None:
        if isinstance(stored, _MagicsOf):
            if key not in shell.magics_manager.magics[name.partition(":")[2]]:
                shell.register_magics(kept(stored.kind, world.namespace))
            return
        value = kept(stored, world.namespace)
        if not made_by_notebook(value, world.namespace):
            self._mine.add((name, _At(key.front, id(value)) if isinstance(key, _At) else key))
        present = dict(_tables(shell)).get(name, {})
        if name.startswith(("event", "transformer")):
            if not any(one is value or one == value for one in present.values()):
                _put(shell, name, key, value, None)
        else:
            _put(shell, name, key, value, None)


class _MagicsOf:
    """A magic that is a method of this class of magics."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return _MagicsOf, (self.kind,)


class _At:
    """Key of an entry of a list: where it stands among the others, at the front or the end."""

    __slots__ = ("front", "of")

    def __init__(self, front: bool, of: int) -> None:
        self.front, self.of = front, of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _At) and self.of == other.of

    def __hash__(self) -> int:
        return self.of

    def __reduce__(self) -> Any:
        return _At, (self.front, 0)


def _tables(shell: Any) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Each with a name, as a dictionary."""
    for kind in ("line", "cell"):
        table = shell.magics_manager.magics[kind]
        # Aliases are kept with the settings.
        yield f"magic:{kind}", {name: one for name, one in table.items() if type(one).__name__ != "Alias"}
    for event, callbacks in shell.events.callbacks.items():
        yield f"event:{event}", _as_table(callbacks)
    for name, transformers in _lists(shell):
        yield f"transformer:{name}", _as_table(transformers)
    for formatter in _formatters(shell):
        name = type(formatter).__name__
        yield f"formatter:{name}", dict(formatter.type_printers)
    comms = getattr(getattr(shell, "kernel", None), "comm_manager", None)
    if comms is not None:
        yield "comm target:", dict(comms.targets)


def _lists(shell: Any) -> Iterator[tuple[str, list[Any]]]:
    manager = shell.input_transformer_manager
    yield "cleanup", manager.cleanup_transforms
    yield "line", manager.line_transforms
    yield "token", manager.token_transformers
    yield "post", shell.input_transformers_post
    yield "ast", shell.ast_transformers


def _as_table(values: list[Any]) -> dict[Any, Any]:
    half = len(values) // 2
    return {_At(place < half, id(value)): value for place, value in enumerate(values)}


def _formatters(shell: Any) -> Iterator[Any]:
    formatter = shell.display_formatter
    yield from formatter.formatters.values()
    yield formatter.ipython_display_formatter
    yield formatter.mimebundle_formatter


def _put(shell: Any, name: str, key: Any, value: Any, present: Any) -> None:
    """Bind the key to the value; take it away where the value is missing."""
    kind, _, rest = name.partition(":")
    if kind == "magic":
        table = shell.magics_manager.magics[rest]
    elif kind == "formatter":
        table = next(one for one in _formatters(shell) if type(one).__name__ == rest).type_printers
    elif kind == "comm target":
        table = shell.kernel.comm_manager.targets
    else:
        entries = shell.events.callbacks[rest] if kind == "event" else dict(_lists(shell))[rest]
        if value is _missing:
            entries[:] = [one for one in entries if one is not present]
        else:
            entries.insert(0 if key.front and kind != "event" else len(entries), value)
        return
    if value is _missing:
        table.pop(key, None)
    else:
        table[key] = value


def _key(key: Any, world: Hidden) -> Any:
    return key if isinstance(key, (str, _At)) else keep(key, world)


def _value(name: str, value: Any, world: Hidden) -> Any:
    owner = getattr(value, "__self__", None)
    magic = needed("IPython.core.magic")
    if name.startswith("magic:") and isinstance(owner, magic.Magics):
        return _MagicsOf(keep(type(owner), world))
    return keep(value, world)


def _told(key: Any) -> str:
    return key if isinstance(key, str) else getattr(key, "name", "") if not isinstance(key, _At) else "callback"
