"""The random generators that a library has for all: those of the process, as its functions draw from them.

Their states are no variable's and are kept elsewhere; a copy would no longer be what ``seed`` seeds.
"""

from __future__ import annotations

import importlib
import random
import sys
from typing import Any

from .registry import Context, rule


@rule("random.Random")
def reduce_python(generator: Any, context: Context) -> Any:
    return (shared, ("python",)) if generator is _python() else NotImplemented


@rule("numpy.random.mtrand.RandomState")
def reduce_legacy(generator: Any, context: Context) -> Any:
    return (shared, ("numpy",)) if generator is sys.modules["numpy"].random.mtrand._rand else NotImplemented


@rule("numpy.random.bit_generator.BitGenerator")
def reduce_bits(bits: Any, context: Context) -> Any:
    shared_bits = sys.modules["numpy"].random.mtrand._rand._bit_generator
    return (shared, ("numpy bits",)) if bits is shared_bits else NotImplemented


def shared(which: str) -> Any:
    if which == "python":
        return _python()
    legacy = importlib.import_module("numpy").random.mtrand._rand
    return legacy._bit_generator if which == "numpy bits" else legacy


def _python() -> Any:
    return getattr(random, "_inst")  # noqa: B009
