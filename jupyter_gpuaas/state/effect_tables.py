"""Which calls are known to do nothing but compute, and what others do, by their full names.

Whatever is in neither table is unknown, and unknown is not harmless.
"""

from __future__ import annotations

from collections.abc import Mapping

WRITES = "writes files"
READS = "reads files"
NETWORK = "network"
SUBPROCESS = "subprocess"
INPUT = "input"
RANDOM = "random without known state"
TIME = "time"
THREADS = "starts threads or tasks"
PROCESS = "changes the process"
TEXT = "runs code that cannot be seen"

#: Modules all of whose functions compute, but for those in ``DOES``.
PURE_MODULES = frozenset(
    {
        *("abc", "array", "base64", "binascii", "bisect", "calendar", "cmath", "collections", "colorsys", "copy"),
        *(
            "dataclasses",
            "datetime",
            "decimal",
            "difflib",
            "enum",
            "fractions",
            "functools",
            "hashlib",
            "heapq",
            "hmac",
        ),
        *("hmac", "html", "itertools", "json", "keyword", "math", "numbers", "numpy", "operator", "re", "statistics"),
        *("string", "struct", "textwrap", "types", "typing", "unicodedata", "zlib"),
    }
)

_BUILTINS = """abs aiter all anext any ascii bin bool bytearray bytes callable chr classmethod complex dict dir divmod
enumerate filter float format getattr hasattr hex int isinstance issubclass iter len list map max
memoryview min next object oct ord pow print property range repr reversed round slice sorted staticmethod str sum
super tuple type zip delattr setattr Exception ValueError TypeError KeyError IndexError RuntimeError StopIteration
AssertionError AttributeError NotImplementedError ZeroDivisionError OSError NameError ArithmeticError LookupError"""

#: Single functions and classes that compute.
PURE = frozenset(
    {
        *(f"builtins.{name}" for name in _BUILTINS.split()),
        *(f"pandas.{name}" for name in "DataFrame Series Index concat merge date_range to_datetime to_numeric".split()),
        *(f"pandas.{name}" for name in "Timestamp Timedelta Categorical cut qcut get_dummies isna notna".split()),
        *(f"torch.{name}" for name in "tensor as_tensor zeros ones full eye arange linspace cat stack".split()),
        *(f"torch.{name}" for name in "from_numpy zeros_like ones_like full_like where matmul einsum device".split()),
        "random.Random",  # unseeded: see SEEDED
        "numpy.random.default_rng",
        "numpy.random.RandomState",
        "torch.Generator",
        "pathlib.Path",
        "pathlib.PurePath",
    }
)

#: Full names, or what they begin with (a dot at the end) -> what it does.
DOES: Mapping[str, str] = {
    "builtins.input": INPUT,
    # Of text these differ from process to process, and with them the order of a set.
    **dict.fromkeys(("builtins.hash", "builtins.id", "builtins.set", "builtins.frozenset"), RANDOM),
    **{f"builtins.{name}.": "" for name in ("str", "bytes", "dict", "list", "int", "float", "object", "type")},
    "builtins.open": WRITES,  # reading is told apart by its mode
    "io.open": WRITES,
    "getpass.": INPUT,
    "copy.__": TEXT,
    "datetime.datetime.now": TIME,
    "datetime.datetime.utcnow": TIME,
    "datetime.datetime.today": TIME,
    "datetime.date.today": TIME,
    "pandas.Timestamp.now": TIME,
    "time.": TIME,
    "random.": RANDOM,
    "secrets.": RANDOM,
    "uuid.": RANDOM,
    "os.urandom": RANDOM,
    "numpy.random.": RANDOM,
    "numpy.empty": RANDOM,
    "numpy.ndarray": RANDOM,
    "torch.empty": RANDOM,
    "torch.rand": RANDOM,
    "torch.normal": RANDOM,
    "torch.bernoulli": RANDOM,
    "torch.multinomial": RANDOM,
    "torch.nn.": RANDOM,
    "numpy.save": WRITES,
    "numpy.memmap": WRITES,
    "numpy.lib.format.": WRITES,
    "numpy.load": READS,
    "numpy.fromfile": READS,
    "numpy.genfromtxt": READS,
    "numpy.DataSource": NETWORK,
    "numpy.set": PROCESS,
    "numpy.f2py.": SUBPROCESS,
    "numpy.ctypeslib.": TEXT,
    "numpy.vectorize": TEXT,
    "numpy.from_dlpack": TEXT,
    "numpy.test": SUBPROCESS,
    "numpy.show": PROCESS,
    "json.dump": WRITES,  # `json.dumps` is PURE_AFTER_ALL
    "json.load": READS,
    "pandas.read_": READS,
    "pandas.set_option": PROCESS,
    "pickle.dump": WRITES,
    "torch.save": WRITES,
    "torch.load": READS,
    "torch.hub.": NETWORK,
    "torch.manual_seed": PROCESS,
    "torch.set_": PROCESS,
    "subprocess.": SUBPROCESS,
    "multiprocessing.": SUBPROCESS,
    "os.system": SUBPROCESS,
    "os.popen": SUBPROCESS,
    "os.fork": SUBPROCESS,
    "os.spawn": SUBPROCESS,
    "os.exec": SUBPROCESS,
    "os.remove": WRITES,
    "os.unlink": WRITES,
    "os.rename": WRITES,
    "os.replace": WRITES,
    "os.mkdir": WRITES,
    "os.makedirs": WRITES,
    "os.rmdir": WRITES,
    "os.truncate": WRITES,
    "os.chdir": PROCESS,
    "os.putenv": PROCESS,
    "os.listdir": READS,
    "os.path.": READS,
    "glob.": READS,
    "shutil.": WRITES,
    "tempfile.": WRITES,
    "sqlite3.": WRITES,
    "socket.": NETWORK,
    "urllib.request.": NETWORK,
    "http.": NETWORK,
    "requests.": NETWORK,
    "httpx.": NETWORK,
    "aiohttp.": NETWORK,
    "ftplib.": NETWORK,
    "smtplib.": NETWORK,
    "webbrowser.": SUBPROCESS,
    "threading.": THREADS,
    "asyncio.": THREADS,
    "concurrent.": THREADS,
    "signal.": PROCESS,
    "logging.": PROCESS,
    "warnings.": PROCESS,
    "locale.": PROCESS,
    "decimal.setcontext": PROCESS,
    "decimal.getcontext": PROCESS,
    "functools.singledispatch": TEXT,
    "json.tool": TEXT,
}
PURE_AFTER_ALL = frozenset({"json.dumps", "json.loads", "numpy.setdiff1d", "numpy.setxor1d"})

#: Functions that seed, or make a generator from a seed -> the generator that is in a known state after it.
SEEDS: Mapping[str, str] = {"random.seed": "random.", "numpy.random.seed": "numpy.random."}
#: Random unless called with a constant.
SEEDED = frozenset({"random.Random", "numpy.random.default_rng", "numpy.random.RandomState"})

#: Methods of data that do more than compute.
METHODS: Mapping[str, str] = {
    **dict.fromkeys(("tofile", "dump", "save", "savefig", "write", "writelines", "write_text", "write_bytes"), WRITES),
    **dict.fromkeys(("touch", "mkdir", "rmdir", "unlink", "rename", "replace_file", "symlink_to", "chmod"), WRITES),
    **dict.fromkeys(("to_csv", "to_parquet", "to_pickle", "to_excel", "to_hdf", "to_feather", "to_json"), WRITES),
    **dict.fromkeys(("to_stata", "to_orc", "to_html", "to_latex", "to_markdown", "to_xml", "to_string"), WRITES),
    **dict.fromkeys(("to_sql", "to_gbq"), NETWORK),
    **dict.fromkeys(("to_clipboard", "plot", "hist", "boxplot", "show"), PROCESS),
    **dict.fromkeys(("read_text", "read_bytes", "open", "exists", "is_file", "is_dir", "iterdir", "glob"), READS),
    **dict.fromkeys(("sample", "uniform_", "normal_", "random_", "bernoulli_", "exponential_"), RANDOM),
}

#: Packages whose objects compute when their methods are called, but for ``METHODS``.
DATA = frozenset({"builtins", "numpy", "pandas", "collections", "decimal", "fractions", "datetime", "re", "random"})


def does(name: str) -> str | None:
    """What a call of this full name does: ``""`` computes, ``None`` unknown."""
    if name in PURE_AFTER_ALL or name in PURE:
        return ""
    for length in range(len(name), 0, -1):
        if (found := DOES.get(name[:length])) is not None:
            return found
    return "" if name.partition(".")[0] in PURE_MODULES else None
