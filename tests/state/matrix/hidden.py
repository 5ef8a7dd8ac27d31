"""State that has no name in the notebook but that its next cell depends on."""

from __future__ import annotations

from tests.state.cases import HONEST, RIGHT, case

CASES = [
    case(
        "hidden",
        "random.seed",
        """
        import random
        random.seed(42)
        random.random()
        random.gauss(0, 1)
        """,
        """
        drawn = [random.random(), random.gauss(0, 1), random.gauss(0, 1)]
        random.seed(42)
        random.random(), random.gauss(0, 1)
        assert drawn == [random.random(), random.gauss(0, 1), random.gauss(0, 1)]
        """,
        RIGHT,
    ),
    case(
        "hidden",
        "random.Random instance, and functions bound to it",
        """
        import random
        rng = random.Random(7)
        rng.random()
        draw = rng.randint
        default = random.random
        """,
        """
        twin = random.Random(7)
        twin.random()
        assert draw(0, 10**9) == twin.randint(0, 10**9) and rng.random() == twin.random() and draw.__self__ is rng
        random.seed(1)
        wanted = random.Random(1).random()
        assert default() == wanted
        """,
        RIGHT,
    ),
    case(
        "hidden",
        "random state that was never seeded",
        """
        import random
        random.random()
        state = random.getstate()
        """,
        """
        assert random.getstate() == state
        """,
        RIGHT,
    ),
    case(
        "hidden",
        "numpy.random.seed",
        """
        import numpy as np
        np.random.seed(42)
        np.random.normal()
        """,
        """
        drawn = np.random.normal(size=3).tolist()
        np.random.seed(42)
        np.random.normal()
        assert drawn == np.random.normal(size=3).tolist()
        """,
        RIGHT,
    ),
    case(
        "hidden",
        "torch.manual_seed, initial seed too",
        """
        import torch
        torch.manual_seed(42)
        torch.rand(3)
        """,
        """
        drawn = torch.rand(3)
        torch.manual_seed(42)
        torch.rand(3)
        assert torch.equal(drawn, torch.rand(3))
        """,
        RIGHT,
    ),
    case(
        "hidden",
        "environment variables: set, changed, removed",
        """
        import os
        os.environ['MINE_SET'] = 'yes'
        os.environ['LANG'] = 'changed'
        os.environ.pop('OMP_NUM_THREADS', None)
        """,
        """
        import os, subprocess
        assert os.environ['MINE_SET'] == 'yes' and os.environ['LANG'] == 'changed'
        assert 'OMP_NUM_THREADS' not in os.environ
        shown = subprocess.run(['sh', '-c', 'echo $MINE_SET'], capture_output=True, text=True).stdout
        assert shown == 'yes\\n'
        """,
        RIGHT,
    ),
    case(
        "hidden",
        "working folder",
        """
        import os
        os.makedirs('sub/deeper')
        os.chdir('sub/deeper')
        with open('here.txt', 'w') as out:
            out.write('x')
        file = open('here.txt')
        """,
        """
        import os
        assert os.getcwd().endswith('sub/deeper') and os.path.exists('here.txt') and file.read() == 'x'
        """,
        RIGHT,
    ),
    case(
        "hidden",
        "sys.path with an import from there",
        """
        import os, sys
        os.makedirs('extra')
        with open('extra/mine_extra.py', 'w') as out:
            out.write('VALUE = 3\\n')
        sys.path.insert(0, os.path.abspath('extra'))
        sys.path.append('relative/entry')
        """,
        """
        import sys
        assert sys.path[0].endswith('extra') and sys.path[-1] == 'relative/entry'
        import mine_extra
        assert mine_extra.VALUE == 3
        """,
        RIGHT,
    ),
    case(
        "hidden",
        "warnings filters",
        """
        import warnings
        warnings.filterwarnings('error', category=UserWarning, message='mine.*')
        warnings.simplefilter('ignore', DeprecationWarning)
        """,
        """
        import warnings
        try:
            warnings.warn('mine, all mine')
        except UserWarning:
            pass
        else:
            raise AssertionError('the filter is gone')
        assert warnings.filters[0][0] == 'ignore' and warnings.filters[0][2] is DeprecationWarning
        """,
        RIGHT,
    ),
    case(
        "hidden",
        "numpy print options and error state",
        """
        import numpy as np
        np.set_printoptions(precision=2, suppress=True)
        np.seterr(divide='raise')
        """,
        """
        assert str(np.array([1 / 3])) == '[0.33]' and np.geterr()['divide'] == 'raise'
        """,
        RIGHT,
    ),
    case(
        "hidden",
        "decimal context",
        """
        import decimal
        decimal.getcontext().prec = 5
        decimal.getcontext().rounding = decimal.ROUND_DOWN
        own = decimal.Context(prec=3)
        """,
        """
        assert str(decimal.Decimal(2) / 3) == '0.66666' and str(own.divide(decimal.Decimal(1), 3)) == '0.333'
        """,
        HONEST,
    ),
    case(
        "hidden",
        "context variables",
        """
        import contextvars
        user = contextvars.ContextVar('user', default='nobody')
        token = user.set('me')
        empty = contextvars.ContextVar('empty')

        def who():
            return user.get()

        copy = contextvars.copy_context()
        """,
        """
        assert who() == 'me' and user.name == 'user'
        user.set('you')
        assert who() == 'you' and empty.get('none') == 'none'
        """,
        HONEST,
        strict="assert copy[user] == 'me' and token.var is user",
    ),
    case(
        "hidden",
        "recursion limit, switch interval, int digits, hooks",
        """
        import sys
        sys.setrecursionlimit(4321)
        sys.set_int_max_str_digits(10_000)
        sys.setswitchinterval(0.01)
        """,
        """
        import sys
        assert sys.getrecursionlimit() == 4321 and sys.get_int_max_str_digits() == 10_000
        """,
        HONEST,
    ),
    case(
        "hidden",
        "sys.excepthook and sys.displayhook of the notebook",
        """
        import sys
        shown = []
        sys.excepthook = lambda kind, value, trace: shown.append(kind)
        """,
        """
        import sys
        sys.excepthook(ValueError, ValueError(), None)
        assert shown == [ValueError]
        """,
        HONEST,
    ),
    case(
        "hidden",
        "locale and time zone",
        """
        import os, time
        os.environ['TZ'] = 'Asia/Tokyo'
        time.tzset()
        """,
        """
        import time
        assert time.localtime(0).tm_hour == 9
        """,
        HONEST,
    ),
    case(
        "hidden",
        "umask, signal handlers",
        """
        import os, signal
        os.umask(0o077)
        heard = []
        signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
        """,
        """
        import os, signal
        assert callable(signal.getsignal(signal.SIGUSR1))
        os.kill(os.getpid(), signal.SIGUSR1)
        assert heard == [signal.SIGUSR1] and os.umask(0o077) == 0o077
        """,
        HONEST,
    ),
    case(
        "hidden",
        "atexit and gc settings",
        """
        import gc
        gc.set_threshold(555, 11, 12)
        gc.disable()
        """,
        """
        import gc
        assert gc.get_threshold() == (555, 11, 12) and not gc.isenabled()
        """,
        HONEST,
    ),
    case(
        "hidden",
        "matplotlib: rcParams and style",
        """
        import matplotlib.pyplot as plt
        plt.rcParams['lines.linewidth'] = 7.5
        plt.rcParams['figure.figsize'] = (3, 2)
        """,
        """
        import matplotlib
        assert matplotlib.rcParams['lines.linewidth'] == 7.5 and matplotlib.rcParams['figure.figsize'] == [3, 2]
        """,
        HONEST,
    ),
    case(
        "hidden",
        "matplotlib: current figure and axes",
        """
        import matplotlib.pyplot as plt
        figure, axes = plt.subplots()
        line, = axes.plot([1, 2], label='l')
        fills = [axes.bar([1, 2], [3, 4])]
        """,
        """
        assert axes.figure is figure and axes.lines[0] is line and line.get_label() == 'l'
        line.set_ydata([5, 6])
        assert axes.lines[0].get_ydata()[1] == 6 and len(fills[0].patches) == 2
        assert figure.number in plt.get_fignums() and plt.gcf() is figure and plt.gca() is axes
        """,
        RIGHT,
    ),
    case(
        "hidden",
        "regular expressions: pattern, match, scanner",
        """
        import re
        pattern = re.compile(r'(?P<word>\\w+) (\\d+)', re.I)
        match = pattern.search('## abc 12 ##')
        """,
        """
        assert match.group('word') == 'abc' and match.span(2) == (7, 9) and match.re is pattern
        assert match.string[0] == '#'
        assert match.lastgroup is None and pattern.flags & re.I and match.pos == 0
        """,
        RIGHT,
    ),
    case(
        "hidden",
        "regular expressions: match of bytes with limits, in a list",
        """
        import re
        matches = [re.compile(rb'b+').match(b'aabbbcc', 2, 4), re.match('(a)|b', 'b')]
        """,
        """
        assert matches[0].group() == b'bb' and matches[0].endpos == 4 and matches[0].pos == 2
        assert matches[1].groups() == (None,) and matches[1].regs == ((0, 1), (-1, -1))
        """,
        RIGHT,
    ),
    case(
        "hidden",
        "ipywidgets: model, observers, link",
        """
        import ipywidgets
        slider = ipywidgets.IntSlider(value=3, max=50)
        text = ipywidgets.IntText()
        link = ipywidgets.link((slider, 'value'), (text, 'value'))
        seen = []
        slider.observe(lambda change: seen.append(change['new']), 'value')
        box = ipywidgets.VBox([slider, text])
        """,
        """
        slider.value = 9
        assert text.value == 9 and seen == [9] and box.children[0] is slider and slider.max == 50
        text.value = 4
        assert slider.value == 4
        """,
        HONEST,
    ),
    case(
        "hidden",
        "tqdm bar, progress of a loop",
        """
        import io
        import tqdm
        bar = tqdm.tqdm(total=10, file=io.StringIO())
        bar.update(3)
        """,
        """
        bar.update(2)
        assert bar.n == 5 and bar.total == 10
        """,
        HONEST,
    ),
    case(
        "hidden",
        "hash object, compressor, parser",
        """
        import hashlib, xml.etree.ElementTree as ET, zlib
        digest = hashlib.sha256(b'a')
        squeeze = zlib.compressobj()
        head = squeeze.compress(b'a' * 1000)
        tree = ET.fromstring('<a><b>1</b></a>')
        branch = tree[0]
        """,
        """
        digest.update(b'b')
        assert digest.hexdigest() == hashlib.sha256(b'ab').hexdigest()
        assert zlib.decompress(head + squeeze.flush()) == b'a' * 1000
        branch.text = '2'
        assert ET.tostring(tree) == b'<a><b>2</b></a>'
        """,
        HONEST,
    ),
    case(
        "hidden",
        "ctypes: array, structure, pointer, function",
        """
        import ctypes

        class Pair(ctypes.Structure):
            _fields_ = [('a', ctypes.c_int), ('b', ctypes.c_double)]

        pair = Pair(1, 2.5)
        numbers = (ctypes.c_int * 3)(1, 2, 3)
        pointer = ctypes.pointer(pair)
        """,
        """
        assert pair.a == 1 and pair.b == 2.5 and list(numbers) == [1, 2, 3]
        pointer.contents.a = 9
        assert pair.a == 9
        """,
        HONEST,
    ),
    case(
        "hidden",
        "exit stack and context manager that are entered",
        """
        import contextlib
        events = []

        @contextlib.contextmanager
        def scope(name):
            events.append('in ' + name)
            yield name
            events.append('out ' + name)

        stack = contextlib.ExitStack()
        stack.enter_context(scope('a'))
        stack.callback(events.append, 'called')
        """,
        """
        stack.close()
        assert events == ['in a', 'called', 'out a']
        """,
        HONEST,
    ),
    case(
        "hidden",
        "iterating a caller: frame, traceback of the last error",
        """
        import sys

        def fail(n):
            inner = n * 2
            raise ValueError(inner)

        try:
            fail(4)
        except ValueError as error:
            trace = error.__traceback__
            frame = trace.tb_next.tb_frame
        """,
        """
        assert trace.tb_next.tb_frame is frame and frame.f_locals['inner'] == 8
        """,
        HONEST,
    ),
    case(
        "hidden",
        "sys.modules entry that a cell replaced",
        """
        import sys, types
        import colorsys
        colorsys_was = colorsys
        sys.modules['colorsys'] = fake = types.SimpleNamespace(rgb_to_hsv=lambda *rgb: 'fake')
        """,
        """
        import colorsys as again
        assert again.rgb_to_hsv(1, 2, 3) == 'fake' and again is fake and colorsys_was.rgb_to_hsv(0, 0, 0) == (0, 0, 0)
        """,
        HONEST,
    ),
]
