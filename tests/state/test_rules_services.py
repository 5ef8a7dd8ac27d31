"""Loggers, context variables, matches, databases: things that the standard library keeps for the notebook."""

from __future__ import annotations

import decimal
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_gpuaas.state.rules.registry import NotRestorable

from .roundtrip import cell, roundtrip


@pytest.fixture
def mine() -> Iterator[None]:
    yield
    for name in [name for name in logging.Logger.manager.loggerDict if name.startswith("mine")]:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()


def test_loggers_come_back_with_what_was_set(mine: None, tmp_path: Path) -> None:
    made = cell(
        f"""
import logging, sys
log = logging.getLogger("mine.a"); log.setLevel(10); log.propagate = False
h = logging.StreamHandler(sys.stdout); h.setFormatter(logging.Formatter("%(message)s")); h.set_name("mine")
f = logging.FileHandler({str(tmp_path / "log")!r}, mode="w"); log.addHandler(h)
log.addHandler(f); log.warning("one")
log.addFilter(lambda record: record.msg != "no")
manager = logging.Logger.manager
adapter = logging.LoggerAdapter(log, {{"x": 1}}); alone = logging.Logger("mine.alone"); root = logging.getLogger("mine")
"""
    )
    logger = logging.getLogger("mine.a")
    new, context, _ = roundtrip(made)
    assert new["log"] is logger and logger.handlers == [new["h"], new["f"]] and logger.level == 10
    assert not logger.propagate and new["h"].get_name() == "mine" and new["f"].mode == "w"
    logger.info("two")
    logger.info("no")
    made["f"].close()
    new["f"].close()
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert new["adapter"].logger is logger and new["manager"] is logging.Logger.manager
    assert new["alone"] is not logging.getLogger("mine.alone") and new["alone"].name == "mine.alone"
    assert "logging" in context.escapes


def test_context_variables() -> None:
    decimal.setcontext(decimal.Context())
    made = cell(
        """
import contextvars, decimal
v = contextvars.ContextVar("v", default=[1])
w = contextvars.ContextVar("w"); w.set(v); u = contextvars.ContextVar("u")
context = contextvars.Context(); context.run(v.set, 3)
numbers = decimal.getcontext(); numbers.prec = 11; other = decimal.Context(prec=3); preset = decimal.BasicContext
from jupyter_gpuaas.state.rules.registry import _restoring as foreign
"""
    )
    new, _, _ = roundtrip(made)
    assert new["v"].get() == [1] and new["w"].get() is new["v"] and new["context"][new["v"]] == 3
    with pytest.raises(LookupError):
        new["u"].get()
    assert new["numbers"] is decimal.getcontext() and decimal.getcontext().prec == 11
    assert new["other"].prec == 3 and new["preset"] is decimal.BasicContext and new["foreign"] is made["foreign"]
    decimal.setcontext(decimal.Context())
    with pytest.raises(NotRestorable, match="token"):
        roundtrip(cell("import contextvars\nx = contextvars.ContextVar('x').set(1)"))


def test_matches_are_found_again() -> None:
    made = cell(
        """
import re
p = re.compile("(a)(b)?|c"); many = list(p.finditer("xabcaa")); one = p.search("xxab", 1); full = p.fullmatch("ab")
empty = re.match("", "a"); behind = list(re.finditer(r"(?<=a)b|$", "abab")); raw = re.search(b"a+", b"baaa")
"""
    )
    new, _, _ = roundtrip(made)

    def told(match: object) -> tuple[object, ...]:
        return tuple(getattr(match, name) for name in ("regs", "pos", "endpos", "lastindex", "lastgroup", "string"))

    for name in ("one", "full", "empty", "raw"):
        assert told(new[name]) == told(made[name])
    for name in ("many", "behind"):
        assert list(map(told, new[name])) == list(map(told, made[name]))
    assert new["one"].re is new["p"]


def test_databases(tmp_path: Path) -> None:
    made = cell(
        f"""
import sqlite3
m = sqlite3.connect(":memory:"); m.execute("create table t(a, b)"); m.execute("insert into t values (1, 'x')")
m.commit()
m.row_factory = sqlite3.Row; empty = sqlite3.connect(":memory:")
f = sqlite3.connect({str(tmp_path / "x ?.db")!r}, isolation_level=None)
f.execute("create table t(a)"); f.execute("insert into t values (5)"); f.execute("pragma foreign_keys=on")
f.create_function("twice", 1, lambda x: 2 * x)
row = m.execute("select a, b as c from t").fetchone(); cursor = m.cursor()
closed = sqlite3.connect(":memory:"); closed.close()
"""
    )
    new, context, _ = roundtrip(made)
    for name in ("m", "empty", "f"):
        made[name].close()
    assert new["m"].execute("select * from t").fetchone()["b"] == "x" and new["cursor"].connection is new["m"]
    assert new["f"].execute("select a from t").fetchall() == [(5,)] and new["f"].isolation_level is None
    assert new["f"].execute("pragma foreign_keys").fetchall() == [(1,)]
    assert new["row"]["c"] == "x" and new["empty"].execute("select 1").fetchone() == (1,)
    with pytest.raises(sqlite3.ProgrammingError):
        new["closed"].execute("select 1")
    assert any("twice" in how for how in context.rebuilds)
    for name in ("m", "empty", "f"):
        new[name].close()


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        ("m.execute('create table t(a)'); m.execute('insert into t values (1)')", "transaction"),
        ("m.execute('create temp table t(a)')", "temporary"),
        ("c = m.execute('select 1 union select 2'); next(c)", "fetched"),
    ],
)
def test_database_that_is_at_work_is_refused(act: str, reason: str) -> None:
    made = cell(f"import sqlite3\nm = sqlite3.connect(':memory:')\n{act}")
    with pytest.raises(NotRestorable, match=reason):
        roundtrip(made)
    made["m"].close()
