"""Functions, closures, classes, instances and modules that cells make."""

from __future__ import annotations

from tests.state.cases import EXACT, HONEST, RIGHT, case

CASES = [
    case(
        "code",
        "lambda that uses a global",
        """
        factor = 2
        double = lambda x: x * factor
        """,
        """
        factor = 3
        assert double(2) == 6 and double.__globals__ is globals()
        """,
        RIGHT,
    ),
    case(
        "code",
        "function that rebinds a global",
        """
        count = 0

        def up():
            global count
            count += 1
            return count

        up()
        """,
        """
        assert up() == 2 and count == 2 and up() == 3 and count == 3
        """,
        RIGHT,
    ),
    case(
        "code",
        "function with defaults, keyword defaults, annotations, attributes, docstring",
        """
        cache = {}

        def f(a, b=cache, *, c=(1, 2)) -> 'int':
            \"\"\"Says what it does.\"\"\"
            b[a] = c
            return a

        f.calls = [0]
        f.__wrapped_by__ = 'me'
        """,
        """
        assert f(1) == 1 and cache == {1: (1, 2)} and f.__defaults__[0] is cache and f.__kwdefaults__ == {'c': (1, 2)}
        assert f.__annotations__ == {'return': 'int'} and f.__doc__ == 'Says what it does.' and f.calls == [0]
        assert f.__wrapped_by__ == 'me' and f.__name__ == 'f' and f.__module__ == '__main__'
        """,
        RIGHT,
    ),
    case(
        "code",
        "source of a function can be shown",
        """
        def shown(x):
            return x + 41  # the number
        """,
        """
        import inspect
        assert 'the number' in inspect.getsource(shown)
        """,
        HONEST,
    ),
    case(
        "code",
        "two closures over one cell",
        """
        def account():
            total = 0

            def add(n):
                nonlocal total
                total += n

            def read():
                return total

            return add, read

        add, read = account()
        add(5)
        other_add, other_read = account()
        """,
        """
        add(1)
        assert read() == 6 and other_read() == 0
        other_add(2)
        assert read() == 6 and other_read() == 2 and add.__closure__[0] is read.__closure__[0]
        """,
        RIGHT,
    ),
    case(
        "code",
        "closure cell that is shared by three functions through containers",
        """
        def machine():
            state = {'n': 0}
            hidden = 0

            def step():
                nonlocal hidden
                hidden += 1
                state['n'] = hidden

            def back():
                nonlocal hidden
                hidden -= 1

            return state, {'step': step, 'back': [back], 'see': lambda: hidden}

        state, ops = machine()
        ops['step']()
        """,
        """
        ops['step']()
        ops['step']()
        ops['back'][0]()
        assert ops['see']() == 2 and state['n'] == 3
        """,
        RIGHT,
    ),
    case(
        "code",
        "closure cell that is still empty",
        """
        def later():
            def use():
                return value

            def give(x):
                nonlocal value
                value = x

            if False:
                value = None
            return use, give

        use, give = later()
        """,
        """
        try:
            use()
        except NameError:
            pass
        else:
            raise AssertionError('has a value')
        give(4)
        assert use() == 4
        """,
        RIGHT,
    ),
    case(
        "code",
        "recursive and mutually recursive functions",
        """
        def even(n):
            return n == 0 or odd(n - 1)

        def odd(n):
            return n != 0 and even(n - 1)

        def outer():
            def fact(n):
                return 1 if n < 2 else n * fact(n - 1)
            return fact

        fact = outer()
        """,
        """
        assert even(10) and not odd(10) and fact(5) == 120 and fact.__closure__[0].cell_contents is fact
        odd = lambda n: 'patched'
        assert even(1) == 'patched'
        """,
        RIGHT,
    ),
    case(
        "code",
        "old function object after a redefinition",
        """
        def f():
            return 'old'

        kept = f
        table = {'f': f}
        # %%
        def f():
            return 'new'
        """,
        """
        assert kept() == 'old' and f() == 'new' and table['f'] is kept and kept is not f
        """,
        RIGHT,
    ),
    case(
        "code",
        "functions with code that was imported inside",
        """
        def area(r):
            import math
            return math.pi * r**2

        from math import sqrt as root
        """,
        """
        import math
        assert area(1) == math.pi and root is math.sqrt
        """,
        RIGHT,
    ),
    case(
        "code",
        "async function, async generator function, generator function",
        """
        import asyncio

        async def answer():
            await asyncio.sleep(0)
            return 42

        async def stream():
            yield 1
            yield 2

        def numbers():
            yield from (1, 2)
        """,
        """
        async def gather():
            return await answer(), [n async for n in stream()]

        assert asyncio.run(gather()) == (42, [1, 2]) and list(numbers()) == [1, 2]
        """,
        RIGHT,
    ),
    case(
        "code",
        "functools: partial, wraps, reduce, cmp_to_key, total_ordering",
        """
        import functools

        log = []

        def logged(function):
            @functools.wraps(function)
            def wrapper(*args):
                log.append(function.__name__)
                return function(*args)
            return wrapper

        @logged
        def add(a, b):
            return a + b

        add_one = functools.partial(add, 1)
        nested = functools.partial(add_one, 10)
        by_last = functools.cmp_to_key(lambda a, b: a[-1] - b[-1])
        """,
        """
        assert add_one(2) == 3 and nested() == 11 and log == ['add', 'add']
        assert add.__wrapped__.__name__ == 'add' and add_one.func is add and nested.func is add
        assert sorted([(1, 9), (2, 3)], key=by_last) == [(2, 3), (1, 9)]
        """,
        RIGHT,
    ),
    case(
        "code",
        "lru_cache with what it has seen",
        """
        import functools
        calls = []

        @functools.lru_cache(maxsize=2)
        def square(n):
            calls.append(n)
            return n * n

        square(3)
        square(3)
        """,
        """
        assert square(4) == 16 and calls[-1] == 4 and square.cache_parameters()['maxsize'] == 2
        square(4)
        assert calls.count(4) == 1 and square.__wrapped__(5) == 25
        """,
        HONEST,
        strict="""
        before = len(calls)
        square(3)
        assert len(calls) == before and square.cache_info().hits >= 2
        """,
    ),
    case(
        "code",
        "singledispatch with cases of the notebook",
        """
        import functools

        class Own:
            pass

        @functools.singledispatch
        def show(x):
            return 'other'

        @show.register
        def _(x: int):
            return 'int'

        # %%
        @show.register(Own)
        def _(x):
            return 'own'
        """,
        """
        assert show(1) == 'int' and show(Own()) == 'own' and show('') == 'other'
        show.register(str, lambda x: 'str')
        assert show('') == 'str'
        """,
        HONEST,
    ),
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
        assert chosen is Color.BLUE and Color('b') is chosen and Color.CRIMSON is Color.RED and chosen.shout() == 'BLUE!'
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
        RIGHT,
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
    case(
        "code",
        "module aliases, submodules, names from modules",
        """
        import os.path as p
        import xml.etree.ElementTree as ET
        from collections import abc
        import json, json.decoder
        loads = json.loads
        """,
        """
        import sys
        assert p is sys.modules['os.path'] and ET is sys.modules['xml.etree.ElementTree'] and loads is json.loads
        assert abc is sys.modules['collections.abc'] and json.decoder is sys.modules['json.decoder']
        """,
        RIGHT,
    ),
    case(
        "code",
        "submodule that only an import elsewhere made visible",
        """
        import email
        import email.mime.text as _loaded
        import wsgiref
        __import__('wsgiref.headers')
        """,
        """
        assert email.mime.text.MIMEText('x').get_payload() == 'x'
        assert wsgiref.headers.Headers([('a', 'b')])['A'] == 'b'
        """,
        RIGHT,
    ),
    case(
        "code",
        "module made by hand",
        """
        import types
        tools = types.ModuleType('tools', 'My tools.')
        exec('state = [0]\\ndef bump():\\n    state[0] += 1\\n    return state[0]', tools.__dict__)
        tools.bump()
        bump = tools.bump
        """,
        """
        assert tools.bump() == 2 and bump() == 3 and tools.state == [3] and tools.__doc__ == 'My tools.'
        assert bump.__globals__ is tools.__dict__
        """,
        HONEST,
    ),
    case(
        "code",
        "module made by hand and put in sys.modules",
        """
        import sys, types
        made = types.ModuleType('mine_made')
        made.value = [1]
        sys.modules['mine_made'] = made
        from mine_made import value
        """,
        """
        import mine_made
        assert mine_made is made and made.value is value
        """,
        HONEST,
    ),
    case(
        "code",
        "module file beside the notebook",
        """
        import pathlib, sys
        pathlib.Path('lib').mkdir()
        pathlib.Path('lib/mine_local.py').write_text('counter = [0]\\nclass Thing:\\n    pass\\n')
        sys.path.insert(0, str(pathlib.Path('lib').resolve()))
        import mine_local
        thing = mine_local.Thing()
        """,
        """
        import sys
        assert type(thing) is mine_local.Thing and sys.modules['mine_local'] is mine_local
        assert any(entry.endswith('lib') for entry in sys.path[:2])
        """,
        RIGHT,
    ),
    case(
        "code",
        "state inside an imported module file",
        """
        import pathlib, sys
        pathlib.Path('mine_state.py').write_text('settings = {"mode": "slow"}\\n')
        sys.path.insert(0, str(pathlib.Path().resolve()))
        import mine_state
        mine_state.settings['mode'] = 'fast'
        mine_state.extra = [1]
        """,
        """
        assert mine_state.settings['mode'] == 'fast' and mine_state.extra == [1]
        """,
        HONEST,
    ),
    case(
        "code",
        "patched attribute of an imported module",
        """
        import json
        original = json.dumps
        json.dumps = lambda obj, **options: original(obj, **options) + '!'
        """,
        """
        import json as again
        assert again.dumps(1) == '1!' and original(1) == '1'
        """,
        HONEST,
    ),
    case(
        "code",
        "patched method of an imported class",
        """
        import fractions
        fractions.Fraction.shout = lambda self: f'{self}!'
        old = fractions.Fraction.__str__
        fractions.Fraction.__str__ = lambda self: '<' + old(self) + '>'
        """,
        """
        from fractions import Fraction
        assert str(Fraction(1, 2)) == '<1/2>' and Fraction(1, 2).shout() == '<1/2>!'
        """,
        HONEST,
    ),
    case(
        "code",
        "patched builtin",
        """
        import builtins
        builtins.shout = lambda text: text.upper()
        """,
        """
        assert shout('x') == 'X'
        """,
        HONEST,
    ),
    case(
        "code",
        "code object, frame-free tracebacks, ellipsis, slice, types",
        """
        import types
        program = compile('x + 1', '<own>', 'eval')
        cut = slice(1, None, 2)
        kinds = [int, types.FunctionType, type(None), type(...), list[int], int | None]
        span = range(2, 100, 7)
        """,
        """
        assert eval(program, {'x': 1}) == 2 and program.co_filename == '<own>'
        assert [0, 1, 2, 3][cut] == [1, 3] and kinds[2] is type(None) and kinds[4] == list[int] and kinds[5] == (int | None)
        assert kinds[1] is types.FunctionType and span[1] == 9
        """,
        RIGHT,
    ),
    case(
        "code",
        "names of operator, re, and C functions",
        """
        import math, operator
        pick = operator.itemgetter(1, 0)
        attribute = operator.attrgetter('real')
        call = operator.methodcaller('upper')
        functions = [math.sin, str.upper, dict.fromkeys, [].__len__, len]
        """,
        """
        assert pick([1, 2]) == (2, 1) and attribute(3 + 1j) == 3 and call('a') == 'A'
        assert functions[0] is math.sin and functions[1]('a') == 'A' and functions[2]('a') == {'a': None} and functions[3]() == 0
        assert functions[4] is len
        """,
        RIGHT,
    ),
    case(
        "code",
        "decorated function with state in an instance",
        """
        class Memo:
            def __init__(self, function):
                self.function, self.seen = function, {}

            def __call__(self, n):
                if n not in self.seen:
                    self.seen[n] = self.function(n)
                return self.seen[n]

        @Memo
        def fib(n):
            return n if n < 2 else fib(n - 1) + fib(n - 2)

        fib(20)
        """,
        """
        assert len(fib.seen) == 21 and fib(30) == 832040 and len(fib.seen) == 31
        """,
        RIGHT,
    ),
    case(
        "code",
        "numba function with a global",
        """
        import numba
        import numpy as np

        @numba.njit
        def total(a):
            s = 0.0
            for x in a:
                s += x
            return s

        @numba.vectorize
        def twice(x):
            return x * 2

        total(np.ones(3))
        """,
        """
        assert total(np.ones(4)) == 4.0 and total.py_func(np.ones(2)) == 2.0 and twice(np.ones(2)).tolist() == [2, 2]
        assert type(total).__name__ == 'CPUDispatcher'
        """,
        RIGHT,
    ),
    case(
        "code",
        "globals() and the namespace itself",
        """
        here = globals()
        marker = [1]
        """,
        """
        fresh = 5
        assert here is globals() and here['fresh'] == 5 and here['marker'] is marker
        """,
        HONEST,
    ),
    case(
        "code",
        "__main__ as a module",
        """
        import __main__
        import sys
        me = sys.modules[__name__]
        value = [1]
        """,
        """
        later = 7
        assert me is __main__ and me.later == 7 and __main__.value is value
        """,
        RIGHT,
    ),
    case(
        "code",
        "instances of types of the standard library",
        """
        import datetime, decimal, fractions, ipaddress, pathlib, uuid, zoneinfo
        things = [
            decimal.Decimal('1.10'),
            fractions.Fraction(1, 3),
            datetime.datetime(2024, 3, 31, 2, 30, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin'), fold=1),
            datetime.timedelta(days=1),
            pathlib.Path('a/b'),
            uuid.UUID(int=5),
            ipaddress.ip_network('10.0.0.0/8'),
        ]
        zone = things[2].tzinfo
        """,
        """
        assert str(things[0]) == '1.10' and things[1] * 3 == 1 and things[2].fold == 1 and things[2].tzinfo is zone
        assert zone is zoneinfo.ZoneInfo('Europe/Berlin')
        assert things[4] / 'c' == pathlib.Path('a/b/c') and things[5].int == 5 and things[6].num_addresses == 2**24
        """,
        EXACT,
    ),
]
