"""What the service remembers, on every database that it can be kept in."""

from __future__ import annotations

import itertools
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, update

from jupyter_gpuaas import errors
from jupyter_gpuaas.controller.catalogue import schema_version, tables
from jupyter_gpuaas.controller.catalogue.acting import ActingLease
from jupyter_gpuaas.controller.catalogue.all_tables import metadata
from jupyter_gpuaas.controller.catalogue.cordons import CordonRows
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.drains import Drain, DrainRows
from jupyter_gpuaas.controller.catalogue.opening import address, make_engine
from jupyter_gpuaas.controller.catalogue.records import Role, SessionRecord, TokenRecord
from jupyter_gpuaas.lifecycle.acting import Row
from jupyter_gpuaas.model import (
    LIVE_STATES,
    DrainView,
    GpuSession,
    ResourceRequest,
    SessionState,
    check_name,
    check_user,
)
from jupyter_gpuaas.model.service import MAX_USER_CHARS
from jupyter_gpuaas.model.session import MAX_NAME_BYTES
from tests.postgres import Server, need_postgres

S = SessionState
Open = Callable[[], Database]


@pytest.fixture(params=["sqlite", "postgresql"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str | Path]:
    """Says where an empty database is, each time another one."""
    if request.param == "sqlite":
        return map(tmp_path.joinpath, map("{}.db".format, itertools.count())).__next__
    need_postgres()
    server: Server = request.getfixturevalue("postgres")
    return server.new_database


@pytest.fixture
def where(new_place: Callable[[], str | Path]) -> str | Path:
    """Where an empty database is."""
    return new_place()


@pytest.fixture
def opened(where: str | Path) -> Iterator[Open]:
    """Opens the same database again and again."""
    made: list[Database] = []

    def open_it() -> Database:
        made.append(Database(where, events_kept=10))
        return made[-1]

    yield open_it
    for database in made:
        database.close()


def record(session_id: str, name: str = "n", state: S = S.QUEUED, owner: str = "ann") -> SessionRecord:
    session = GpuSession(
        id=session_id, name=name, owner=owner, state=state, epoch=0, request=ResourceRequest(), created_s=1.0
    )
    return SessionRecord(session=session, secret="secret", env={"A": "b"})


def test_database_gives_back_what_was_stored_in_order(opened: Open) -> None:
    database = opened()
    stored = [database.store(record(f"s{n}", f"n{n}"), new=True, kind="transition") for n in range(3)]
    database.close()
    again = opened()
    assert again.unfinished() == stored
    assert again.session("s1") == stored[1]
    assert [each.session.last_event for each in stored] == [1, 2, 3]


def test_database_pages_have_each_session_once_in_its_order(opened: Open) -> None:
    database = opened()
    for n in range(7):
        state = S.CLOSED if n % 3 == 0 else S.QUEUED
        owner = "bob" if n == 5 else "ann"
        database.store(record(f"s{n}", f"n{n}", state, owner), new=True, kind="transition")

    def pages(owner: str | None, *, ended: bool, limit: int) -> list[list[str]]:
        found: list[list[str]] = []
        while not found or len(found[-1]) == limit:
            after = found[-1][-1] if found else ""
            found.append([each for each, _ in database.page(owner, ended=ended, after=after, limit=limit)])
        return found

    assert pages(None, ended=True, limit=3) == [["s0", "s1", "s2"], ["s3", "s4", "s5"], ["s6"]]
    assert pages("ann", ended=True, limit=3) == [["s0", "s1", "s2"], ["s3", "s4", "s6"], []]
    assert pages("ann", ended=False, limit=2) == [["s1", "s2"], ["s4"]]
    ((found, stored),) = database.page("ann", ended=True, name="n2", limit=9)
    assert (found, database.record_of(stored).session.name) == ("s2", "n2")
    # One that ends in between is still where the next page begins.
    database.store(record("s1", "n1", S.CLOSED), kind="transition")
    assert [each for each, _ in database.page("ann", ended=False, after="s1", limit=9)] == ["s2", "s4"]
    for after in ("s5", "none"):
        with pytest.raises(errors.InvalidRequest, match="after"):
            database.page("ann", ended=True, after=after, limit=9)


def test_database_second_live_session_of_a_name_is_impossible(opened: Open) -> None:
    database = opened()
    first = database.store(record("s0"), new=True, kind="transition")
    with pytest.raises(errors.CatalogueError, match=r"(?i)unique"):
        database.store(record("s1"), new=True, kind="transition")
    assert len(database.events(after=0, limit=9)) == 1, "the event went with its session"
    database.store(record("s2", owner="bob"), new=True, kind="transition")
    ended = msgspec.structs.replace(first.session, state=S.CLOSED)
    database.store(msgspec.structs.replace(first, session=ended), kind="transition")
    database.store(record("s1"), new=True, kind="transition")


def test_database_takes_the_longest_names(opened: Open) -> None:
    # Nothing in them repeats, so that no index makes them smaller.
    signs = iter(random.Random(7).sample([chr(code) for code in range(0x20000, 0x2A000)], 700))
    owner = check_user("".join(itertools.islice(signs, MAX_USER_CHARS)))
    name = check_name("".join(itertools.islice(signs, MAX_NAME_BYTES // 4)))
    assert len((owner + name).encode()) == 4 * MAX_USER_CHARS + MAX_NAME_BYTES
    database = opened()
    stored = database.store(record("s0", name, owner=owner), new=True, kind="transition")
    assert database.unfinished() == [stored]
    with pytest.raises(ValueError, match=r"name: has 1604 bytes"):
        check_name(name + next(signs))


def test_database_store_only_if_nothing_else_has_happened(opened: Open) -> None:
    database = opened()
    first = database.store(record("s0"), new=True, kind="transition")
    second = database.store(first, kind="session", expected_event=first.session.last_event)
    with pytest.raises(errors.StaleEpoch):
        database.store(first, kind="session", cause="too late", expected_event=first.session.last_event)
    assert database.session("s0") == second
    assert [event.cause for event in database.events(after=0, limit=9)] == ["", ""]


def test_database_keeps_the_newest_events_and_never_gives_a_number_twice(opened: Open) -> None:
    database = opened()
    numbers = [database.announce(kind="service", cause=str(n)) for n in range(50)]
    assert numbers == list(range(1, 51))
    kept = database.events(after=0, limit=100)
    assert [event.seq for event in kept] == list(range(41, 51))
    database.close()
    assert opened().announce(kind="service") == 51


def test_database_events_of_ended_sessions_go_with_their_sessions(opened: Open) -> None:
    database = opened()
    database.store(record("s0", state=S.CLOSED), new=True, kind="transition")
    database.store(record("s1"), new=True, kind="transition")
    for _ in range(30):
        database.announce(kind="service")
    assert database.session("s0") is None
    assert database.session("s1") is not None


@pytest.mark.parametrize("cause", ["a\0b", "half a pair: \ud800", "\N{SNOWMAN}\n'\"\\%"])
def test_database_takes_whatever_a_kernel_said(opened: Open, cause: str) -> None:
    database = opened()
    database.announce(kind="service", cause=cause, detail={"said": cause})
    (event,) = database.events(after=0, limit=9)
    assert event.cause == cause.replace("\0", "\ufffd").replace("\ud800", "?")
    assert event.detail == {"said": cause}


def test_database_events_become_visible_in_their_order(opened: Open) -> None:
    database = opened()
    begun, seen = threading.Barrier(5), []

    def announce() -> None:
        begun.wait()
        for _ in range(20):
            database.announce(kind="service")

    # The bound is 10: the reader looks for holes among what there is, as a stream does.
    database._events_kept = 1000
    writers = [threading.Thread(target=announce) for _ in range(4)]
    for writer in writers:
        writer.start()
    begun.wait()
    while len(seen) < 80:
        seen += [event.seq for event in database.events(after=seen[-1] if seen else 0, limit=1000)]
        assert seen == list(range(1, len(seen) + 1)), "a number came after a higher one"
    for writer in writers:
        writer.join()


def test_database_tokens_and_keys_last(opened: Open) -> None:
    database = opened()
    token = TokenRecord(digest="d" * 64, user="ann", role=Role.USER, created_s=1.5, expires_s=2.5)
    database.add_token(token)
    key = database.checkpoint_key("ann")
    database.close()
    again = opened()
    assert again.tokens() == [token]
    assert again.checkpoint_key("ann") == key != again.checkpoint_key("bob")
    again.drop_tokens([token.digest])
    assert again.tokens() == []


def test_database_drains_last_and_are_one_a_node(opened: Open) -> None:
    database = opened()
    view = DrainView(node="a", deadline_s=5.0, left=("x",), refused={"x": "no room"})
    DrainRows(database).keep(Drain(view=view, cause="asked", accept_loss=True))
    database.close()
    rows = DrainRows(opened())
    assert rows.all() == [Drain(view=view, cause="asked", accept_loss=True)]
    later = Drain(view=DrainView(node="a", deadline_s=6.0, done=True), cause="again", accept_loss=False)
    rows.keep(later)
    assert rows.all() == [later]
    rows.forget("a")
    assert rows.all() == []


def test_database_cordons_last_and_those_of_a_file_are_taken_over_once(opened: Open, tmp_path: Path) -> None:
    database = opened()
    former = tmp_path / "cordons.json"
    former.write_bytes(b'["a","b"]')
    rows = CordonRows(database)
    rows.set("b", cordoned=True)
    rows.set("b", cordoned=True)
    rows.take_over(former)
    assert rows.all() == {"a", "b"} and not former.exists()
    rows.set("a", cordoned=False)
    database.close()
    again = CordonRows(opened())
    again.take_over(former)
    assert again.all() == {"b"}


# -- schema -------------------------------------------------------------------------------------------------


def differences(where: str | Path) -> list[object]:
    engine = make_engine(address(where))
    with engine.connect() as connection:
        options = {"compare_type": True, "include_name": _is_no_sequence}
        found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    engine.dispose()
    return list(found)


def indexes(where: str | Path) -> dict[str, str]:
    """How the database itself says that its indexes were made: what is compared above passes over their conditions."""
    engine = make_engine(address(where))
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    if engine.dialect.name != "sqlite":
        query = (
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename != 'alembic_version'"
        )
    with engine.connect() as connection:
        found = {name: " ".join(sql.split()) for name, sql in connection.exec_driver_sql(query)}
    engine.dispose()
    return found


def _is_no_sequence(name: str | None, kind: str, _: object) -> bool:
    return name not in ("alembic_version", "sqlite_sequence")


def test_schema_made_at_once_and_step_by_step_is_the_same(new_place: Callable[[], str | Path]) -> None:
    where, another = new_place(), new_place()
    engine = make_engine(address(where))
    with engine.begin() as connection:
        schema_version._upgrade(connection)
    stepwise = inspect(engine).get_table_names()
    engine.dispose()
    assert differences(where) == []
    Database(another, events_kept=10).close()
    assert indexes(where) == indexes(another)
    assert all(state.value in indexes(where)["one_live_session_per_name"] for state in LIVE_STATES)
    database = Database(where, events_kept=10)
    database.announce(kind="service")
    assert ActingLease(database, holder="me", url="", ttl_s=1.0).look() == Row(0, 0, "", "", 0.0)
    database.close()
    assert {*metadata.tables, "alembic_version"} <= set(stepwise)


def test_schema_of_a_new_database_is_that_of_the_tables(opened: Open, where: str | Path) -> None:
    database = opened()
    assert differences(where) == []
    assert ActingLease(database, holder="me", url="", ttl_s=1.0).look() == Row(0, 0, "", "", 0.0)


def test_schema_revisions_are_a_chain_without_branches() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(schema_version.FOLDER))
    steps = list(ScriptDirectory.from_config(config).walk_revisions())
    assert [step.revision for step in reversed(steps)] == schema_version.known()
    for step in steps:
        assert Path(step.path).name.startswith(f"v{step.revision}_")


def test_schema_newer_than_the_code_is_refused_and_left_alone(opened: Open, where: str | Path) -> None:
    database = opened()
    database.announce(kind="service")
    with database.writing() as connection:
        connection.execute(update(schema_version._version).values(version_num="9999"))
    database.close()
    with pytest.raises(errors.CatalogueError, match=r"9999.*newer") as refused:
        opened()
    assert refused.value.hint
    engine = make_engine(address(where))
    with engine.connect() as connection:
        assert schema_version.version_of(connection) == "9999"
    engine.dispose()


#: As services made it before there were versions; SQLite keeps these words.
_BEFORE = """
CREATE TABLE sessions (number INTEGER NOT NULL, id VARCHAR(64) NOT NULL, name TEXT NOT NULL,
  owner VARCHAR(256) NOT NULL, state VARCHAR(32) NOT NULL, last_event INTEGER NOT NULL, record BLOB NOT NULL,
  PRIMARY KEY (number), UNIQUE (id));
CREATE INDEX ix_sessions_state ON sessions (state);
CREATE UNIQUE INDEX one_live_session_per_name ON sessions (owner, name) WHERE state IN
  ('busy', 'idle', 'lost', 'migrating', 'parked', 'queued', 'restoring', 'starting');
CREATE TABLE events (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, time_s FLOAT NOT NULL, kind VARCHAR(32) NOT NULL,
  session_id VARCHAR(64) NOT NULL, owner VARCHAR(256) NOT NULL, source VARCHAR(32) NOT NULL,
  target VARCHAR(32) NOT NULL, cause TEXT NOT NULL, epoch INTEGER NOT NULL, detail JSON NOT NULL);
CREATE INDEX ix_events_session_id ON events (session_id);
CREATE TABLE tokens (digest VARCHAR(64) NOT NULL, user VARCHAR(256) NOT NULL, role VARCHAR(16) NOT NULL,
  created_s FLOAT NOT NULL, expires_s FLOAT NOT NULL, PRIMARY KEY (digest));
CREATE TABLE checkpoint_keys (owner VARCHAR(256) NOT NULL, key VARCHAR(128) NOT NULL, PRIMARY KEY (owner));
"""


@pytest.mark.parametrize("has_keys", [True, False])
def test_schema_from_before_versions_is_taken_over_without_loss(tmp_path: Path, has_keys: bool) -> None:
    path = tmp_path / "c.db"
    before = _BEFORE if has_keys else _BEFORE.partition("CREATE TABLE checkpoint_keys")[0]
    with sqlite3.connect(path) as connection:
        connection.executescript(before)
        kept = record("s0")
        row = (7, "s0", "n", "ann", "queued", 41, msgspec.json.encode(kept))
        connection.execute("INSERT INTO sessions VALUES (?,?,?,?,?,?,?)", row)
        connection.execute("INSERT INTO events VALUES (41,1.5,'transition','s0','ann','','queued','c',0,'{}')")
        connection.execute("INSERT INTO tokens VALUES ('d','ann','user',1.0,0.0)")
        if has_keys:
            connection.execute("INSERT INTO checkpoint_keys VALUES ('ann','abc')")
    connection.close()
    database = Database(path, events_kept=10)
    assert database.unfinished() == [kept]
    assert [event.seq for event in database.events(after=0, limit=9)] == [41]
    assert [token.user for token in database.tokens()] == ["ann"]
    assert (database.checkpoint_key("ann") == "abc") == has_keys
    assert database.announce(kind="service") == 42
    database.close()
    assert differences(path) == []
    Database(tmp_path / "new.db", events_kept=10).close()
    assert indexes(path) == indexes(tmp_path / "new.db")


def test_schema_step_that_fails_leaves_the_database_as_it_was(
    where: str | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(address(where))
    with engine.begin() as connection:
        tables.sessions.create(connection)

    def upgrade_and_fail(connection: object) -> None:
        connection.exec_driver_sql("CREATE TABLE half (a INTEGER)")  # type: ignore[attr-defined]
        connection.exec_driver_sql("CREATE TABLE half (a INTEGER)")  # type: ignore[attr-defined]

    monkeypatch.setattr(schema_version, "_upgrade", upgrade_and_fail)
    with pytest.raises(errors.CatalogueError):
        Database(where, events_kept=10)
    assert inspect(engine).get_table_names() == ["sessions"]
    engine.dispose()


# -- which controller acts ------------------------------------------------------------------------------------


def test_lease_is_taken_by_one_and_only_as_it_was_seen(opened: Open) -> None:
    first, second = (ActingLease(opened(), holder=name, url=f"http://{name}", ttl_s=9.0) for name in "ab")
    seen = first.look()
    assert first.take(seen)
    assert not second.take(seen), "somebody else was quicker"
    held = second.look()
    assert held == Row(1, 0, "a", "http://a", 9.0, first.key) and first.key != second.key
    assert first.renew()
    assert not second.take(held), "its holder has moved since"
    assert second.take(second.look())
    assert not first.renew()
    first.give_back(over=False)
    assert second.look().holder == "b", "who has lost it gives nothing back"
    second.give_back(over=True)
    assert (first.look().holder, first.look().ttl_s) == ("", -1.0)


def test_key_counts_in_the_term_of_its_holder_only(opened: Open) -> None:
    """A controller from before there were keys takes over, and leaves the one that it finds."""
    database = opened()
    lease = ActingLease(database, holder="new", url="", ttl_s=1.0)
    assert lease.take(lease.look())
    assert lease.look().key == lease.key != ""
    with database.unfenced() as connection:
        connection.execute(update(tables.controller_lease).values(term=2, holder="old"))
    assert lease.look() == Row(2, 0, "old", "", 1.0)


def test_fence_refuses_what_a_former_controller_writes(opened: Open) -> None:
    former, database = opened(), opened()
    old = ActingLease(former, holder="old", url="", ttl_s=1.0)
    assert old.take(old.look())
    stored = former.store(record("s0"), new=True, kind="transition")
    new = ActingLease(database, holder="new", url="", ttl_s=1.0)
    assert new.take(new.look())
    with pytest.raises(errors.NotActing):
        former.store(stored, kind="session", cause="too late")
    with pytest.raises(errors.NotActing):
        former.announce(kind="service")
    with pytest.raises(errors.NotActing):
        former.checkpoint_key("ann")
    database.store(stored, kind="session", cause="in time")
    assert [event.cause for event in former.events(after=0, limit=9)] == ["", "in time"]


# -- addresses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["mysql://u:secret@h/d", "sqlite://", "sqlite:///:memory:", "no address: secret", "postgresql+asyncpg://h/d"]
)
def test_address_that_cannot_be_used_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(errors.SettingError, match="database_url") as refused:
        Database(url, events_kept=10)
    assert "secret" not in str(refused.value)


def test_server_that_does_not_answer_is_told_without_secrets(tmp_path: Path) -> None:
    with pytest.raises(errors.CatalogueError) as refused:
        Database(f"postgresql://ann:secret@/d?host={tmp_path}", events_kept=10)
    assert "secret" not in str(refused.value)


def test_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    database = Database(tmp_path / "c.db", events_kept=10)
    database.announce(kind="service")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("c.db*")} == {0o600}
    database.close()
