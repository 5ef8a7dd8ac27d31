"""pandas and polars: what shares memory, and who may write to it without the others seeing it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jupyter_gpuaas.state.rules.registry import NotRestorable

from .roundtrip import cell, roundtrip

pd = pytest.importorskip("pandas")

SHARING = """
import numpy as np, pandas as pd
df = pd.DataFrame({"a": [1, 2, 3], "b": [4.0, 5.0, 6.0], "t": pd.date_range("2020", periods=3, tz="UTC")})
df["s"] = ["x"] * 3
df["n"] = pd.array([1, None, 3], dtype="Int64"); df["c"] = pd.Categorical(list("aab"))
others = {
    "slice": df[:], "column": df["a"], "columns": df[["a", "b"]], "renamed": df.rename(columns=str.upper),
    "rows": df.iloc[1:], "copy": df.copy(deep=False), "time": df["t"], "nullable": df["n"], "category": df["c"],
    "indexed": df.set_index("a"), "index": df.set_index("a").index, "dates": pd.DatetimeIndex(df["t"]),
    "series of index": pd.Series(df.set_index("b").index), "turned": df[["a"]].T, "frame": df["b"].to_frame(),
    "raw": df["b"].to_numpy(), "reset": df.reset_index(drop=True), "values": df[["b"]].values, "text": df["s"],
}
"""
WRITES = {
    "a": lambda df: df.isetitem(0, df["a"]) or df.loc.__setitem__((1, "a"), 99),
    "b": lambda df: df.iloc.__setitem__((1, 1), -1.0),
    "t": lambda df: df.iloc.__setitem__((1, 2), pd.Timestamp("1999", tz="UTC")),
    "s": lambda df: df.iloc.__setitem__((1, 3), "other"),
    "n": lambda df: df.iloc.__setitem__((1, 4), 7),
    "c": lambda df: df.iloc.__setitem__((1, 5), "b"),
}


def _shown(others: dict[str, Any]) -> dict[str, str]:
    return {name: repr(other) for name, other in others.items()}


@pytest.mark.parametrize("column", WRITES)
def test_write_to_a_frame_shows_where_it_showed_before(column: str) -> None:
    made = cell(SHARING)
    new, context, _ = roundtrip(made)
    assert _shown(new["others"]) == _shown(made["others"])
    for namespace in (made, new):
        WRITES[column](namespace["df"])
    assert repr(new["df"]) == repr(made["df"])
    assert _shown(new["others"]) == _shown(made["others"])
    assert not context.rebuilds


@pytest.mark.parametrize("name", ["slice", "column", "columns", "renamed", "rows", "copy", "indexed", "frame", "reset"])
def test_write_to_a_derived_frame_leaves_the_others_alone(name: str) -> None:
    made = cell(SHARING)
    new, _, _ = roundtrip(made)
    for namespace in (made, new):
        other = namespace["others"][name]
        other.iloc[(0,) * other.ndim] = 42
        other.iloc[(1, 0)[: other.ndim]] = 43
    assert _shown(new["others"]) == _shown(made["others"])
    assert repr(new["df"]) == repr(made["df"])


def test_memory_that_was_shared_is_shared() -> None:
    new, _, _ = roundtrip(
        cell(
            SHARING
            + """
matrix = np.zeros((4, 2)); over = pd.DataFrame(matrix, columns=["a", "b"], copy=False)
values = np.arange(3.0); series = pd.Series(values, copy=False)
"""
        )
    )
    others = new["others"]
    assert np.shares_memory(others["raw"], new["df"]["b"].to_numpy()) and not others["raw"].flags.writeable
    assert np.shares_memory(others["slice"]["a"].to_numpy(), new["df"]["a"].to_numpy())
    new["matrix"][1, 1] = 7
    new["values"][2] = 8
    assert new["over"].loc[1, "b"] == 7 and new["series"][2] == 8


def test_kinds_of_columns_and_what_else_a_frame_has() -> None:
    made = cell(
        """
import pandas as pd
df = pd.DataFrame({"k": list("aab"), "v": [1.0, 2.0, 3.0]}); df.attrs["unit"] = ["m"]
strict = df.set_flags(allows_duplicate_labels=False)
multi = pd.DataFrame({"v": [1, 2]}, index=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["L", "N"]))
level = multi.index.levels[0]
sparse = pd.Series([0, 0, 1], dtype=pd.SparseDtype("int64", 0)); ranges = pd.Series(pd.interval_range(0, 3))
periods = pd.Series(pd.period_range("2020", periods=2, freq="M")); deltas = pd.Series(pd.to_timedelta([1, 2], unit="s"))
groups = df.groupby("k"); one = groups["v"]; rolling = df["v"].rolling(2); text = df["k"].str
hours = pd.Series([1.0, 2.0, 3.0], index=pd.date_range("2020", periods=3, freq="h")); per = hours.resample("2h")
class Survey(pd.DataFrame):
    _metadata = ["place"]
    @property
    def _constructor(self): return Survey
survey = Survey({"a": [1]}); survey.place = "Ulm"
missing = [pd.NA, pd.NaT]; stamp = pd.Timestamp("2020", tz="Europe/Berlin"); offset = pd.offsets.BDay(2)
"""
    )
    new, _, _ = roundtrip(made)
    for name in ("sparse", "ranges", "periods", "deltas", "hours"):
        pd.testing.assert_series_equal(new[name], made[name])
    pd.testing.assert_frame_equal(new["multi"], made["multi"])
    assert new["df"].attrs == {"unit": ["m"]} and not new["strict"].flags.allows_duplicate_labels
    assert new["groups"].obj is new["df"] and new["one"].sum().to_dict() == {"a": 3.0, "b": 3.0}
    assert new["rolling"].mean().tolist()[1:] == [1.5, 2.5] and new["per"].sum().tolist() == [3.0, 3.0]
    assert new["text"].upper().tolist() == ["A", "A", "B"] and new["hours"].index.freq == made["hours"].index.freq
    assert type(new["survey"]) is new["Survey"] and new["survey"].place == "Ulm"
    assert new["missing"][0] is pd.NA and new["missing"][1] is pd.NaT
    assert (new["stamp"], new["offset"]) == (made["stamp"], made["offset"])
    new["df"].loc[3] = ["c", 9.0]
    assert new["groups"].ngroups == 2


def test_polars() -> None:
    pytest.importorskip("polars")
    new, _, _ = roundtrip(
        cell(
            """
import polars as pl
frame = pl.DataFrame({"k": ["a", "b", "a"], "v": [1, 2, 3]}); alias = frame; column = frame["v"]
lazy = frame.lazy().filter(pl.col("k") == "a").select(pl.col("v") * 2); doubled = pl.col("v") * 2
groups = frame.group_by("k", maintain_order=True); dtype = pl.Int64; schema = frame.schema
"""
        )
    )
    assert new["alias"] is new["frame"] and new["column"].to_list() == [1, 2, 3]
    assert new["lazy"].collect()["v"].to_list() == [2, 6]
    assert new["frame"].select(new["doubled"])["v"].to_list() == [2, 4, 6]
    assert new["groups"].len()["len"].to_list() == [2, 1]
    new["frame"][0, "v"] = 9
    assert new["column"].to_list() == [1, 2, 3] and new["alias"]["v"][0] == 9


@pytest.mark.parametrize("query", ["pl.col('v').map_batches(lambda s: s + k)", "frame.lazy().map_batches(lambda f: f)"])
def test_polars_query_with_a_function_is_reported(query: str) -> None:
    pytest.importorskip("polars")
    with pytest.raises(NotRestorable, match="Python function"):
        roundtrip(cell(f"import polars as pl\nk = 1\nframe = pl.DataFrame({{'v': [1]}})\nquery = {query}"))
