"""Iterators and generators: where they are, and what they still share with what they iterate over."""

from __future__ import annotations

from tests.state.cases import HONEST, RIGHT, case

CASES = [
    case(
        "iter",
        "list iterator over a list that grows",
        """
        items = [0, 1, 2]
        iterator = iter(items)
        next(iterator)
        alias = iterator
        """,
        """
        items.append(3)
        assert alias is iterator and next(iterator) == 1 and list(alias) == [2, 3]
        """,
        RIGHT,
    ),
    case(
        "iter",
        "tuple, str, bytes, range and reversed iterators",
        """
        letters = iter('abcd')
        numbers = iter(range(10, 20, 3))
        pairs = iter(((1, 2), (3, 4)))
        raw = iter(b'xyz')
        items = [1, 2, 3, 4]
        backwards = reversed(items)
        for iterator in (letters, numbers, pairs, raw, backwards):
            next(iterator)
        del iterator
        """,
        """
        items[0] = 'first'
        assert list(letters) == ['b', 'c', 'd'] and list(numbers) == [13, 16, 19] and list(pairs) == [(3, 4)]
        assert list(raw) == [121, 122] and list(backwards) == [3, 2, 'first']
        """,
        RIGHT,
    ),
    case(
        "iter",
        "dict iterators: keys, values, items, reversed",
        """
        table = {'a': 1, 'b': 2, 'c': 3}
        keys, values, items, back = iter(table), iter(table.values()), iter(table.items()), reversed(table)
        for iterator in (keys, values, items, back):
            next(iterator)
        del iterator
        """,
        """
        assert list(keys) == ['b', 'c'] and list(values) == [2, 3] and list(back) == ['b', 'a']
        assert list(items) == [('b', 2), ('c', 3)]
        """,
        HONEST,
        strict="assert type(keys) is type(iter({})) and type(items) is type(iter({}.items()))",
    ),
    case(
        "iter",
        "set iterator",
        """
        words = {f'word{n}' for n in range(20)}
        iterator = iter(words)
        seen = {next(iterator) for _ in range(7)}
        """,
        """
        rest = list(iterator)
        assert len(rest) == 13 and set(rest) | seen == words
        """,
        HONEST,
        strict="assert type(iterator) is type(iter(set()))",
    ),
    case(
        "iter",
        "enumerate, zip, map, filter share what is below them",
        """
        base = iter(range(100))
        factor = 10
        counted = enumerate(base, start=5)
        zipped = zip(base, 'abcdef')
        mapped = map(lambda x: x * factor, base)
        even = filter(lambda x: x % 2 == 0, base)
        next(counted), next(zipped), next(mapped), next(even)
        """,
        """
        factor = 100
        assert next(base) == 5 and next(counted) == (6, 6) and next(zipped) == (7, 'b')
        assert next(mapped) == 800 and next(even) == 10 and next(base) == 11
        """,
        RIGHT,
    ),
    case(
        "iter",
        "itertools in the middle",
        """
        import itertools
        count = itertools.count(10, 5)
        cycle = itertools.cycle('abc')
        chain = itertools.chain([1, 2], [3], [4, 5])
        part = itertools.islice(itertools.count(), 2, 20, 3)
        pairs = itertools.combinations('abcd', 2)
        grid = itertools.product([0, 1], repeat=2)
        same = itertools.repeat('x', 3)
        sums = itertools.accumulate([1, 2, 3, 4])
        orders = itertools.permutations([1, 2, 3])
        for iterator in (count, cycle, chain, part, pairs, grid, same, sums, orders):
            next(iterator), next(iterator)
        del iterator
        """,
        """
        assert next(count) == 20 and ''.join(itertools.islice(cycle, 4)) == 'cabc' and list(chain) == [3, 4, 5]
        assert next(part) == 8 and next(pairs) == ('a', 'd') and list(grid) == [(1, 0), (1, 1)] and list(same) == ['x']
        assert list(sums) == [6, 10] and next(orders) == (2, 1, 3)
        """,
        RIGHT,
    ),
    case(
        "iter",
        "itertools: groupby, tee, zip_longest, takewhile, starmap, pairwise",
        """
        import itertools
        left, right = itertools.tee(iter(range(6)))
        next(left), next(left)
        padded = itertools.zip_longest([1, 2, 3], 'a', fillvalue='-')
        low = itertools.takewhile(lambda x: x < 3, iter([1, 2, 3, 4]))
        powers = itertools.starmap(pow, [(2, 1), (2, 2), (2, 3)])
        steps = itertools.pairwise([1, 2, 3])
        for iterator in (padded, low, powers, steps):
            next(iterator)
        del iterator
        """,
        """
        assert next(left) == 2 and list(right) == [0, 1, 2, 3, 4, 5] and list(left) == [3, 4, 5]
        assert list(padded) == [(2, '-'), (3, '-')] and list(low) == [2] and list(powers) == [4, 8]
        assert list(steps) == [(2, 3)]
        """,
        HONEST,
    ),
    case(
        "iter",
        "finished iterators stay finished",
        """
        items = [1]
        done = iter(items)
        list(done)
        empty = map(str, [])
        """,
        """
        items.append(2)
        assert list(done) == [] and next(empty, 'none') == 'none'
        """,
        RIGHT,
    ),
    case(
        "iter",
        "iterator with a sentinel, own iterator class",
        """
        stack = [1, 2, 3, 0, 5]
        until_zero = iter(stack.pop, 0)
        next(until_zero)

        class Countdown:
            def __init__(self, n):
                self.n = n

            def __iter__(self):
                return self

            def __next__(self):
                if self.n == 0:
                    raise StopIteration
                self.n -= 1
                return self.n

        down = Countdown(3)
        next(down)
        """,
        """
        assert list(until_zero) == [] and stack == [1, 2, 3] and list(down) == [1, 0]
        """,
        RIGHT,
    ),
    case(
        "iter",
        "iterator inside an iterator of a list of iterators",
        """
        source = [10, 20, 30]
        one = iter(source)
        many = [one, iter(source), one]
        walker = iter(many)
        next(walker)
        next(one)
        """,
        """
        assert many[0] is one is many[2] and next(many[0]) == 20 and next(many[1]) == 10
        assert next(walker) is many[1] and next(walker) is one and next(one) == 30
        """,
        RIGHT,
    ),
    case(
        "iter",
        "generator that has not started",
        """
        items = [1]

        def walk(values):
            for value in values:
                yield value

        waiting = walk(items)
        """,
        """
        items.append(2)
        assert list(waiting) == [1, 2]
        """,
        HONEST,
    ),
    case(
        "iter",
        "generator, half consumed",
        """
        def squares(n):
            total = 0
            for i in range(n):
                total += i * i
                yield total

        half = squares(6)
        head = [next(half), next(half), next(half)]
        """,
        """
        assert head == [0, 1, 5] and list(half) == [14, 30, 55]
        """,
        HONEST,
    ),
    case(
        "iter",
        "generator that is finished",
        """
        def short():
            yield 1

        over = short()
        list(over)
        """,
        """
        assert next(over, 'none') == 'none'
        """,
        HONEST,
    ),
    case(
        "iter",
        "generator expression over a named list",
        """
        source = [1, 2, 3, 4]
        expression = (x * 10 for x in source)
        next(expression)
        """,
        """
        source.append(5)
        assert list(expression) == [20, 30, 40, 50]
        """,
        HONEST,
    ),
    case(
        "iter",
        "generator that receives values and holds a context",
        """
        events = []

        def average():
            total, count = 0, 0
            try:
                while True:
                    total += yield (total / count if count else None)
                    count += 1
            finally:
                events.append('closed')

        running = average()
        next(running)
        running.send(10)
        """,
        """
        assert running.send(20) == 15
        running.close()
        assert events == ['closed']
        """,
        HONEST,
    ),
    case(
        "iter",
        "generator in a container beside things that can be kept",
        """
        def numbers():
            yield 1
            yield 2

        job = {'name': 'n', 'rest': numbers(), 'log': []}
        next(job['rest'])
        log = job['log']
        apart = [1, 2]
        """,
        """
        assert job['name'] == 'n' and job['log'] is log and next(job['rest']) == 2 and apart == [1, 2]
        """,
        HONEST,
    ),
    case(
        "iter",
        "coroutine that was never awaited, async generator",
        """
        import asyncio

        async def answer():
            return 42

        async def ticks():
            yield 1
            yield 2

        pending = answer()
        stream = ticks()
        """,
        """
        async def use():
            return await pending, [tick async for tick in stream]

        assert asyncio.run(use()) == (42, [1, 2])
        """,
        HONEST,
    ),
    case(
        "iter",
        "csv reader, re.finditer, os.scandir",
        """
        import csv, io, re
        text = io.StringIO('a,b\\n1,2\\n3,4\\n')
        rows = csv.reader(text)
        next(rows)
        found = re.finditer(r'\\d', '1a2b3')
        next(found)
        """,
        """
        assert next(rows) == ['1', '2'] and [m.group() for m in found] == ['2', '3']
        """,
        HONEST,
    ),
    case(
        "iter",
        "zip over generators and files",
        """
        with open('lines.txt', 'w') as out:
            out.write('one\\ntwo\\nthree\\n')
        file = open('lines.txt')
        numbered = enumerate(file, 1)
        next(numbered)
        """,
        """
        assert next(numbered) == (2, 'two\\n') and file.readline() == 'three\\n'
        file.close()
        """,
        HONEST,
    ),
]
