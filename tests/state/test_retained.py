"""Objects that the user's modules hold are known to be held."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from jupyter_gpuaas.state import retained
from jupyter_gpuaas.state.retained import held_by_modules


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "own_helpers.py").write_text(
        "import json\nkept = []\ndef register(x): kept.append(x)\n"
        "def make(x):\n    def inner(): return x\n    return inner\nclass Box: pass\nbox = Box()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    # The suite's own modules are a user's, too, and in the whole suite they hold more than is looked at.
    monkeypatch.setattr(retained, "is_of_the_user", lambda name: name == "own_helpers")
    monkeypatch.setattr(retained, "_judged", {})
    yield importlib.import_module("own_helpers")
    del sys.modules["own_helpers"]


def test_retained_is_what_a_module_of_the_user_was_given(helpers: ModuleType) -> None:
    x, nested, captured, in_object, free = [1], [2], [3], [4], [5]
    helpers.register(x)
    helpers.register({"a": (nested,)})
    helpers.register(helpers.make(captured))
    helpers.box.held = in_object
    held = held_by_modules({})
    assert held is not None
    assert {id(x), id(nested), id(captured), id(in_object)} <= held
    assert id(free) not in held


def test_retained_by_a_module_that_has_the_namespace_is_everything(helpers: ModuleType) -> None:
    namespace = {"inner": [1]}
    helpers.register([namespace])
    assert held_by_modules(namespace) is None


def test_retained_is_not_what_a_logger_leads_to(helpers: ModuleType) -> None:
    inner = [1]
    logger = logging.Logger("own")
    logger.inner = inner  # type: ignore[attr-defined]
    helpers.register(logger)
    held = held_by_modules({})
    assert held is not None and id(inner) not in held


def test_retained_by_large_modules_may_be_anything(helpers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retained, "MAX_OBJECTS", 10)
    helpers.register([[n] for n in range(20)])
    assert held_by_modules({}) is None
