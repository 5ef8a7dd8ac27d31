"""Options of numpy, pandas and matplotlib, as far as they differ from the library's own defaults."""

from __future__ import annotations

from typing import Any

from ..rules.registry import NotRestorable
from .world import Hidden, Kind, Losses, keep, kept, loaded, needed


class NumpyOptions(Kind):
    """How numpy prints, and what it does about floating-point errors."""

    kind = "numpy.options"

    def look(self, world: Hidden) -> Any:
        numpy = loaded("numpy")
        if numpy is None or not hasattr(numpy, "get_printoptions"):
            return None
        options = dict(numpy.get_printoptions())
        if options.get("formatter") is not None:
            options["formatter"] = {kind: keep(format, world) for kind, format in options["formatter"].items()}
        called = numpy.geterrcall()
        return {
            "print": options,
            "error": dict(numpy.geterr()),
            "call": keep(called, world),
            "buffer": int(numpy.getbufsize()),
        }

    def put_back(self, value: Any, world: Hidden) -> None:
        numpy = needed("numpy")
        losses = Losses()
        options = dict(value["print"])
        known = numpy.get_printoptions()
        if options.get("formatter") is not None:
            formatters = {}
            for kind, format in options["formatter"].items():
                try:
                    formatters[kind] = kept(format, world.namespace)
                except NotRestorable as error:
                    losses.add(f"the formatter for {kind} {error}")
            options["formatter"] = formatters
        # override_repr is no argument of older versions.
        numpy.set_printoptions(**{name: option for name, option in options.items() if name in known})
        try:
            numpy.seterrcall(kept(value["call"], world.namespace))
        except NotRestorable as error:
            losses.add(f"the function given to seterrcall {error}")
        numpy.seterr(**value["error"])
        if numpy.getbufsize() != value["buffer"]:
            numpy.setbufsize(value["buffer"])
        losses.told()


class PandasOptions(Kind):
    kind = "pandas.options"

    def look(self, world: Hidden) -> Any:
        config = loaded("pandas._config.config")
        if config is None:
            return {}
        changed = {}
        for name, registered in config._registered_options.items():
            found: Any = config._global_config
            for part in name.split("."):
                found = found[part]
            default = registered.defval
            if found is not default and not _same(found, default):
                changed[name] = keep(found, world)
        return changed

    def put_back(self, value: Any, world: Hidden) -> None:
        if not value and loaded("pandas._config.config") is None:
            return
        needed("pandas")
        config = needed("pandas._config.config")
        losses = Losses()
        now = self.look(world)
        wanted = {name: config._registered_options[name].defval for name in now if name not in value}
        for name, option in value.items():
            if name not in config._registered_options:
                losses.add(f"pandas has no option {name} here")
                continue
            try:
                wanted[name] = kept(option, world.namespace)
            except NotRestorable as error:
                losses.add(f"option {name} {error}")
        for name, option in wanted.items():
            if name in now and _same(now[name], option):
                continue
            try:
                config.set_option(name, option)
            except Exception as error:
                losses.add(f"option {name}: {error}")
        losses.told()


class MatplotlibSettings(Kind):
    """``rcParams`` that differ from those of the user's configuration file, and the backend."""

    kind = "matplotlib.rcParams"

    def look(self, world: Hidden) -> Any:
        matplotlib = loaded("matplotlib")
        if matplotlib is None or not hasattr(matplotlib, "rcParamsOrig"):
            return {}
        original = matplotlib.rcParamsOrig
        changed: dict[str, Any] = {}
        for name, setting in dict.items(matplotlib.rcParams):
            # Not through rcParams' own look-up: asking for the backend chooses one.
            if name == "backend":
                if isinstance(setting, str) and setting != dict.__getitem__(original, name):
                    changed[name] = setting
            elif not _same(setting, dict.get(original, name)):
                changed[name] = list(setting) if isinstance(setting, list) else setting
        return changed

    def put_back(self, value: Any, world: Hidden) -> None:
        if not value and loaded("matplotlib") is None:
            return
        matplotlib = needed("matplotlib")
        losses = Losses()
        now = self.look(world)
        for name in now:
            if name not in value and name != "backend":
                dict.__setitem__(matplotlib.rcParams, name, dict.__getitem__(matplotlib.rcParamsOrig, name))
        for name, setting in value.items():
            if name in now and _same(now[name], setting):
                continue
            try:
                if name == "backend":
                    matplotlib.use(setting)
                else:
                    matplotlib.rcParams[name] = setting
            except Exception as error:
                losses.add(f"rcParams[{name!r}]: {error}")
        losses.told()


def _same(one: Any, other: Any) -> bool:
    """Equal, for values whose comparison may be anything."""
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:
        return False
