"""ipywidgets, and traitlets under them: values, links and observers, under the model ids that they had.

A front end that is still there has the models of the widgets; a widget that comes back under its model id is on screen
again without a message but its state. One that does not know them has to be told, by `announce`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from typing import Any

from .registry import Context, restoring, rule


@rule("traitlets.utils.sentinel.Sentinel")
def reduce_sentinel(sentinel: Any, context: Context) -> Any:
    """Marks such as ``traitlets.All``, which are compared by identity."""
    name = str(sentinel.name)
    for module in (str(sentinel.module), "traitlets.traitlets"):
        if vars(sys.modules.get(module, object)).get(name) is sentinel:
            return sentinel_of, (module, name)
    return NotImplemented


def sentinel_of(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


@rule("traitlets.traitlets.HasTraits")
def reduce_traits(owner: Any, context: Context) -> Any:
    """As traitlets does it, with the observers that it leaves out."""
    reduced = owner.__reduce_ex__(5)
    if len(reduced) < 3 or not isinstance(reduced[2], dict):
        return reduced  # a way of its own
    return *reduced[:2], (reduced[2], observers_of(owner)), None, None, fill_traits


def observers_of(owner: Any) -> list[tuple[Any, Any, list[Any]]]:
    """Name, kind of event, and functions; those that the class declares are not among them."""
    handler = sys.modules["traitlets.traitlets"].EventHandler
    found = []
    for name, kinds in owner._trait_notifiers.items():
        for kind, functions in kinds.items():
            added = [function for function in functions if not isinstance(function, handler)]
            if added:
                found.append((name, kind, added))
    return found


def fill_traits(owner: Any, state: tuple[Any, Any]) -> None:
    attributes, observers = state
    owner.__setstate__(attributes)
    for name, kind, functions in observers:
        owner._trait_notifiers.setdefault(name, {}).setdefault(kind, []).extend(functions)


@rule("ipywidgets.widgets.widget.Widget")
def reduce_widget(widget: Any, context: Context) -> Any:
    reduced = widget.__reduce_ex__(5)
    attributes = dict(reduced[2])
    attributes["_trait_values"] = {**attributes["_trait_values"], "comm": None}
    comm = widget.comm
    context.escaped("hook")  # A message of the front end changes it and runs its observers, between any two cells.
    model = None if comm is None else (comm.comm_id, getattr(comm, "target_name", "jupyter.widget"))
    return *reduced[:2], (attributes, observers_of(widget), model), None, None, fill_widget


def fill_widget(widget: Any, state: tuple[dict[str, Any], Any, tuple[str, str] | None]) -> None:
    attributes, observers, model = state
    fill_traits(widget, (attributes, observers))
    if model is not None:
        _attach(widget, *model)
        # When all that it refers to is there, too.
        restoring().finally_.append(widget.send_state)


def _attach(widget: Any, comm_id: str, target: str) -> None:
    """Give the widget its comm without opening it: it takes the place of an object that has the comm now."""
    comms = importlib.import_module("comm")
    manager = comms.get_comm_manager()
    instances = importlib.import_module("ipywidgets.widgets.widget")._instances
    before = instances.pop(comm_id, None)
    if before is not None and before is not widget:
        # Without a comm, its end does not close the model in the front end.
        before._trait_values["comm"] = None
    comm = manager.comms.get(comm_id)
    if comm is None:
        comm = _made(comm_id, target)
        manager.register_comm(comm)
    widget.comm = comm


def _made(comm_id: str, target: str) -> Any:
    """A comm that is not opened, as its other end has it already."""
    comm = importlib.import_module("comm").create_comm(comm_id=comm_id, primary=False, target_name=target)
    # ipykernel's comms learn of their kernel when they are opened, and ipywidgets sends nothing by one that has none.
    kernels = sys.modules.get("ipykernel.kernelbase")
    if kernels is not None and getattr(comm, "kernel", comm) is None and kernels.Kernel.initialized():
        comm.kernel = kernels.Kernel.instance()
    return comm


def announce(widgets: Iterable[Any] | None = None) -> None:
    """Open the comms of restored widgets in a front end that has not seen them: after a restore into a new session."""
    module = sys.modules.get("ipywidgets.widgets.widget")
    if module is None:
        return
    for widget in list(module._instances.values() if widgets is None else widgets):
        state, paths, buffers = module._remove_buffers(widget.get_state())
        data = {"state": state, "buffer_paths": paths}
        widget.comm.open(data=data, buffers=buffers, metadata={"version": module.__protocol_version__})


@rule("comm.base_comm.BaseComm")
def reduce_comm(comm: Any, context: Context) -> Any:
    """A comm of the notebook's own: under its id, with its callbacks, and not opened again."""
    callbacks = (comm._msg_callback, comm._close_callback)
    return comm_of, (comm.comm_id, comm.target_name, comm._closed), callbacks, None, None, fill_comm


def comm_of(comm_id: str, target: str, closed: bool) -> Any:
    comms = importlib.import_module("comm")
    manager = comms.get_comm_manager()
    comm = manager.comms.get(comm_id)
    if comm is None:
        comm = _made(comm_id, target)
        if closed:
            comm._closed = True
        else:
            manager.register_comm(comm)
    return comm


def fill_comm(comm: Any, callbacks: tuple[Any, Any]) -> None:
    comm._msg_callback, comm._close_callback = callbacks
