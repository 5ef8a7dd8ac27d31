"""Functions, closures, and other code that cells make."""

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
        assert [0, 1, 2, 3][cut] == [1, 3] and kinds[2] is type(None)
        assert kinds[4] == list[int] and kinds[5] == (int | None)
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
        assert functions[0] is math.sin and functions[1]('a') == 'A' and functions[2]('a') == {'a': None}
        assert functions[3]() == 0
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
