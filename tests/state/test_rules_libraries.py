"""numba, scikit-learn, scipy, numpy's random generators, PIL, tqdm, IPython."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest

from .roundtrip import cell, roundtrip


def test_numba_functions_are_compiled_anew_and_read_the_restored_globals() -> None:
    pytest.importorskip("numba")
    new, context, _ = roundtrip(
        cell(
            """
import numba, numpy as np
k = 3
@numba.njit
def add(x): return x + k
@numba.njit("int64(int64)")
def eager(x): return add(x) * 2
@numba.vectorize(["float64(float64)"])
def twice(x): return x * 2
@numba.vectorize
def lazy(x): return x * 3
@numba.guvectorize(["(float64[:], float64[:])"], "(n)->(n)")
def each(a, b):
    for i in range(a.shape[0]): b[i] = a[i] + 1
@numba.cfunc("float64(float64)")
def callback(x): return x + 2
@numba.stencil
def mean(a): return (a[-1] + a[1]) / 2
alias = add
from numba import typed
table = typed.Dict.empty(numba.int64, numba.float64); table[1] = 2.0; table[0] = 3.0
row = typed.List(); row.append(1); row.append(2)
free = typed.List()
"""
        )
    )
    assert new["eager"](1) == 8 and new["twice"](2.0) == 4 and new["lazy"](2.0) == 6
    assert new["each"](np.array([1.0])).tolist() == [2] and new["callback"].ctypes(1.0) == 3
    assert new["mean"](np.arange(3.0)).tolist() == [0, 1, 0]
    assert new["alias"] is new["add"] and new["add"].py_func.__globals__ is new
    assert dict(new["table"]) == {1: 2.0, 0: 3.0} and list(new["row"]) == [1, 2] and not len(new["free"])
    new["k"] = 10
    assert new["add"](1.5) == 11.5  # another type is compiled now
    with pytest.raises(TypeError):
        new["eager"]("x")
    assert any("numba" in how for how in context.rebuilds)


def test_scikit_learn_shares_what_it_shared() -> None:
    pytest.importorskip("sklearn")
    made = cell(
        """
import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.linear_model import LinearRegression
from sklearn.ensemble import RandomForestRegressor
from sklearn.neighbors import KDTree
X, y = np.arange(20.0).reshape(10, 2), np.arange(10.0)
model = LinearRegression()
pipeline = make_pipeline(FunctionTransformer(lambda a: a * 2), StandardScaler(), model).fit(X, y)
coefficients = model.coef_; rng = np.random.RandomState(3); rng.rand(5)
forest = RandomForestRegressor(5, random_state=rng).fit(X, y); tree = KDTree(X)
"""
    )
    new, _, _ = roundtrip(made)
    assert np.array_equal(new["forest"].predict(new["X"]), made["forest"].predict(made["X"]))
    assert new["forest"].random_state is new["rng"] and np.array_equal(new["rng"].rand(3), made["rng"].rand(3))
    assert new["tree"].query([[0.0, 1.0]])[1][0][0] == 0 and new["pipeline"][-1] is new["model"]
    new["coefficients"][:] = 0
    assert np.ptp(new["pipeline"].predict(new["X"])) == 0


def test_random_generators_share_their_bits() -> None:
    made = cell(
        """
import numpy as np
g = np.random.default_rng(1); g.random(); g.standard_normal(); bits = g.bit_generator
second = np.random.Generator(bits)
legacy = np.random.RandomState(np.random.MT19937(4)); legacy.normal(); seeds = bits.seed_seq; child = g.spawn(1)[0]
philox = np.random.Generator(np.random.Philox(3)); philox.random(3, dtype="f4")
"""
    )
    new, _, _ = roundtrip(made)
    assert new["g"].bit_generator is new["bits"] is new["second"].bit_generator
    for name in ("g", "second", "child", "philox"):
        assert np.array_equal(new[name].random(3), made[name].random(3))
    assert new["legacy"].normal() == made["legacy"].normal()
    assert new["g"].spawn(1)[0].random() == made["g"].spawn(1)[0].random()


def test_generators_that_all_use_are_those_of_the_process() -> None:
    source = "import numpy as np\nr = np.random.mtrand._rand; f = np.random.rand; b = np.random.get_bit_generator()"
    new, _, _ = roundtrip(cell(source + "\nfrom random import random, shuffle, Random\nown = Random(3); same = own"))
    random.seed(5)
    first = new["random"]()
    random.seed(5)
    assert new["random"]() == first and new["shuffle"].__self__ is random._inst  # type: ignore[attr-defined]
    assert new["own"] is new["same"] and new["own"].random() == random.Random(3).random()
    assert new["b"] is np.random.get_bit_generator()
    assert new["r"] is np.random.mtrand._rand
    assert new["f"].__self__ is np.random.mtrand._rand


def test_scipy_sparse_shares_its_data() -> None:
    pytest.importorskip("scipy")
    new, _, _ = roundtrip(
        cell("import scipy.sparse as s, numpy as np\nm = s.csr_array(np.eye(3)); d = m.data; m2 = m; t = m.T")
    )
    new["d"][0] = 7
    assert new["m"][0, 0] == 7 and new["t"][0, 0] == 7 and new["m2"] is new["m"]


def test_images_of_pil() -> None:
    pytest.importorskip("PIL")
    new, _, _ = roundtrip(
        cell(
            "from PIL import Image\nimport numpy as np\n"
            "a = Image.fromarray(np.arange(12, dtype='u1').reshape(3, 4)); b = a; p = a.convert('P')"
        )
    )
    assert np.array_equal(np.asarray(new["a"]).ravel(), np.arange(12)) and new["b"] is new["a"]
    new["a"].putpixel((0, 0), 99)
    assert new["b"].getpixel((0, 0)) == 99 and new["p"].mode == "P"


def test_progress_bar_stands_where_it_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    tqdm = pytest.importorskip("tqdm")
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    made = cell("import tqdm\nbar = tqdm.tqdm(total=10, desc='d'); bar.update(3)")
    new, context, _ = roundtrip(made)
    made["bar"].disable = True
    assert new["bar"].n == 3 and new["bar"].total == 10 and new["bar"].fp is not None
    new["bar"].update(2)
    new["bar"].close()
    assert "5/10" in screen.getvalue() and context.rebuilds
    assert isinstance(new["bar"], tqdm.tqdm)


def test_masked_arrays_share_data_and_mask() -> None:
    new, _, _ = roundtrip(
        cell(
            """
import numpy as np
a = np.arange(6.0).reshape(2, 3); m = np.ma.array(a, mask=[[0, 1, 0], [0, 0, 1]], copy=False, fill_value=-1)
row = m[1]; data = m.data; mask = m.mask; own = np.ma.arange(4).copy(); tail = own[1:]; raw = own.data[2:]
gaps = np.ma.array(np.arange(12).reshape(3, 4)[::2, ::2]); of_gaps = gaps.data[1]
hard = np.ma.array([1, 2], hard_mask=True)
items = np.ma.array([[1], None], dtype=object, mask=[0, 1]); nothing = np.ma.masked
"""
        )
    )
    new["a"][0, 0] = 50
    new["m"][1, 0] = 7
    new["m"][0, 2] = np.ma.masked
    assert new["m"][0, 0] == 50 and new["data"][0, 0] == 50 and new["row"][0] == 7 and new["a"][1, 0] == 7
    assert new["m"].mask.tolist() == [[0, 1, 1], [0, 0, 1]] == new["mask"].tolist() and new["m"].fill_value == -1
    new["own"][2] = 9
    new["gaps"][1, 1] = 5
    assert new["tail"][1] == 9 and new["raw"][0] == 9 and new["of_gaps"][1] == 5
    assert new["nothing"] is np.ma.masked and new["hard"].hardmask and new["items"][0] == [1]
