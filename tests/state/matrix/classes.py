"""Classes of the notebook and their instances."""

from __future__ import annotations

from tests.state.cases import HONEST, RIGHT, case

CASES = [
    case(
        "code",
        "class and instance; an attribute set on the class later",
        """
        class Model:
            layers = [1]

            def size(self):
                return len(self.layers)

        model = Model()
        # %%
        Model.bias = 0.5
        Model.double = lambda self: self.size() * 2
        """,
        """
        assert type(model) is Model and model.bias == 0.5 and model.double() == 2
        Model.layers.append(2)
        assert model.size() == 2 and Model.__module__ == '__main__'
        Model.size = lambda self: 10
        assert model.size() == 10
        """,
        RIGHT,
    ),
    case(
        "code",
        "instance keeps its class when the class is redefined",
        """
        class Point:
            def name(self):
                return 'old'

        old = Point()
        olds = [old, Point()]
        # %%
        class Point:
            def name(self):
                return 'new'

        new = Point()
        """,
        """
        assert old.name() == 'old' and new.name() == 'new' and type(new) is Point
        assert type(old) is type(olds[1]) is not Point and olds[0] is old and not isinstance(old, Point)
        """,
        RIGHT,
    ),
    case(
        "code",
        "hierarchy with super, slots, __init_subclass__",
        """
        registry = []

        class Base:
            __slots__ = ('x',)

            def __init__(self):
                self.x = 1

            def __init_subclass__(cls, **options):
                registry.append((cls, options))

            def who(self):
                return 'base'

        class Child(Base, tag='c'):
            __slots__ = ('y', '__weakref__')

            def who(self):
                return super().who() + '+child'

        child = Child()
        child.y = [2]
        """,
        """
        assert child.who() == 'base+child' and child.x == 1 and child.y == [2] and not hasattr(child, '__dict__')
        assert registry == [(Child, {'tag': 'c'})] and Child.__mro__ == (Child, Base, object)
        try:
            child.z = 1
        except AttributeError:
            pass
        else:
            raise AssertionError('has a __dict__')
        """,
        RIGHT,
    ),
    case(
        "code",
        "dataclass, frozen dataclass, field factories",
        """
        from dataclasses import dataclass, field

        @dataclass
        class Run:
            name: str
            log: list = field(default_factory=list)

        @dataclass(frozen=True, order=True, slots=True)
        class Key:
            a: int
            b: int = 2

        run = Run('r')
        key = Key(1)
        table = {key: run}
        """,
        """
        import dataclasses
        assert table[Key(1, 2)] is run and run == Run('r') and Key(0) < key and Run('x').log is not Run('y').log
        assert [f.name for f in dataclasses.fields(Run)] == ['name', 'log'] and dataclasses.replace(key, b=5).b == 5
        try:
            key.a = 3
        except dataclasses.FrozenInstanceError:
            pass
        else:
            raise AssertionError('not frozen')
        """,
        RIGHT,
    ),
    case(
        "code",
        "Enum, IntEnum, Flag members are singletons",
        """
        import enum

        class Color(enum.Enum):
            RED = 1
            CRIMSON = 1
            BLUE = 'b'

            def shout(self):
                return self.name + '!'

        class Level(enum.IntEnum):
            LOW = 1

        class Perm(enum.Flag):
            R = enum.auto()
            W = enum.auto()

        chosen = Color.BLUE
        both = Perm.R | Perm.W
        by_color = {Color.RED: 'r'}
        """,
        """
        assert chosen is Color.BLUE and Color('b') is chosen and Color.CRIMSON is Color.RED
        assert chosen.shout() == 'BLUE!'
        assert both == Perm.R | Perm.W and Perm.R in both and by_color[Color.RED] == 'r' and Level.LOW == 1
        assert list(Color) == [Color.RED, Color.BLUE] and isinstance(chosen, Color)
        """,
        RIGHT,
    ),
    case(
        "code",
        "NamedTuple and namedtuple",
        """
        import collections
        from typing import NamedTuple

        class Pair(NamedTuple):
            left: int
            right: list = []

            def total(self):
                return self.left

        Old = collections.namedtuple('Old', 'a b', defaults=[3])
        pair = Pair(1)
        old = Old(1)
        """,
        """
        assert pair.total() == 1 and pair.right is Pair._field_defaults['right'] and type(pair) is Pair
        assert old == (1, 3) and type(old) is Old and old._replace(a=5).a == 5 and Pair._fields == ('left', 'right')
        """,
        RIGHT,
    ),
    case(
        "code",
        "TypedDict, Generic, Protocol, NewType, TypeVar",
        """
        from typing import Generic, NewType, Protocol, TypedDict, TypeVar, runtime_checkable
        T = TypeVar('T')
        UserId = NewType('UserId', int)

        class Movie(TypedDict, total=False):
            title: str

        class Stack(Generic[T]):
            def __init__(self):
                self.items = []

        @runtime_checkable
        class Closes(Protocol):
            def close(self) -> None: ...

        class File:
            def close(self):
                pass

        stack = Stack[int]()
        alias = Stack[str]
        movie = Movie(title='x')
        """,
        """
        assert Movie.__optional_keys__ == {'title'} and movie == {'title': 'x'} and UserId(3) == 3
        assert type(stack) is Stack and stack.__orig_class__ == Stack[int] and alias.__origin__ is Stack
        assert Stack.__parameters__ == (T,) and isinstance(File(), Closes) and not isinstance(3, Closes)
        """,
        HONEST,
    ),
    case(
        "code",
        "ABC with registered classes",
        """
        import abc

        class Shape(abc.ABC):
            @abc.abstractmethod
            def area(self): ...

        class Square(Shape):
            def area(self):
                return 1

        class Stranger:
            pass

        Shape.register(Stranger)
        square = Square()
        """,
        """
        assert isinstance(square, Shape) and square.area() == 1 and issubclass(Stranger, Shape)
        try:
            Shape()
        except TypeError:
            pass
        else:
            raise AssertionError('is not abstract')
        """,
        RIGHT,
    ),
    case(
        "code",
        "property, classmethod, staticmethod, cached_property, descriptor",
        """
        import functools

        class Positive:
            def __set_name__(self, owner, name):
                self.name = '_' + name

            def __get__(self, instance, owner=None):
                return self if instance is None else getattr(instance, self.name)

            def __set__(self, instance, value):
                if value < 0:
                    raise ValueError(value)
                setattr(instance, self.name, value)

        class Account:
            made = 0
            balance = Positive()

            def __init__(self, balance):
                self.balance = balance

            @property
            def twice(self):
                return self.balance * 2

            @twice.setter
            def twice(self, value):
                self.balance = value / 2

            @classmethod
            def make(cls):
                cls.made += 1
                return cls(1)

            @staticmethod
            def bank():
                return 'B'

            @functools.cached_property
            def history(self):
                return []

        account = Account.make()
        account.history.append('x')
        make = Account.make
        """,
        """
        account.twice = 10
        assert account.balance == 5 and account.bank() == 'B' and account.history == ['x']
        assert type(make()) is Account and Account.made == 2 and make.__self__ is Account
        try:
            account.balance = -1
        except ValueError:
            pass
        else:
            raise AssertionError('the descriptor is gone')
        """,
        RIGHT,
    ),
    case(
        "code",
        "metaclass of the notebook",
        """
        class Meta(type):
            instances = []

            def __new__(meta, name, bases, body):
                made = super().__new__(meta, name, bases, body)
                meta.instances.append(made)
                return made

            def __len__(cls):
                return 7

        class Plugin(metaclass=Meta):
            pass

        plugin = Plugin()
        """,
        """
        assert type(Plugin) is Meta and len(Plugin) == 7 and Meta.instances == [Plugin] and type(plugin) is Plugin
        """,
        RIGHT,
    ),
    case(
        "code",
        "class with state hooks: __getstate__, __reduce__, __new__ with arguments",
        """
        class Conn:
            def __init__(self, url):
                self.url, self.live = url, True

            def __getstate__(self):
                return {'url': self.url}

            def __setstate__(self, state):
                self.url, self.live = state['url'], 'again'

        class Interned:
            known = {}

            def __new__(cls, key):
                return cls.known.setdefault(key, super().__new__(cls))

            def __init__(self, key):
                self.key = key

            def __reduce__(self):
                return Interned, (self.key,)

        conn = Conn('u')
        one = Interned('k')
        two = Interned('k')
        """,
        """
        assert conn.url == 'u' and conn.live in (True, 'again')
        assert one is two and one.key == 'k' and Interned('k') is one
        """,
        # To rebuild the class needs its instance, and the instance the class: giving up is honest.
        HONEST,
    ),
    case(
        "code",
        "class inside a function, class with a reference to itself",
        """
        def factory(base):
            class Local:
                made = []
                start = base

                def __init__(self):
                    __class__.made.append(self)
                    self.base = base
            return Local

        One, Two = factory(1), factory(2)
        one, two = One(), Two()
        One.twin, Two.twin = Two, One
        """,
        """
        assert type(one) is One and type(two) is Two and One is not Two and One().base == 1 and Two.start == 2
        assert One.made[0] is one and len(One.made) == 2 and One.twin is Two and Two.twin is One
        """,
        RIGHT,
    ),
    case(
        "code",
        "methods put on an instance, operators, callable instance",
        """
        import types

        class Vec:
            def __init__(self, x):
                self.x = x

            def __add__(self, other):
                return Vec(self.x + other.x)

            def __call__(self):
                return self.x

            def __getattr__(self, name):
                if name.startswith('__'):
                    raise AttributeError(name)
                return name

        vec = Vec(1)
        vec.twice = types.MethodType(lambda self: self.x * 2, vec)
        """,
        """
        vec.x = 4
        assert vec.twice() == 8 and (vec + vec)() == 8 and vec.unknown == 'unknown' and vec.twice.__self__ is vec
        """,
        RIGHT,
    ),
    case(
        "code",
        "exception class of the notebook, raised and kept",
        """
        class Failed(RuntimeError):
            def __init__(self, code, *, hint):
                super().__init__(f'code {code}')
                self.code, self.hint = code, hint

        failed = Failed(3, hint=['try again'])
        """,
        """
        assert type(failed) is Failed and failed.code == 3 and failed.hint == ['try again'] and str(failed) == 'code 3'
        try:
            raise failed
        except Failed as error:
            assert error is failed
        """,
        RIGHT,
    ),
]
