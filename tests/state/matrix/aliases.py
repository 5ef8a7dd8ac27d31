"""Plain Python objects and who shares them."""

from __future__ import annotations

from tests.state.cases import EXACT, HONEST, RIGHT, case

CASES = [
    case(
        "alias",
        "list under two names",
        """
        a = [1, 2]
        b = a
        """,
        """
        b.append(3)
        assert a is b and a == [1, 2, 3]
        """,
        EXACT,
    ),
    case(
        "alias",
        "list shared across cells",
        """
        a = [1, 2]
        # %%
        holder = {'inner': a}
        # %%
        b = holder['inner']
        b.append(3)
        """,
        """
        assert a is b is holder['inner'] and a == [1, 2, 3]
        """,
        EXACT,
    ),
    case(
        "alias",
        "self-referential",
        """
        loop = [0]
        loop.append(loop)
        ring = {}
        ring['self'] = ring
        ring['loop'] = loop
        pair = ([],)
        pair[0].append(pair)
        """,
        """
        assert loop[1] is loop and ring['self'] is ring and ring['loop'] is loop
        assert type(pair) is tuple and pair[0][0] is pair
        """,
        EXACT,
    ),
    case(
        "alias",
        "shared by list, dict, tuple and attribute",
        """
        class Box:
            pass

        part = {1, 2}
        box = Box()
        box.part = part
        holders = [part, {'k': part}, (part, box)]
        """,
        """
        part.add(3)
        assert holders[0] is part and holders[1]['k'] is part and holders[2][0] is part
        assert holders[2][1] is box and box.part == {1, 2, 3}
        """,
        RIGHT,
    ),
    case(
        "alias",
        "memoryview of a bytearray",
        """
        buffer = bytearray(b'abcdefgh')
        window = memoryview(buffer)[1:7]
        every_other = window[::-2]
        frozen = memoryview(buffer).toreadonly()
        """,
        """
        window[0] = ord('X')
        buffer[6] = ord('Y')
        assert bytes(buffer) == b'aXcdefYh' and every_other.tolist() == [ord('Y'), ord('e'), ord('c')]
        assert frozen.readonly and frozen[1] == ord('X') and not window.readonly
        assert every_other.strides == (-2,)
        """,
        RIGHT,
    ),
    case(
        "alias",
        "memoryview cast to another format and shape",
        """
        buffer = bytearray(24)
        grid = memoryview(buffer).cast('i').cast('B').cast('i', (2, 3))
        """,
        """
        grid[1, 2] = 7
        assert buffer[20] == 7 and grid.shape == (2, 3) and grid.format == 'i'
        """,
        RIGHT,
    ),
    case(
        "alias",
        "bytearray under two names",
        """
        left = bytearray(b'123')
        right = {'raw': left}
        """,
        """
        left += b'4'
        assert right['raw'] is left and right['raw'] == b'1234'
        """,
        EXACT,
    ),
    case(
        "alias",
        "array.array shared with a memoryview",
        """
        import array
        numbers = array.array('d', [1.0, 2.0, 3.0])
        again = numbers
        seen = memoryview(numbers)
        """,
        """
        seen[1] = 9.0
        assert again is numbers and numbers.typecode == 'd' and list(numbers) == [1.0, 9.0, 3.0]
        """,
        RIGHT,
    ),
    case(
        "alias",
        "dict key is an object that has a name",
        """
        class Key:
            pass

        key = Key()
        table = {key: 'value'}
        """,
        """
        assert table[key] == 'value' and next(iter(table)) is key
        """,
        RIGHT,
    ),
    case(
        "alias",
        "bound method of a list",
        """
        items = [1]
        push = items.append
        """,
        """
        push(2)
        assert items == [1, 2] and push.__self__ is items
        """,
        RIGHT,
    ),
    case(
        "alias",
        "bound method of an instance",
        """
        class Counter:
            def __init__(self):
                self.n = 0

            def up(self):
                self.n += 1
                return self.n

        counter = Counter()
        up = counter.up
        up()
        """,
        """
        assert up() == 2 and counter.n == 2 and up.__self__ is counter and up.__func__ is Counter.up
        """,
        RIGHT,
    ),
    case(
        "alias",
        "views of a dict",
        """
        table = {'a': 1}
        keys, values, items = table.keys(), table.values(), table.items()
        """,
        """
        table['b'] = 2
        assert 'b' in keys and list(values) == [1, 2] and ('b', 2) in items
        """,
        RIGHT,
    ),
    case(
        "alias",
        "mappingproxy",
        """
        import types
        table = {'a': 1}
        proxy = types.MappingProxyType(table)
        """,
        """
        table['b'] = 2
        assert proxy['b'] == 2 and type(proxy) is types.MappingProxyType
        """,
        RIGHT,
    ),
    case(
        "alias",
        "weak reference",
        """
        import weakref

        class Node:
            pass

        node = Node()
        reference = weakref.ref(node)
        """,
        """
        assert reference() is node
        import gc
        del node
        gc.collect()
        assert reference() is None
        """,
        RIGHT,
    ),
    case(
        "alias",
        "WeakValueDictionary, WeakKeyDictionary, WeakSet",
        """
        import weakref

        class Node:
            pass

        node, other = Node(), Node()
        by_value = weakref.WeakValueDictionary(n=node, o=other)
        by_key = weakref.WeakKeyDictionary({node: 'x'})
        loose = weakref.WeakSet([node])
        """,
        """
        import gc
        assert by_value['n'] is node and by_key[node] == 'x' and node in loose
        del other
        gc.collect()
        assert list(by_value) == ['n']
        """,
        RIGHT,
    ),
    case(
        "alias",
        "weakref.proxy and finalize",
        """
        import weakref

        class Node:
            value = 3

        node = Node()
        proxy = weakref.proxy(node)
        ended = []
        finalizer = weakref.finalize(node, ended.append, 'gone')
        """,
        """
        import gc
        node.value = 4
        assert proxy.value == 4 and finalizer.alive
        del node
        gc.collect()
        assert ended == ['gone'] and not finalizer.alive
        """,
        HONEST,
    ),
    case(
        "alias",
        "cycle through a set whose member hashes by an attribute",
        """
        class Item:
            def __init__(self, key):
                self.key = key
                self.friends = set()

            def __hash__(self):
                return hash(self.key)

            def __eq__(self, other):
                return self.key == other.key

        one, two = Item('one'), Item('two')
        one.friends |= {two}
        two.friends |= {one}
        """,
        """
        assert next(iter(one.friends)) is two and next(iter(two.friends)) is one
        assert one in two.friends and two in one.friends
        """,
        HONEST,
    ),
    case(
        "alias",
        "collections: order, maxlen, defaults, live ChainMap",
        """
        import collections
        nested = collections.defaultdict(lambda: collections.defaultdict(int))
        nested['a']['b'] += 1
        recent = collections.deque([1, 2, 3], maxlen=3)
        ordered = collections.OrderedDict(b=1, a=2)
        ordered.move_to_end('b')
        low, high = {'x': 1}, {}
        chain = collections.ChainMap(high, low)
        """,
        """
        nested['new']['c'] += 5
        assert nested['new']['c'] == 5 and nested['a']['b'] == 1
        recent.append(4)
        assert recent.maxlen == 3 and list(recent) == [2, 3, 4]
        assert list(ordered) == ['a', 'b'] and type(ordered) is collections.OrderedDict
        low['y'] = 2
        assert chain['y'] == 2 and chain.maps[0] is high
        """,
        RIGHT,
    ),
    case(
        "alias",
        "linked list of 50,000 nodes",
        """
        head = None
        for number in range(50_000):
            head = [number, head]
        """,
        """
        count, node = 0, head
        while node is not None:
            assert node[0] == 49_999 - count
            count, node = count + 1, node[1]
        assert count == 50_000
        """,
        HONEST,
    ),
    case(
        "alias",
        "sentinel object as default and as value",
        """
        MISSING = object()

        def get(table, key, default=MISSING):
            return default

        table = {'hole': MISSING, 'none': None, 'dots': ..., 'not': NotImplemented}
        """,
        """
        assert get(table, 'x') is MISSING and table['hole'] is MISSING and get.__defaults__[0] is MISSING
        assert table['none'] is None and table['dots'] is ... and table['not'] is NotImplemented
        """,
        RIGHT,
    ),
    case(
        "alias",
        "one big tuple of parts that change",
        """
        log = []
        state = (log, {'log': log}, frozenset([1, 2]))
        alias = state
        # %%
        log.append('x')
        """,
        """
        assert state is alias and state[0] is log and state[1]['log'] is log and log == ['x']
        log.append('y')
        assert state[1]['log'] == ['x', 'y']
        """,
        EXACT,
    ),
    case(
        "alias",
        "exception with cause and traceback",
        """
        def fail():
            try:
                {}['absent']
            except KeyError as error:
                raise ValueError('no such thing') from error

        try:
            fail()
        except ValueError as error:
            caught = error
        cause = caught.__cause__
        caught.add_note('a note')
        """,
        """
        assert type(caught) is ValueError and caught.args == ('no such thing',)
        assert type(cause) is KeyError and caught.__cause__ is cause
        assert caught.__notes__ == ['a note']
        """,
        HONEST,
        strict="""
        import traceback
        assert 'fail' in ''.join(traceback.format_exception(caught))
        """,
    ),
    case(
        "alias",
        "names that begin with an underscore",
        """
        _one = [1]
        __two = _one
        _ = 'mine'
        """,
        """
        assert _one is __two and _one == [1] and _ == 'mine'
        """,
        EXACT,
    ),
    case(
        "alias",
        "a name that was deleted stays deleted",
        """
        keep = [1]
        dropped = keep
        # %%
        del dropped
        """,
        """
        assert keep == [1] and 'dropped' not in globals()
        """,
        EXACT,
    ),
    case(
        "alias",
        "a name that hides a builtin",
        """
        print_was = print
        list = [1, 2]
        """,
        """
        import builtins
        assert list == [1, 2] and print_was is builtins.print and builtins.list is not list
        """,
        RIGHT,
    ),
    case(
        "alias",
        "what the next cell changes is not in the checkpoint",
        """
        items = [1]
        table = {'items': items}
        """,
        """
        assert items == [1] and table == {'items': [1]} and table['items'] is items
        """,
        EXACT,
        between="""
        items.append('later')
        table['new'] = 1
        """,
    ),
    case(
        "alias",
        "subclasses of builtins with state of their own",
        """
        class Tags(list):
            pass

        class Text(str):
            pass

        class Table(dict):
            def __missing__(self, key):
                self[key] = made = []
                return made

        tags = Tags([1])
        tags.owner = tags
        text = Text('hi')
        text.lang = 'en'
        table = Table(a=1)
        table.tags = tags
        """,
        """
        assert type(tags) is Tags and tags.owner is tags and tags == [1]
        assert type(text) is Text and text == 'hi' and text.lang == 'en'
        assert table.tags is tags and table['new'] is table['new'] and type(table) is Table
        """,
        RIGHT,
    ),
    case(
        "alias",
        "SimpleNamespace cycle and nested dictionaries",
        """
        from types import SimpleNamespace
        config = SimpleNamespace(lr=0.1)
        config.me = config
        runs = {name: {'config': config, 'log': []} for name in 'ab'}
        """,
        """
        config.lr = 0.2
        assert config.me is config and runs['a']['config'] is runs['b']['config'] is config
        assert runs['a']['log'] is not runs['b']['log'] and runs['b']['config'].lr == 0.2
        """,
        EXACT,
    ),
    case(
        "alias",
        "integers, floats and strings at the edges",
        """
        huge = 1 << 4000
        odd = [float('nan'), -0.0, float('inf'), 5e-324, 1 + 2j]
        texts = ['\\ud800', '\\x00', 'a' * 70_000, '\\U0001f600', b'\\xff' * 3]
        """,
        """
        import math
        assert huge == 1 << 4000 and math.copysign(1, odd[1]) == -1 and odd[3] == 5e-324 and odd[2] == math.inf
        assert math.isnan(odd[0]) and odd[4] == 1 + 2j
        assert texts[0] == '\\ud800' and texts[1] == '\\x00' and len(texts[2]) == 70_000 and texts[4] == b'\\xff' * 3
        """,
        EXACT,
    ),
]
