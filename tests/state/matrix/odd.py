"""What notebooks hold now and then: caches, registries and shared parts of libraries that no other file is about."""

from __future__ import annotations

from tests.state.cases import HONEST, RIGHT, case

CASES = [
    case(
        "odd",
        "cached_property and a cache by lru_cache on a method share what they hold",
        """
        import functools
        class Loader:
            def __init__(self):
                self.calls = 0
            @functools.cached_property
            def table(self):
                self.calls += 1
                return {'rows': [1, 2]}
            @functools.lru_cache(maxsize=8)
            def part(self, n):
                self.calls += 1
                return [n]
        loader = Loader()
        table = loader.table
        part = loader.part(3)
        """,
        """
        table['rows'].append(3)
        assert loader.table is table and loader.table['rows'] == [1, 2, 3] and loader.calls == 2
        got = loader.part(3)
        assert got == [3] and (got is part) == (loader.calls == 2)
        """,
        HONEST,
        strict="assert loader.calls == 2",
    ),
    case(
        "odd",
        "class that counts its instances and keeps them in a list of the class",
        """
        class Node:
            made = []
            count = 0
            def __init__(self, name):
                self.name = name
                Node.made.append(self)
                Node.count += 1
        a, b = Node('a'), Node('b')
        """,
        """
        assert Node.made[0] is a and Node.made[1] is b and Node.count == 2
        c = Node('c')
        assert Node.made[-1] is c and type(a).made is Node.made and Node.count == 3
        """,
        HONEST,
    ),
    case(
        "odd",
        "registry filled by a decorator and by __init_subclass__",
        """
        handlers = {}
        def handles(kind):
            def note(function):
                handlers[kind] = function
                return function
            return note
        @handles('a')
        def on_a(x):
            return ('a', x)
        class Base:
            known = {}
            def __init_subclass__(cls, **kw):
                super().__init_subclass__(**kw)
                Base.known[cls.__name__] = cls
        class First(Base): pass
        class Second(First): pass
        """,
        """
        assert handlers['a'] is on_a and on_a(1) == ('a', 1)
        assert list(Base.known) == ['First', 'Second'] and Base.known['First'] is First
        class Third(Base): pass
        assert Base.known['Third'] is Third and issubclass(Second, Base.known['First'])
        """,
        HONEST,
    ),
    case(
        "odd",
        "singleton by __new__ and Borg by a shared __dict__",
        """
        class Single:
            _one = None
            def __new__(cls):
                if cls._one is None:
                    cls._one = super().__new__(cls)
                    cls._one.items = []
                return cls._one
        class Borg:
            shared = {}
            def __init__(self):
                self.__dict__ = Borg.shared
        s = Single(); s.items.append(1)
        p, q = Borg(), Borg()
        p.x = [1]
        """,
        """
        assert Single() is s and Single().items == [1]
        p.y = 2
        assert q.y == 2 and Borg.shared['x'] is p.x is q.x and Borg().y == 2
        """,
        HONEST,
    ),
    case(
        "odd",
        "dict whose keys hash by identity, set of functions and classes",
        """
        class Key: pass
        k1, k2 = Key(), Key()
        table = {k1: 'one', k2: 'two', Key: 'class', len: 'builtin'}
        def f(): return 1
        chosen = {f, Key, len}
        seen = {id(k1): k1}
        """,
        """
        assert table[k1] == 'one' and table[k2] == 'two' and table[Key] == 'class' and table[len] == 'builtin'
        assert f in chosen and Key in chosen and len in chosen
        (only,) = seen.values()
        assert only is k1
        """,
        HONEST,
    ),
    case(
        "odd",
        "bisected list of objects with a shared comparison, heap of tuples that tie",
        """
        import heapq, functools
        @functools.total_ordering
        class Job:
            def __init__(self, rank): self.rank = rank
            def __lt__(self, other): return self.rank < other.rank
            def __eq__(self, other): return self.rank == other.rank
            __hash__ = None
        jobs = [Job(n) for n in (3, 1, 2)]
        first = jobs[1]
        heapq.heapify(jobs)
        """,
        """
        assert jobs[0] is first
        assert [heapq.heappop(jobs).rank for _ in range(3)] == [1, 2, 3]
        try:
            hash(first)
        except TypeError:
            pass
        else:
            raise AssertionError('has become hashable')
        """,
        HONEST,
    ),
    case(
        "odd",
        "memo of a recursive function in its default argument",
        """
        def fib(n, memo={0: 0, 1: 1}):
            if n not in memo:
                memo[n] = fib(n - 1) + fib(n - 2)
            return memo[n]
        fib(30)
        memo = fib.__defaults__[0]
        """,
        """
        assert fib.__defaults__[0] is memo and len(memo) == 31
        memo[31] = 'poisoned'
        assert fib(31) == 'poisoned'
        """,
        HONEST,
    ),
    case(
        "odd",
        "callbacks that are methods bound to one object, in lists and partials",
        """
        import functools
        class Counter:
            def __init__(self): self.n = 0
            def add(self, k=1): self.n += k
        counter = Counter()
        hooks = [counter.add, functools.partial(counter.add, 10), lambda: counter.add(100)]
        bound = counter.add
        """,
        """
        for hook in hooks:
            hook()
        bound(1000)
        assert counter.n == 1111 and hooks[0].__self__ is counter and hooks[1].func.__self__ is counter
        """,
        HONEST,
    ),
    case(
        "odd",
        "weak sets in objects that are observed",
        """
        import weakref
        class Subject:
            def __init__(self): self.watchers = weakref.WeakSet()
            def tell(self): return sorted(w.name for w in self.watchers)
        class Watcher:
            def __init__(self, name): self.name = name
        subject, a, b = Subject(), Watcher('a'), Watcher('b')
        subject.watchers.update([a, b])
        """,
        """
        assert subject.tell() == ['a', 'b']
        import gc
        del b
        gc.collect()
        assert subject.tell() == ['a']
        """,
        HONEST,
    ),
    case(
        "odd",
        "one random generator shared by three objects",
        """
        import numpy as np, random
        rng = np.random.default_rng(5)
        dice = random.Random(9)
        class Agent:
            def __init__(self, rng, dice): self.rng, self.dice = rng, dice
        agents = [Agent(rng, dice) for _ in range(2)]
        rng.normal(size=3); dice.random()
        expected = np.random.default_rng(5); expected.normal(size=3)
        twin = random.Random(9); twin.random()
        """,
        """
        for agent in agents:
            assert agent.rng.random() == expected.random() and agent.dice.random() == twin.random()
        assert agents[0].rng is rng is agents[1].rng
        assert rng.random() == expected.random() and dice.random() == twin.random()
        """,
        HONEST,
    ),
    case(
        "odd",
        "spawned generators go on to spawn others",
        """
        import numpy as np
        root = np.random.default_rng(3)
        one, two = root.spawn(2)
        """,
        """
        fresh = np.random.default_rng(3)
        first, second = fresh.spawn(2)
        assert one.random() == first.random() and two.random() == second.random()
        assert root.spawn(1)[0].random() == fresh.spawn(1)[0].random()
        """,
        HONEST,
    ),
    case(
        "odd",
        "array in a dataclass, a frame and a closure at once",
        """
        import numpy as np, pandas as pd, dataclasses
        base = np.arange(12.0).reshape(4, 3)
        @dataclasses.dataclass
        class Batch:
            x: np.ndarray
            tag: str = 'b'
        batch = Batch(base[1:])
        frame = pd.DataFrame(base, copy=False)
        def total(): return base.sum()
        column = batch.x[:, 0]
        """,
        """
        base[1, 0] = 100
        assert batch.x[0, 0] == 100 and column[0] == 100 and frame.iloc[1, 0] == 100
        assert total() == base.sum() and np.shares_memory(batch.x, base) and column.base is not None
        """,
        HONEST,
    ),
    case(
        "odd",
        "arrays that overlap without a common base name, deleted base",
        """
        import numpy as np
        whole = np.arange(100)
        left, right = whole[:60], whole[40:]
        del whole
        """,
        """
        left[50] = -1
        assert right[10] == -1 and np.shares_memory(left, right) and len(left) == len(right) == 60
        """,
        HONEST,
    ),
    case(
        "odd",
        "recarray, chararray and matrix over one buffer",
        """
        import numpy as np
        table = np.rec.array([(1, 2.0, 'a'), (3, 4.0, 'b')], dtype=[('n', 'i4'), ('x', 'f8'), ('s', 'U2')])
        numbers = table.n
        plain = np.arange(4.0).reshape(2, 2)
        mat = np.asmatrix(plain)
        """,
        """
        numbers[0] = 7
        assert table.n[0] == 7 and table[0].n == 7 and table.s[1] == 'b'
        plain[0, 0] = 9
        assert mat[0, 0] == 9 and (mat * mat).shape == (2, 2) and type(mat) is np.matrix
        """,
        HONEST,
    ),
    case(
        "odd",
        "bytes in a ring: bytearray that several memoryviews and arrays look into",
        """
        import numpy as np, array
        ring = bytearray(range(16))
        head, tail = memoryview(ring)[:4], memoryview(ring)[-4:]
        words = np.frombuffer(ring, dtype='<u4')
        """,
        """
        ring[0] = 255
        assert head[0] == 255 and words[0] & 255 == 255
        tail[3] = 1
        assert ring[15] == 1 and words[3] >> 24 == 1
        try:
            ring.append(1)
        except BufferError:
            pass
        else:
            raise AssertionError('nobody holds the buffer any more')
        """,
        HONEST,
    ),
    case(
        "odd",
        "pathlib, datetime with zones, Decimal, Fraction, UUID, ip addresses",
        """
        import pathlib, datetime, zoneinfo, decimal, fractions, uuid, ipaddress
        zone = zoneinfo.ZoneInfo('UTC')
        when = datetime.datetime(2026, 3, 1, 12, tzinfo=zone, fold=1)
        other = datetime.datetime(2026, 3, 1, tzinfo=zone)
        parts = (pathlib.PurePosixPath('/a/b'), decimal.Decimal('1.10'), fractions.Fraction(1, 3))
        ids = {uuid.UUID(int=5): ipaddress.ip_network('10.0.0.0/8')}
        """,
        """
        assert when.tzinfo is other.tzinfo is zone and zone is zoneinfo.ZoneInfo('UTC') and when.fold == 1
        assert str(parts[1]) == '1.10' and parts[2] * 3 == 1 and ids[uuid.UUID(int=5)].prefixlen == 8
        """,
        HONEST,
    ),
    case(
        "odd",
        "element tree: element, parent and map of parents",
        """
        import xml.etree.ElementTree as ET
        root = ET.fromstring('<a><b n="1"/><b n="2"><c/></b></a>')
        tree = ET.ElementTree(root)
        second = root[1]
        parents = {child: parent for parent in root.iter() for child in parent}
        """,
        """
        assert tree.getroot() is root and root[1] is second and parents[second] is root
        second.set('n', '3')
        assert root.find("b[@n='3']") is second and parents[second[0]] is second
        """,
        HONEST,
    ),
    case(
        "odd",
        "argparse, configparser, string templates, json and csv objects",
        """
        import argparse, configparser, string, json, io, csv
        parser = argparse.ArgumentParser()
        parser.add_argument('--lr', type=float, default=0.1)
        options = parser.parse_args([])
        config = configparser.ConfigParser(); config.read_string('[a]\\nx = 1')
        section = config['a']
        class Encoder(json.JSONEncoder):
            def default(self, value): return repr(value)
        encoder = Encoder(indent=1)
        buffer = io.StringIO()
        writer = csv.writer(buffer); writer.writerow([1, 2])
        """,
        """
        assert parser.parse_args(['--lr', '2']).lr == 2.0 and options.lr == 0.1
        section['x'] = '5'
        assert config['a']['x'] == '5'
        assert encoder.encode({'a': {1}}) == '{\\n "a": "{1}"\\n}'
        writer.writerow([3])
        assert buffer.getvalue() == '1,2\\r\\n3\\r\\n'
        """,
        HONEST,
    ),
    case(
        "odd",
        "estimators that share a scaler and a random state",
        """
        import numpy as np
        from sklearn.preprocessing import StandardScaler
        from sklearn.linear_model import SGDRegressor
        from sklearn.pipeline import make_pipeline
        rng = np.random.RandomState(0)
        x = rng.normal(size=(30, 2)); y = x[:, 0]
        scaler = StandardScaler()
        model = SGDRegressor(random_state=rng)
        pipe = make_pipeline(scaler, model)
        pipe.fit(x, y)
        """,
        """
        assert pipe.steps[0][1] is scaler and pipe.steps[1][1] is model and model.random_state is rng
        coef = model.coef_.copy()
        model.partial_fit(scaler.transform(x), y)
        assert pipe[-1].coef_ is model.coef_ and not np.array_equal(coef, model.coef_)
        """,
        HONEST,
    ),
    case(
        "odd",
        "lambda in a frame's pipe, styler and plot-free aggregations",
        """
        import pandas as pd
        frame = pd.DataFrame({'k': list('aab'), 'v': [1, 2, 3]})
        frame.attrs['source'] = {'file': 'x'}
        groups = frame.groupby('k')
        rules = {'v': lambda s: s.max() - s.min()}
        attrs = frame.attrs
        """,
        """
        assert groups.agg(rules)['v'].tolist() == [1, 0] and groups.obj is frame
        frame.loc[0, 'v'] = 10
        assert groups['v'].sum().tolist() == [12, 3] and frame.attrs['source'] == {'file': 'x'}
        """,
        HONEST,
    ),
    case(
        "odd",
        "modules that share a submodule and a parameter in a list",
        """
        import torch
        torch.manual_seed(0)
        shared = torch.nn.Linear(3, 3)
        class Twin(torch.nn.Module):
            def __init__(self, part):
                super().__init__()
                self.part = part
                self.scale = torch.nn.Parameter(torch.ones(1))
        one, two = Twin(shared), Twin(shared)
        params = [one.scale, shared.weight]
        optimizer = torch.optim.SGD(params, lr=1.0)
        """,
        """
        assert one.part is two.part is shared and optimizer.param_groups[0]['params'][1] is shared.weight
        one.part(torch.ones(1, 3)).sum().backward()
        before = shared.weight.detach().clone()
        optimizer.step()
        assert not torch.equal(before, two.part.weight) and params[0] is one.scale
        """,
        HONEST,
    ),
    case(
        "odd",
        "lazy conjugate and negative views of a tensor",
        """
        import torch
        z = torch.tensor([1 + 2j, 3 - 1j])
        conj = z.conj()
        imag = conj.imag
        plain = torch.view_as_real(z)
        """,
        """
        assert torch.equal(conj, torch.tensor([1 - 2j, 3 + 1j])) and torch.equal(imag, torch.tensor([-2.0, 1.0]))
        plain[0, 1] = 5
        assert z[0] == 1 + 5j and conj[0] == 1 - 5j and imag[0] == -5
        """,
        HONEST,
    ),
    case(
        "odd",
        "gradient that has been zeroed, one that is None, accumulated twice",
        """
        import torch
        w = torch.ones(3, requires_grad=True)
        v = torch.ones(3, requires_grad=True)
        u = torch.ones(3, requires_grad=True)
        (w * 2 + v * 3).sum().backward()
        (w * 2).sum().backward()
        v.grad.zero_()
        grad = w.grad
        """,
        """
        assert torch.equal(w.grad, torch.full((3,), 4.0)) and w.grad is grad and u.grad is None
        assert torch.equal(v.grad, torch.zeros(3))
        (w * 1).sum().backward()
        assert torch.equal(grad, torch.full((3,), 5.0))
        """,
        HONEST,
    ),
    case(
        "odd",
        "schedulers, EMA by deep copy, clipped groups added later",
        """
        import torch, copy
        torch.manual_seed(1)
        net = torch.nn.Linear(2, 1)
        extra = torch.nn.Parameter(torch.zeros(1))
        opt = torch.optim.AdamW(net.parameters(), lr=0.1)
        opt.add_param_group({'params': [extra], 'lr': 0.01})
        sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10)
        ema = copy.deepcopy(net)
        for _ in range(3):
            opt.zero_grad(); (net(torch.ones(1, 2)) + extra).sum().backward(); opt.step(); sched.step()
        rate = sched.get_last_lr()
        """,
        """
        assert sched.optimizer is opt and opt.param_groups[1]['params'][0] is extra and sched.get_last_lr() == rate
        assert not torch.equal(ema.weight, net.weight) and ema.weight is not net.weight
        opt.zero_grad(); (net(torch.ones(1, 2)) + extra).sum().backward(); opt.step(); sched.step()
        assert sched.last_epoch == 4 and opt.state[extra]['step'] == 4
        """,
        HONEST,
    ),
    case(
        "odd",
        "figure with artists that have names, and its axes in an array",
        """
        import matplotlib
        matplotlib.use('Agg')
        import matplotlib.pyplot as plt
        figure, axes = plt.subplots(1, 2)
        (line,) = axes[0].plot([1, 2, 3])
        bars = axes[1].bar([1, 2], [3, 4])
        """,
        """
        assert axes[0].lines[0] is line and axes[0].figure is figure and figure.axes[1] is axes[1]
        line.set_ydata([4, 5, 6])
        assert list(axes[0].lines[0].get_ydata()) == [4, 5, 6] and len(bars) == 2
        import io
        figure.savefig(io.BytesIO())
        """,
        HONEST,
    ),
    case(
        "odd",
        "exceptions in an exception, suppressed context",
        """
        try:
            try:
                {}['x']
            except KeyError as error:
                inner = error
                raise ValueError('outer') from None
        except ValueError as error:
            outer = error
        outer.note = ['why']
        both = Exception(outer, inner)
        """,
        """
        assert both.args[0] is outer and both.args[1] is inner and outer.note == ['why']
        assert outer.__suppress_context__ and outer.__cause__ is None and outer.__context__ is inner
        """,
        HONEST,
    ),
    case(
        "odd",
        "function whose closure holds itself, its class by __class__ and super without arguments",
        """
        def outer():
            def step(n): return 0 if n == 0 else 1 + step(n - 1)
            return step
        step = outer()
        class Top:
            def who(self): return ['top']
        class Low(Top):
            def who(self): return super().who() + [__class__.__name__]
        low = Low()
        """,
        """
        assert step(5) == 5 and step.__closure__[0].cell_contents is step
        assert low.who() == ['top', 'Low'] and Low.who.__closure__[0].cell_contents is Low
        """,
        HONEST,
    ),
    case(
        "odd",
        "overloaded and generic functions, __wrapped__ and partialmethod",
        """
        import functools
        class Button:
            def __init__(self): self.log = []
            def press(self, key): self.log.append(key)
            ok = functools.partialmethod(press, 'ok')
        def logged(function):
            calls = []
            @functools.wraps(function)
            def inner(*args):
                calls.append(args)
                return function(*args)
            inner.calls = calls
            return inner
        @logged
        def add(a, b): return a + b
        add(1, 2)
        button = Button(); button.ok()
        """,
        """
        button.ok()
        assert button.log == ['ok', 'ok']
        assert add(3, 4) == 7 and add.calls == [(1, 2), (3, 4)] and add.__wrapped__(1, 1) == 2 and len(add.calls) == 2
        """,
        HONEST,
    ),
    case(
        "odd",
        "changed in a helper that is called through an attribute of a module",
        """
        import types
        tools = types.SimpleNamespace()
        state = {'n': 0}
        def bump(): state['n'] += 1
        tools.bump = bump
        # %%
        tools.bump()
        # %%
        getattr(tools, 'bu' + 'mp')()
        """,
        """
        assert state['n'] == 2
        tools.bump()
        assert state['n'] == 3 and tools.bump is bump
        """,
        HONEST,
    ),
    case(
        "odd",
        "changed by operators, context managers and iteration of the notebook's own classes",
        """
        class Log(list):
            def __enter__(self): self.append('in'); return self
            def __exit__(self, *why): self.append('out')
            def __ilshift__(self, item): self.append(item); return self
            def __iter__(self):
                self.append('iterated')
                return super().__iter__()
            def __getattr__(self, name):
                if name.startswith('_'): raise AttributeError(name)
                self.append('asked ' + name)
                return None
        log = Log()
        same = [log]
        # %%
        with same[0]: pass
        # %%
        same[0] <<= 5
        # %%
        for item in same[0]: break
        # %%
        same[0].missing
        """,
        """
        assert log is same[0] and list.__eq__(log, ['in', 'out', 5, 'iterated', 'asked missing'])
        """,
        HONEST,
    ),
    case(
        "odd",
        "changed through format, comparison, sorting keys and f-strings",
        """
        seen = []
        class Noted:
            def __init__(self, n): self.n = n
            def __format__(self, spec): seen.append(('format', self.n)); return str(self.n)
            def __lt__(self, other): seen.append(('lt', self.n)); return self.n < other.n
            def __repr__(self): seen.append(('repr', self.n)); return 'N'
        items = [Noted(2), Noted(1)]
        # %%
        text = f'{items[0]}'
        # %%
        items.sort()
        # %%
        text = f'{items!r}'
        """,
        """
        assert seen == [('format', 2), ('lt', 1), ('repr', 1), ('repr', 2)] and [i.n for i in items] == [1, 2]
        """,
        HONEST,
    ),
    case(
        "odd",
        "changed by exec, eval, globals() and setattr with computed names",
        """
        x1 = [1]; x2 = [2]
        class Box: pass
        box = Box()
        # %%
        exec('x1.append(10)')
        # %%
        globals()['x' + '2'].append(20)
        # %%
        setattr(box, 'n' + 'ame', x1)
        eval('x2')[0] = 'first'
        """,
        """
        assert x1 == [1, 10] and x2 == ['first', 20] and box.name is x1
        """,
        HONEST,
    ),
    case(
        "odd",
        "changed by a finalizer and by a property",
        """
        log = []
        class Held:
            def __del__(self): log.append('gone')
        class Meter:
            n = 0
            @property
            def value(self):
                self.n += 1
                return self.n
        meter = Meter()
        held = Held()
        # %%
        held = None
        # %%
        meter.value
        """,
        """
        assert log == ['gone'] and meter.n == 1 and meter.value == 2
        """,
        HONEST,
    ),
    case(
        "odd",
        "dict of an object under a name of its own",
        """
        import argparse, types
        parser = argparse.ArgumentParser()
        parser.add_argument('--lr', type=float, default=0.1)
        options = parser.parse_args([])
        config = vars(options)
        space = types.SimpleNamespace(n=1)
        inside = vars(space)
        class Plain:
            __slots__ = ('kept', '__dict__')
        plain = Plain()
        plain.kept, plain.x = [1], [2]
        attributes = plain.__dict__
        """,
        """
        config['lr'] = 5
        inside['n'] = 6
        attributes['y'] = 7
        assert options.lr == 5 and space.n == 6 and plain.y == 7 and plain.kept == [1]
        options.more, space.more, plain.more = 1, 2, 3
        assert config['more'] == 1 and inside['more'] == 2 and attributes['more'] == 3
        assert vars(options) is config and vars(space) is inside and plain.__dict__ is attributes
        """,
        RIGHT,
    ),
    case(
        "odd",
        "subclasses of containers whose __init__ and __new__ take other arguments",
        """
        import collections
        class Tagged(set):
            def __init__(self, tag, items=()): super().__init__(items); self.tag = tag
        class Ring(collections.deque):
            def __init__(self, tag, items=()): super().__init__(items, 3); self.tag = tag
        class Tally(collections.Counter):
            def __init__(self, tag='', *items): super().__init__(*items); self.tag = tag
        class Ordered(collections.OrderedDict):
            def __init__(self, tag, **items): super().__init__(**items); self.tag = tag
        class Groups(collections.defaultdict):
            def __init__(self, tag, factory=list): super().__init__(factory); self.tag = tag
        class Raw(bytearray):
            def __init__(self, tag, *items): super().__init__(*items); self.tag = tag
        class Frozen(frozenset):
            def __new__(cls, tag, items):
                made = super().__new__(cls, items)
                made.tag = tag
                return made
        class Pair(tuple):
            def __new__(cls, a, b): return super().__new__(cls, (a, b))
        tagged, ring, tally = Tagged('t', [1]), Ring('t', [1, 2, 3, 4]), Tally('t', 'aab')
        ordered, groups, raw = Ordered('t', b=1, a=2), Groups('t'), Raw('t', b'xy')
        groups['x'].append(1)
        frozen, pair = Frozen('t', [1, 2]), Pair(1, [2])
        """,
        """
        for each in (tagged, ring, tally, ordered, groups, raw, frozen):
            assert each.tag == 't', each
        assert tagged == {1} and list(ring) == [2, 3, 4] and ring.maxlen == 3 and tally == {'a': 2, 'b': 1}
        assert list(ordered.items()) == [('b', 1), ('a', 2)] and groups == {'x': [1]} and groups['y'] == []
        assert raw == b'xy' and frozen == {1, 2} and pair == (1, [2]) and type(pair) is Pair
        """,
        RIGHT,
    ),
    case(
        "odd",
        "subclasses of values: __new__ takes more, attributes beside the value",
        """
        import datetime, decimal, fractions, pathlib
        class Metres(float):
            def __new__(cls, value, unit):
                made = super().__new__(cls, value)
                made.unit = unit
                return made
        class Word(str):
            def __new__(cls, text, language): made = super().__new__(cls, text); made.language = language; return made
        class Day(datetime.datetime): pass
        class Money(decimal.Decimal):
            def __new__(cls, value, currency): made = super().__new__(cls, value); made.currency = currency; return made
        class Share(fractions.Fraction): pass
        class Folder(type(pathlib.Path())): pass
        metres, word, money = Metres(1.5, 'm'), Word('Haus', 'de'), Money('1.50', 'EUR')
        day = Day(2026, 1, 2, tzinfo=datetime.timezone.utc)
        share, folder = Share(1, 3), Folder('/a/b')
        day.note, share.note, folder.note = ['d'], ['s'], ['f']
        """,
        """
        assert metres == 1.5 and metres.unit == 'm' and word == 'Haus' and word.language == 'de'
        assert str(money) == '1.50' and money.currency == 'EUR'
        assert type(day) is Day and day.year == 2026 and day.tzinfo is datetime.timezone.utc
        assert type(share) is Share and share * 3 == 1 and type(folder) is Folder and folder.name == 'b'
        assert (day.note, share.note, folder.note) == (['d'], ['s'], ['f'])
        """,
        RIGHT,
    ),
    case(
        "odd",
        "subclasses of containers that note each change and each look",
        """
        import collections
        calls = []
        class List(list):
            def append(self, item): calls.append('append'); super().append(item)
            def extend(self, items): calls.append('extend'); super().extend(items)
            def __iter__(self): calls.append('iter'); return super().__iter__()
        class Dict(dict):
            def __setitem__(self, key, value): calls.append('set'); super().__setitem__(key, value)
            def items(self): calls.append('items'); return super().items()
            def __iter__(self): calls.append('iter'); return super().__iter__()
        class Set(set):
            def add(self, item): calls.append('add'); super().add(item)
            def __iter__(self): calls.append('iter'); return super().__iter__()
        class Deque(collections.deque):
            def append(self, item): calls.append('append'); super().append(item)
            def __iter__(self): calls.append('iter'); return super().__iter__()
        class Made:
            count = 0
            def __new__(cls, *args): Made.count += 1; return super().__new__(cls)
        numbers, table, chosen, queue, made = List([1]), Dict(a=[1]), Set({1}), Deque([1]), Made()
        inner = table['a']
        calls.clear()
        """,
        """
        assert calls == [] and Made.count == 1
        assert list.__eq__(numbers, [1]) and dict.__eq__(table, {'a': [1]}) and table['a'] is inner
        assert 1 in chosen and queue[0] == 1 and type(made) is Made
        numbers.append(2)
        assert calls == ['append']
        """,
        RIGHT,
    ),
    case(
        "odd",
        "hooks of a class that note that it was made: __init_subclass__, __set_name__, metaclass",
        """
        made, named, metas = [], [], []
        class Field:
            def __set_name__(self, owner, name):
                self.name = name
                named.append(name)
        class Meta(type):
            def __new__(mcs, name, bases, space):
                metas.append('new ' + name)
                return super().__new__(mcs, name, bases, space)
            def __init__(cls, name, bases, space):
                metas.append('init ' + name)
                super().__init__(name, bases, space)
        class Base(metaclass=Meta):
            def __init_subclass__(cls, **more):
                super().__init_subclass__(**more)
                made.append(cls.__name__)
        class One(Base):
            x = Field()
            y = Field()
        one = One()
        """,
        """
        assert made == ['One'] and named == ['x', 'y'] and One.__dict__['x'].name == 'x', (made, named)
        assert metas == ['new Base', 'init Base', 'new One', 'init One'], metas
        class Two(Base):
            z = Field()
        assert made == ['One', 'Two'] and named == ['x', 'y', 'z'] and metas[-1] == 'init Two' and type(one) is One
        """,
        HONEST,
    ),
    case(
        "odd",
        "slots set by a __setattr__ that checks or notes",
        """
        notes = []
        class Strict:
            __slots__ = ('a', 'b')
            def __setattr__(self, name, value):
                notes.append(name)
                if hasattr(self, name): raise AttributeError('is set once')
                object.__setattr__(self, name, value)
        strict = Strict(); strict.a = [1]; strict.b = strict.a
        class Open:
            def __setattr__(self, name, value):
                notes.append(name)
                super().__setattr__(name, value)
        free = Open(); free.a = strict.a
        """,
        """
        assert notes == ['a', 'b', 'a'], notes
        assert strict.a is strict.b is free.a and strict.a == [1]
        try:
            strict.a = 2
        except AttributeError:
            pass
        else:
            raise AssertionError('was set twice')
        """,
        RIGHT,
    ),
    case(
        "odd",
        "own way to pickle by copyreg, by __reduce__, by __getstate__ and __setstate__",
        """
        import copyreg
        class Celsius:
            def __init__(self, degrees): self.degrees = degrees; self.cache = None
        copyreg.pickle(Celsius, lambda c: (Celsius, (c.degrees,)))
        class Lazy:
            def __init__(self): self.rows = [1, 2]; self.open = True
            def __getstate__(self): return {'rows': self.rows}
            def __setstate__(self, state): self.__dict__.update(state); self.open = False
        class Words(list):
            def __init__(self, tag): super().__init__(); self.tag = tag
            def __reduce__(self): return Words, (self.tag,), None, iter(list(self))
        c, lazy, words = Celsius(20), Lazy(), Words('w')
        words += ['a']
        rows = lazy.rows
        """,
        """
        assert c.degrees == 20 and lazy.rows is rows and lazy.rows == [1, 2]
        assert list(words) == ['a'] and words.tag == 'w'
        """,
        HONEST,
    ),
    case(
        "odd",
        "attributes put on objects of libraries: a frame, a counter, an estimator, a figure",
        """
        import collections, pandas as pd
        from sklearn.linear_model import LinearRegression
        tally = collections.Counter('aab')
        tally.note = ['n']
        frame = pd.DataFrame({'a': [1]})
        frame.note = 'f'
        series = frame['a'].copy()
        series.note = 's'
        model = LinearRegression()
        model.note = tally.note
        """,
        """
        assert tally.note == ['n'] and tally == {'a': 2, 'b': 1} and model.note is tally.note
        assert frame.note == 'f' and series.note == 's'
        """,
        HONEST,
    ),
    case(
        "odd",
        "proxies: __getattr__ and __getattribute__ that pass on, __class__ that pretends",
        """
        class Proxy:
            def __init__(self, inner): self.inner = inner
            def __getattr__(self, name): return getattr(self.inner, name)
        class Noted:
            count = 0
            def __init__(self): self.x = [1]
            def __getattribute__(self, name):
                if not name.startswith('__'): Noted.count += 1
                return super().__getattribute__(name)
        class Fake:
            @property
            def __class__(self): return dict
        target = [1, 2]
        proxy, noted, fake = Proxy(target), Noted(), Fake()
        """,
        """
        assert proxy.inner is target and proxy.count(1) == 1
        assert Noted.count == 0 and noted.x == [1] and Noted.count == 1
        assert isinstance(fake, dict) and type(fake) is Fake
        """,
        HONEST,
    ),
    case(
        "odd",
        "truth, length and equality that count or refuse",
        """
        asked = []
        class Shy:
            def __bool__(self): asked.append('bool'); raise ValueError('neither')
            def __len__(self): asked.append('len'); return 3
            def __eq__(self, other): asked.append('eq'); raise ValueError('not comparable')
            def __hash__(self): asked.append('hash'); return 7
        shy = Shy()
        pair = [shy, shy]
        held = {'shy': shy}
        """,
        """
        assert asked == [], asked
        assert pair[0] is shy and held['shy'] is shy and len(shy) == 3 and asked == ['len']
        """,
        RIGHT,
    ),
    case(
        "odd",
        "callbacks of weak references do not fire by being saved or restored",
        """
        import weakref
        fired = []
        class Thing: pass
        thing = Thing()
        ref = weakref.ref(thing, lambda r: fired.append('ref'))
        watch = weakref.finalize(thing, fired.append, 'finalize')
        class Dying:
            def __init__(self, name): self.name = name
            def __del__(self): fired.append('del ' + self.name)
        dying = Dying('d')
        """,
        """
        assert fired == [] and ref() is thing
        import gc
        del thing
        gc.collect()
        assert sorted(fired) == ['finalize', 'ref'], fired
        """,
        HONEST,
    ),
    case(
        "odd",
        "data classes: slots, frozen, fields without init, defaults from a shared factory",
        """
        import dataclasses
        shared = [0]
        @dataclasses.dataclass(frozen=True, slots=True)
        class Point:
            x: int
            tags: list = dataclasses.field(default_factory=lambda: shared)
        @dataclasses.dataclass
        class Run:
            name: str
            steps: int = dataclasses.field(init=False, default=0)
            log: list = dataclasses.field(default_factory=list, repr=False, compare=False)
            def __post_init__(self): self.log.append('made')
        point, run = Point(1), Run('r')
        run.steps = 5
        """,
        """
        assert point.tags is shared and run.log == ['made'] and run.steps == 5
        assert Point(2).tags is shared and dataclasses.replace(run, name='s').log[-1] == 'made'
        try:
            point.x = 2
        except dataclasses.FrozenInstanceError:
            pass
        else:
            raise AssertionError('is not frozen any more')
        assert {point.x, hash(run.name)} and dataclasses.asdict(run)['steps'] == 5
        """,
        HONEST,
    ),
    case(
        "odd",
        "enumerations with methods, values that are mutable, aliases, auto and flags combined",
        """
        import enum
        class Kind(enum.Enum):
            LIST = [1]
            OTHER = {'a': 1}
            ALIAS = {'a': 1}
            def first(self): return next(iter(self.value))
        class Mode(enum.Flag):
            R = enum.auto()
            W = enum.auto()
        both = Mode.R | Mode.W
        class Level(int, enum.Enum):
            LOW = 1
            HIGH = 2
        chosen = {Level.LOW: 'l', Kind.LIST: 'k'}
        inner = Kind.LIST.value
        """,
        """
        assert Kind.ALIAS is Kind.OTHER and Kind.LIST.value is inner and Kind.LIST.first() == 1
        assert both is Mode.R | Mode.W and Mode.R in both and chosen[Level(1)] == 'l' and chosen[Kind.LIST] == 'k'
        assert Level.HIGH > Level.LOW and [each.name for each in Kind] == ['LIST', 'OTHER']
        """,
        HONEST,
    ),
    case(
        "odd",
        "user collections: UserDict, UserList, MutableMapping, generic containers",
        """
        import collections, collections.abc, typing
        T = typing.TypeVar('T')
        class Store(collections.abc.MutableMapping):
            def __init__(self): self.data, self.reads = {}, 0
            def __getitem__(self, key): self.reads += 1; return self.data[key]
            def __setitem__(self, key, value): self.data[key] = value
            def __delitem__(self, key): del self.data[key]
            def __iter__(self): self.reads += 1; return iter(self.data)
            def __len__(self): self.reads += 1; return len(self.data)
        class Stack(typing.Generic[T]):
            def __init__(self): self.items: list[T] = []
        class Quiet(collections.UserDict):
            def __setitem__(self, key, value): super().__setitem__(key.lower(), value)
        store, stack, quiet = Store(), Stack[int](), Quiet(A=1)
        store['a'] = stack.items
        """,
        """
        assert store.reads == 0 and store.data['a'] is stack.items and quiet['a'] == 1 and stack.__orig_class__
        stack.items.append(5)
        assert store['a'] == [5] and store.reads == 1
        quiet['B'] = 2
        assert dict(quiet) == {'a': 1, 'b': 2}
        """,
        HONEST,
    ),
    case(
        "odd",
        "changed by what an iterator does when it is asked",
        """
        log, seen = [], []
        def numbers():
            for n in range(9):
                log.append(n)
                yield n
        lazy = map(seen.append, numbers())
        source = numbers()
        pairs = zip(source, 'abc')
        # %%
        next(lazy)
        # %%
        pair = next(pairs)
        # %%
        rest = [*lazy][:1]
        """,
        """
        assert log == [0, 0, *range(1, 9)] and seen == list(range(9)) and pair == (0, 'a'), (log, seen)
        """,
        HONEST,
    ),
    case(
        "odd",
        "changed by functions of the library that call back",
        """
        import copy, functools, itertools, json, operator, re
        log = []
        class Item:
            def __deepcopy__(self, memo): log.append('deepcopy'); return Item()
            def __repr__(self): log.append('repr'); return 'I'
        def fallback(value): log.append('default'); return 0
        def found(match): log.append(match.group()); return ''
        def rank(value): log.append('key'); return value
        item = Item()
        add = operator.methodcaller('append', 'called')
        # %%
        copy.deepcopy(item)
        # %%
        print(item, file=__import__('io').StringIO())
        # %%
        json.dumps({'a': {1}}, default=fallback)
        # %%
        re.sub('[xy]', found, 'axby')
        # %%
        best = max([1, 2], key=rank)
        # %%
        add(log)
        # %%
        total = functools.reduce(lambda a, b: log.append('reduce') or a + b, [1, 2, 3])
        # %%
        kept = [*itertools.filterfalse(rank, [0])]
        """,
        """
        expected = ['deepcopy', 'repr', 'default', 'x', 'y', 'key', 'key', 'called', 'reduce', 'reduce', 'key']
        assert log == expected, log
        assert total == 6 and kept == [0]
        """,
        HONEST,
    ),
    case(
        "odd",
        "changed by numpy, pandas and torch functions that call back or write elsewhere",
        """
        import numpy as np, pandas as pd, torch
        a, b = np.arange(6.0), np.zeros(8)
        counts = {}
        frame = pd.DataFrame({'k': [1, 1, 2]})
        def count(value): counts[value] = counts.get(value, 0) + 1; return value
        each = np.vectorize(count, otypes=[int])
        t, u = torch.zeros(4), torch.ones(4)
        views = {'tail': b[2:]}
        # %%
        np.add(a, 1, out=views['tail'])
        # %%
        frame['k'].map(count)
        # %%
        each([5, 5])
        # %%
        torch.add(t, u, out=t)
        # %%
        np.copyto(b[:2], 9)
        # %%
        torch.from_numpy(a).mul_(2)
        """,
        """
        assert b.tolist() == [9, 9, 1, 2, 3, 4, 5, 6] and a.tolist() == [0, 2, 4, 6, 8, 10]
        assert counts == {1: 2, 2: 1, 5: 2} and t.tolist() == [1, 1, 1, 1] and views['tail'][0] == 1
        """,
        HONEST,
    ),
    case(
        "odd",
        "changed through code that was compiled before, partials, methods in tables and closures",
        """
        import functools
        state = {'n': 0}
        code = compile("state['n'] += 1", 'made', 'exec')
        step = functools.partial(state.update, n=10)
        table = {'clear': state.clear, 'set': state.__setitem__}
        def counter():
            n = 0
            def up():
                nonlocal n
                n += 1
                return n
            def now(): return n
            return up, now
        up, now = counter()
        holder = [now]
        # %%
        exec(code)
        # %%
        step()
        # %%
        table['set']('m', 1)
        # %%
        up(); up()
        # %%
        (lambda f: f('k', 2))(table['set'])
        """,
        """
        assert state == {'n': 10, 'm': 1, 'k': 2} and now() == 2 and holder[0]() == 2
        exec(code)
        assert state['n'] == 11 and up() == 3 and holder[0]() == 3
        """,
        HONEST,
    ),
    case(
        "odd",
        "changed by coroutines that are run, context managers and decorators",
        """
        import asyncio, contextlib, functools
        log = []
        async def work(n):
            log.append(n)
            await asyncio.sleep(0)
            log.append(-n)
        @contextlib.contextmanager
        def noted(name):
            log.append('in ' + name)
            try:
                yield
            finally:
                log.append('out ' + name)
        @functools.lru_cache
        def once(n): log.append(('once', n)); return n
        guard = noted('a')
        # %%
        asyncio.run(work(1))
        # %%
        with guard: pass
        # %%
        once(5); once(5)
        # %%
        with contextlib.suppress(ValueError), noted('b'): raise ValueError
        """,
        """
        assert log == [1, -1, 'in a', 'out a', ('once', 5), 'in b', 'out b'], log
        assert once(5) == 5 and (log.count(('once', 5)) == 1 or once.cache_info().hits == 0)
        """,
        HONEST,
    ),
    case(
        "odd",
        "changed by an error on the way, by a loop that breaks and by a deleted name",
        """
        items, keep = [1, 2, 3], []
        alias = items
        class Guard:
            def __exit__(self, *why): keep.append('left'); return True
            def __enter__(self): return self
        # %%
        try:
            for item in items:
                items.append(item + 10)
                if item == 2: raise KeyError(item)
        except KeyError as error:
            keep.append(error.args[0])
        # %%
        with Guard(): items[10]
        # %%
        del items
        # %%
        alias.pop()
        """,
        """
        assert alias == [1, 2, 3, 11] and keep == [2, 'left'] and 'items' not in globals()
        """,
        HONEST,
    ),
    case(
        "odd",
        "changed behind a module of the user's, a class attribute and a descriptor",
        """
        import types
        settings = types.ModuleType('settings')
        settings.values = [1]
        def change(): settings.values.append(2)
        class Registry:
            entries = {}
            def __class_getitem__(cls, key): cls.entries[key] = cls.entries.get(key, 0) + 1; return key
        class Watched:
            def __set__(self, obj, value): Registry.entries['set'] = value
            def __get__(self, obj, kind=None): Registry.entries['get'] = True; return 5
        class Model:
            x = Watched()
        model = Model()
        # %%
        change()
        # %%
        Registry['a']; Registry['a']
        # %%
        model.x = 7
        # %%
        model.x
        """,
        """
        assert settings.values == [1, 2] and Registry.entries == {'a': 2, 'set': 7, 'get': True}
        """,
        HONEST,
    ),
]
