"""Classes that are made anew without what ran when they were made; modules that the notebook made."""

from __future__ import annotations

import string

import pytest

from .roundtrip import cell, roundtrip


def test_class_made_anew_tells_nobody() -> None:
    new, _, _ = roundtrip(
        cell(
            """
told = []
class Meta(type):
    def __new__(meta, name, bases, space, **more):
        told.append(("new", name)); return type.__new__(meta, name, bases, space, **more)
    def __init__(cls, name, bases, space, **more): told.append(("init", name)); super().__init__(name, bases, space)
    def __call__(cls, *args): told.append(("call", cls.__name__)); return super().__call__(*args)
class Field:
    def __set_name__(self, owner, name): told.append(("name", name)); self.name = name
class Base(metaclass=Meta):
    field = Field()
    def __init_subclass__(cls, tag): told.append((cls, tag)); super().__init_subclass__()
class Child(Base, tag="c"):
    other = Field()
    def who(self): return __class__
child = Child()
"""
        )
    )
    child, told = new["Child"], new["told"]
    assert told == [
        *(("new", "Base"), ("name", "field"), ("init", "Base"), ("new", "Child"), ("name", "other")),
        *((child, "c"), ("init", "Child"), ("call", "Child")),
    ]
    assert type(child) is new["Meta"] and child.other.name == "other" and new["child"].who() is child
    assert child.__mro__ == (child, new["Base"], object)

    class Late(new["Base"], tag="late"):  # type: ignore[misc]
        pass

    assert (Late, "late") in told


def test_library_class_goes_on_telling_its_subclasses() -> None:
    new, _, _ = roundtrip(cell("import string\nclass Mine(string.Template): delimiter = '%'\nmine = Mine('%a')"))
    assert new["mine"].substitute(a=1) == "1" and new["Mine"].pattern.flags == new["mine"].pattern.flags

    class Other(string.Template):
        delimiter = "&"

    assert Other("&a").substitute(a=2) == "2"


def test_registered_subclasses_stay_registered() -> None:
    new, _, _ = roundtrip(
        cell(
            """
import abc
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Square(Shape):
    def area(self): return 1
@Shape.register
class Stranger: pass
Shape.register(list)
"""
        )
    )
    assert issubclass(new["Stranger"], new["Shape"]) and issubclass(list, new["Shape"])
    assert not issubclass(dict, new["Shape"]) and new["Square"]().area() == 1
    with pytest.raises(TypeError):
        new["Shape"]()


@pytest.mark.parametrize("first", ["bump", "tools"])
def test_functions_of_a_made_module_run_in_it(first: str) -> None:
    made = cell(
        """
import types
tools = types.ModuleType("tools")
exec("state = [0]\\ndef bump():\\n    state[0] += 1\\n    return state[0]", tools.__dict__)
bump = tools.bump
"""
    )
    made = {name: made[name] for name in ("__name__", "__builtins__", first, "bump", "tools")}
    new, _, _ = roundtrip(made)
    assert new["bump"] is new["tools"].bump and new["bump"].__globals__ is vars(new["tools"])
    assert new["bump"]() == 1 and new["tools"].state == [1]


def test_functions_of_a_module_that_only_they_hold_share_its_variables() -> None:
    new, _, _ = roundtrip(
        cell(
            """
import types
def build():
    module = types.ModuleType("hidden_tools")
    exec("n = 0\\ndef up():\\n    global n\\n    n += 1\\ndef get():\\n    return n", module.__dict__)
    return module
kept = build(); up, get = kept.up, kept.get; kept.up(); pair = (up, get); del kept, up, get
"""
        )
    )
    up, get = new["pair"]
    up()
    assert get() == 2 and up.__globals__ is get.__globals__
