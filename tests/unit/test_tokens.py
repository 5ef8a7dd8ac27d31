"""Tokens that have ended: what is kept of them, and for how long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event, insert, update

from jupyter_gpuaas.controller import auth
from jupyter_gpuaas.controller.auth import ENDED_S, OF_A_FOLDER, Tokens
from jupyter_gpuaas.controller.catalogue import tables
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.records import Role
from jupyter_gpuaas.controller.catalogue.users import token_details
from jupyter_gpuaas.errors import InvalidRequest, Unauthorized

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


class Homes:
    """Controllers with home folders of their own, which act one after the other."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        database.is_shared = True

    def file(self, name: str) -> Path:
        return self._folder / name / "token"

    def token(self, name: str) -> str:
        return self.file(name).read_text().strip()

    def acts(self, name: str) -> Tokens:
        self.file(name).parent.mkdir(exist_ok=True)
        tokens = Tokens(self._database)
        tokens.ensure_file(self.file(name))
        return tokens

    def labelled_as_before(self) -> None:
        """Labels are what they were before they named the folder."""
        with self._database.writing() as connection:
            connection.execute(update(token_details).values(label=OF_A_FOLDER))


@pytest.fixture
def homes(database: Database, tmp_path: Path) -> Homes:
    return Homes(database, tmp_path)


def is_valid(tokens: Tokens, token: str) -> bool:
    try:
        return tokens.check(f"Bearer {token}").is_admin
    except Unauthorized:
        return False


def test_token_of_a_home_folder_is_valid_whichever_controller_acts(homes: Homes) -> None:
    homes.acts("a")
    homes.acts("b")
    for name in "abab":
        tokens = homes.acts(name)
        assert is_valid(tokens, homes.token("a")) and is_valid(tokens, homes.token("b"))
        assert len({view.label for view in tokens.views()}) == 2
        assert len(tokens.whom_it_runs_as()) == 1


def test_token_whose_file_was_removed_goes_with_the_next_start_and_those_of_other_folders_stay(homes: Homes) -> None:
    homes.acts("b")
    homes.acts("a")
    former = homes.token("a")
    homes.file("a").unlink()
    tokens = homes.acts("a")
    assert not is_valid(tokens, former)
    assert is_valid(tokens, homes.token("a")) and is_valid(tokens, homes.token("b"))


@pytest.mark.parametrize("is_shared", [True, False])
def test_token_that_an_earlier_version_has_labelled_is_its_folders_and_stays_valid(
    homes: Homes, database: Database, is_shared: bool
) -> None:
    homes.acts("a")
    homes.acts("b")
    homes.labelled_as_before()
    database.is_shared = is_shared
    tokens = homes.acts("a")
    assert is_valid(tokens, homes.token("a"))
    # On a database of one's own, the other one was in this folder before.
    assert is_valid(tokens, homes.token("b")) == is_shared
    tokens = homes.acts("b")
    assert len({view.label for view in tokens.views()}) == len(tokens.views()) == (2 if is_shared else 1)
    assert all(view.label.startswith(f"{OF_A_FOLDER} ") for view in tokens.views())


def test_token_of_another_folder_can_be_revoked_and_is_not_valid_again_when_its_controller_acts(homes: Homes) -> None:
    homes.acts("a")
    tokens = homes.acts("b")
    revoked, kept = homes.token("a"), homes.token("b")
    other, own = sorted(tokens.views(), key=lambda view: view.label == tokens._mine)
    with pytest.raises(InvalidRequest, match="own folder"):
        tokens.revoke(own.id)
    tokens.revoke(other.id)
    assert not is_valid(tokens, revoked)
    tokens = homes.acts("a")
    assert not is_valid(tokens, revoked)
    assert is_valid(tokens, homes.token("a")) and is_valid(tokens, kept)
    assert homes.token("a") != revoked
