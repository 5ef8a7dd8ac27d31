"""Tokens that have ended: what is kept of them, and for how long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event, insert

from jupyter_gpuaas.controller import auth
from jupyter_gpuaas.controller.auth import ENDED_S, Tokens
from jupyter_gpuaas.controller.catalogue import tables
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.records import Role
from jupyter_gpuaas.errors import Unauthorized

#: Values that any SQLite takes in one statement.
FEWEST_VALUES = 999


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "c.db", events_kept=10)
    yield opened
    opened.close()


def test_ended_token_is_told_for_a_day_and_forgotten_with_the_next_that_is_made(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, began_s = Tokens(database), time.time()
    short = tokens.create("ann", Role.USER, ttl_s=10.0)
    tokens.create("ann", Role.USER, ttl_s=10 * ENDED_S)
    for later_s, why, left in ((60.0, "expired", 3), (ENDED_S + 60.0, "not known", 3)):
        monkeypatch.setattr(auth, "time", SimpleNamespace(time=lambda later_s=later_s: began_s + later_s))
        tokens.create("bob", Role.USER)
        with pytest.raises(Unauthorized, match=why):
            tokens.check(f"Bearer {short.token}")
        assert len(database.tokens()) == len(tokens._known) == len(tokens._rows.details()) == left
    assert len(Tokens(database).views("ann")) == 1


def test_any_number_of_ended_tokens_is_forgotten_at_the_start(database: Database) -> None:
    ended: list[dict[str, Any]] = [
        {"digest": f"{number:064x}", "user": "ann", "role": "user", "created_s": 1.0, "expires_s": 2.0}
        for number in range(3 * FEWEST_VALUES)
    ]
    with database.writing() as connection:
        connection.execute(insert(tables.tokens), ended)
    counts: list[int] = []
    event.listen(
        database._engine,
        "before_cursor_execute",
        lambda connection, cursor, statement, values, context, many: counts.append(0 if many else len(values)),
    )
    assert Tokens(database).views() == []
    assert database.tokens() == []
    assert 0 < max(counts) <= FEWEST_VALUES
