"""Views of dicts, read-only proxies among them: of the same dict, so that they go on showing its changes."""

from __future__ import annotations

import gc
import types
from typing import Any

from .registry import Context, rule


@rule("builtins.dict_keys", "builtins.dict_values", "builtins.dict_items", exact=True)
@rule("builtins.odict_keys", "builtins.odict_values", "builtins.odict_items", exact=True)
def reduce_view(view: Any, context: Context) -> Any:
    (over,) = gc.get_referents(view)
    # The mapping's own method may be another in a subclass; the type says which view this is.
    return view_of, (over, type(view).__name__)


def view_of(over: Any, kind: str) -> Any:
    family, _, method = kind.rpartition("_")
    from collections import OrderedDict

    owner: Any = OrderedDict if family == "odict" else dict
    return getattr(owner, method)(over)


@rule("builtins.mappingproxy", exact=True)
def reduce_proxy(proxy: Any, context: Context) -> Any:
    (mapping,) = gc.get_referents(proxy)
    if isinstance(mapping, dict) and "__module__" in mapping and "__doc__" in mapping:
        # What vars() of a class gives: each time another proxy, of the dict that the class keeps to itself.
        for holder in gc.get_referrers(mapping):
            if isinstance(holder, type) and gc.get_referents(holder.__dict__)[0] is mapping:
                return vars, (holder,)
    return types.MappingProxyType, (mapping,)
