"""The notebook's shell and kernel: those of the process that it is restored in."""

from __future__ import annotations

import importlib
from typing import Any

from .registry import Context, NotRestorable, rule


@rule("IPython.core.interactiveshell.InteractiveShell")
def reduce_shell(shell: Any, context: Context) -> Any:
    return current_shell, ()


def current_shell() -> Any:
    shell = importlib.import_module("IPython").get_ipython()
    if shell is None:
        raise NotRestorable("is the shell of a notebook, and there is none here")
    return shell


@rule("ipykernel.kernelbase.Kernel")
def reduce_kernel(kernel: Any, context: Context) -> Any:
    return current_kernel, ()


def current_kernel() -> Any:
    kernel = getattr(current_shell(), "kernel", None)
    if kernel is None:
        raise NotRestorable("is the kernel of a notebook, and there is none here")
    return kernel
