"""Functions and modules that a compiler made of Python: rebuilt by compiling them again."""

from __future__ import annotations

import importlib
from typing import Any

from ..device.scripts import reduce_script
from ..device.training import reduce_compiled_function, reduce_compiled_module
from .registry import Context, restoring, rule

rule("torch._dynamo.eval_frame.OptimizedModule")(reduce_compiled_module)
rule("torch.jit._script.ScriptModule", "torch.jit.torch.jit.ScriptFunction")(reduce_script)


def reduce_compiled(function: Any, context: Context) -> Any:
    """Reduce value of a Python function that is the outside of a compiled one; None for any other."""
    return reduce_compiled_function(function, context) if "_torchdynamo_orig_callable" in function.__dict__ else None


@rule("numba.core.dispatcher.Dispatcher")
def reduce_dispatcher(dispatcher: Any, context: Context) -> Any:
    """A function of numba: its Python function, compiled anew. numba's own way would copy the globals that it reads."""
    context.rebuilt("compiled anew by numba, with the values that globals have now")
    signatures = None if dispatcher._can_compile else list(dispatcher.nopython_signatures)
    options = (dispatcher.locals, dispatcher.targetoptions)
    return dispatcher_of, (type(dispatcher), dispatcher.py_func, *options, signatures)


def dispatcher_of(kind: Any, function: Any, local_types: Any, options: dict[str, Any], signatures: Any) -> Any:
    made = kind(function, local_types, options)
    if signatures is not None:
        _later(made, made.compile, signatures, frozen=True)
    return made


@rule("numba.core.serialize.ReduceMixin")
def reduce_numba(obj: Any, context: Context) -> Any:
    """Universal functions and the like: as numba does it, but what is in them by our rules."""
    context.rebuilt("compiled anew by numba, with the values that globals have now")
    return numba_of, (obj._reduce_class(), obj._reduce_states())


def numba_of(kind: Any, states: dict[str, Any]) -> Any:
    key = next((key for key in ("siglist", "typesigs") if key in states), None)
    if key is None:
        return kind._rebuild(**states)
    made = kind._rebuild(**(states | {key: [], "frozen": False}))
    _later(made, made.add, states[key], frozen=states["frozen"])
    return made


def _later(made: Any, compile_for: Any, signatures: Any, *, frozen: bool) -> None:
    """Compile when all names are bound: the function may read them."""
    now = restoring()

    def finish() -> None:
        try:
            for signature in signatures:
                compile_for(signature)
            if hasattr(made, "gufunc_builder"):
                made.build_ufunc()
            if frozen:
                made.disable_compile()
        except Exception as error:
            now.remark(f"numba cannot compile {getattr(made, '__name__', 'a function')} any more: {error}")

    now.finally_.append(finish)


@rule("numba.core.ccallback.CFunc")
def reduce_cfunc(function: Any, context: Context) -> Any:
    context.rebuilt("compiled anew by numba: a C function at another address")
    compiler = function._compiler
    return cfunc_of, (type(function), function._pyfunc, function._sig, compiler.locals, compiler.targetoptions)


def cfunc_of(kind: Any, function: Any, signature: Any, local_types: Any, options: Any) -> Any:
    made = kind(function, (signature.args, signature.return_type), local_types, options)
    _later(made, lambda _: made.compile(), [signature], frozen=False)
    return made


@rule("numba.stencils.stencil.StencilFunc", exact=True)
def reduce_stencil(stencil: Any, context: Context) -> Any:
    context.rebuilt("compiled anew by numba, with the values that globals have now")
    return stencil_of, (stencil.kernel_ir.func_id.func, stencil.mode, stencil.options)


def stencil_of(function: Any, mode: str, options: dict[str, Any]) -> Any:
    return importlib.import_module("numba.stencils.stencil")._stencil(mode, options)(function)


@rule("numba.typed.typeddict.Dict", exact=True)
def reduce_typed_dict(mapping: Any, context: Context) -> Any:
    kind = mapping._dict_type
    return typed_dict, (kind.key_type, kind.value_type), None, None, iter(list(mapping.items()))


def typed_dict(key: Any, value: Any) -> Any:
    return importlib.import_module("numba.typed").Dict.empty(key, value)


@rule("numba.typed.typedlist.List", exact=True)
def reduce_typed_list(items: Any, context: Context) -> Any:
    if not items._typed:
        return typed_list, (None,)
    return typed_list, (items._dtype,), list(items), None, None, fill_list


def typed_list(kind: Any) -> Any:
    made = importlib.import_module("numba.typed").List
    return made() if kind is None else made.empty_list(kind)


def fill_list(made: Any, items: list[Any]) -> None:
    for item in items:  # extend() would have numba reflect a list of Python's
        made.append(item)
