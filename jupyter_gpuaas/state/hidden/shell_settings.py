"""What the user set in IPython: extensions, aliases, ``%config``, ``%xmode``, ``%pdb``, ``from __future__``."""

from __future__ import annotations

from typing import Any

from ..rules.registry import NotRestorable
from .world import Hidden, Kind, Losses, keep, kept, made_by_notebook, remark

#: Extensions that keep nothing of their own, or whose state is kept here.
_KNOWN = frozenset({"storemagic", "IPython.extensions.storemagic", "autoreload", "IPython.extensions.autoreload"})
_PLAIN = (type(None), bool, int, float, str)
_missing = object()


class ShellSettings(Kind):
    kind = "shell"

    def __init__(self) -> None:
        self._extensions: set[str] | None = None
        self._aliases: list[tuple[str, str]] | None = None
        self._traits: dict[tuple[str, str], Any] = {}
        #: Class of a configurable -> its traits that can be configured.
        self._names: dict[type, list[str]] = {}

    def mark(self, world: Hidden) -> None:
        if world.shell is not None:
            self._extensions = set(world.shell.extension_manager.loaded)
            self._aliases = list(world.shell.alias_manager.aliases)
            self._traits = self._settings(world.shell)

    def look(self, world: Hidden) -> Any:
        shell = world.shell
        if shell is None:
            return None
        if self._aliases is None:
            self._aliases = list(shell.alias_manager.default_aliases)
        changed = {}
        for (owner, name), value in self._settings(shell).items():
            before = self._traits.get((owner, name), _missing)
            if before is _missing:
                before = _default(shell, owner, name)
            if not _same(before, value):
                changed[owner, name] = value
        aliases = list(shell.alias_manager.aliases)
        return {
            "extensions": sorted(shell.extension_manager.loaded - (self._extensions or set())),
            "autoreload": _autoreload(shell),
            "aliases": [alias for alias in aliases if alias not in self._aliases],
            "unaliased": [name for name, _ in self._aliases if name not in dict(aliases)],
            "traits": changed,
            "flags": int(shell.compile.flags),
            "mode": shell.InteractiveTB.mode,
            "pdb": bool(shell.call_pdb),
            "folders": [str(folder) for folder in shell.dir_stack],
            "exceptions": _custom(shell, world),
            "logging": bool(shell.logger.log_active),
        }

    def put_back(self, value: Any, world: Hidden) -> None:
        shell = world.shell
        if shell is None:
            return
        losses = Losses()
        for name in value["extensions"]:
            if name in shell.extension_manager.loaded:
                continue
            try:
                refused = shell.extension_manager.load_extension(name)
            except Exception as error:
                losses.add(f"extension {name} cannot be loaded here: {type(error).__name__}: {error}")
                continue
            if refused == "no load function":
                losses.add(f"extension {name} has no load function here")
            elif name not in _KNOWN:
                remark(f"IPython extension {name} was loaded again; what it was set to is not kept")
        if value["autoreload"] is not None:
            _set_autoreload(shell, value["autoreload"])
        self._restore_aliases(value, shell)
        self._restore_traits(value["traits"], shell, losses)
        shell.compile.flags = value["flags"]
        if shell.InteractiveTB.mode != value["mode"]:
            shell.InteractiveTB.set_mode(mode=value["mode"])
        if shell.call_pdb != value["pdb"]:
            shell.call_pdb = value["pdb"]
        shell.dir_stack[:] = value["folders"]
        if value["exceptions"] is not None:
            try:
                kinds, handler = value["exceptions"]
                shell.set_custom_exc(kept(kinds, world.namespace), kept(handler, world.namespace))
            except NotRestorable as error:
                losses.add(f"the handler of set_custom_exc {error}")
        elif shell.custom_exceptions:
            shell.set_custom_exc((), None)
        if value["logging"] and not shell.logger.log_active:
            remark("%logstart was on; start it again")
        losses.told()

    def _restore_aliases(self, value: Any, shell: Any) -> None:
        manager = shell.alias_manager
        if self._aliases is None:
            self._aliases = list(manager.default_aliases)
        wanted = dict(self._aliases) | dict(value["aliases"])
        for name in value["unaliased"]:
            wanted.pop(name, None)
        for name in dict(manager.aliases):
            if name not in wanted:
                manager.undefine_alias(name)
        for name, command in wanted.items():
            if dict(manager.aliases).get(name) != command:
                manager.soft_define_alias(name, command)

    def _restore_traits(self, changed: dict[tuple[str, str], Any], shell: Any, losses: Losses) -> None:
        present = {type(one).__name__: one for one in _configurables(shell)}
        wanted = dict(changed)
        for (owner, name), value in self._settings(shell).items():
            if (owner, name) not in wanted:
                before = self._traits.get((owner, name), _missing)
                before = _default(shell, owner, name) if before is _missing else before
                if before is not _missing and not _same(before, value):
                    wanted[owner, name] = before
        for (owner, name), value in wanted.items():
            if owner not in present:  # made when it is first needed, with this
                shell.config[owner][name] = value
                continue
            try:
                setattr(present[owner], name, value)
            except Exception as error:
                losses.add(f"{owner}.{name}: {error}")

    def _settings(self, shell: Any) -> dict[tuple[str, str], Any]:
        """Configurable traits with plain values, by class and name."""
        found: dict[tuple[str, str], Any] = {}
        for one in _configurables(shell):
            kind = type(one)
            names = self._names.get(kind)
            if names is None:
                names = self._names[kind] = [
                    name for name in kind.class_traits(config=True) if name not in ("parent", "config", "log")
                ]
            values = one._trait_values
            for name in names:
                # Those that nobody has asked for have their default.
                value = values.get(name, _missing)
                if value is not _missing and _is_plain(value):
                    found[kind.__name__, name] = value.copy() if isinstance(value, (list, dict, set)) else value
        return found


def _configurables(shell: Any) -> list[Any]:
    return [*shell.configurables, *shell.display_formatter.formatters.values()]


def _default(shell: Any, owner: str, name: str) -> Any:
    for one in _configurables(shell):
        if type(one).__name__ == owner:
            try:
                return type(one).class_traits()[name].default(one)
            except Exception:
                return _missing
    return _missing


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _is_plain(value: Any, depth: int = 3) -> bool:
    if isinstance(value, _PLAIN):
        return True
    if depth and type(value) in (list, tuple, set):
        return all(_is_plain(item, depth - 1) for item in value)
    if depth and type(value) is dict:
        return all(isinstance(key, str) and _is_plain(item, depth - 1) for key, item in value.items())
    return False


def _autoreload(shell: Any) -> Any:
    magics = dict.get(shell.magics_manager.registry, "AutoreloadMagics")
    reloader = getattr(magics, "_reloader", None)
    if reloader is None:
        return None
    return {
        name: getattr(reloader, name)
        for name in ("enabled", "check_all", "autoload_obj", "skip_modules", "modules")
        if hasattr(reloader, name)
    }


def _set_autoreload(shell: Any, value: dict[str, Any]) -> None:
    reloader = getattr(dict.get(shell.magics_manager.registry, "AutoreloadMagics"), "_reloader", None)
    if reloader is not None:
        for name, setting in value.items():
            setattr(reloader, name, setting)


def _custom(shell: Any, world: Hidden) -> Any:
    """The exceptions and the handler of ``set_custom_exc``."""
    if not shell.custom_exceptions:
        return None
    wrapped: Any = getattr(shell.CustomTB, "__func__", None)
    names = wrapped.__code__.co_freevars if wrapped is not None else ()
    if "handler" not in names:
        return None
    handler = wrapped.__closure__[names.index("handler")].cell_contents
    if not made_by_notebook(handler, world.namespace):
        return None
    return keep(shell.custom_exceptions, world), keep(handler, world)
