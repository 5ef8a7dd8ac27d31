"""Brings a database to the schema of this code, and refuses one that newer code has made.

A new database gets all tables at once; an older one goes through the steps in ``schema/versions`` (Alembic), each in
its transaction. A database from before there were versions is taken for the one that the first step makes. Revisions
are numbers, and a file ``vNNNN_what.py`` holds revision NNNN: what this code knows is told without running any.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, insert, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError

from jupyter_gpuaas.controller.catalogue.opening import address, make_engine
from jupyter_gpuaas.controller.catalogue.tables import FREE_LEASE, controller_lease
from jupyter_gpuaas.errors import CatalogueError

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "schema"
_FILE = re.compile(r"v(\d{4})_\w+\.py")
#: Of PostgreSQL's advisory lock that is held while the schema is changed: any number that nobody else would take.
_LOCK = 0x677075616173
_version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def known() -> list[str]:
    """Revisions that this code knows, oldest first."""
    found = [_FILE.fullmatch(path.name) for path in (FOLDER / "versions").iterdir()]
    return sorted(match.group(1) for match in found if match is not None)


def bring_up(engine: Engine) -> None:
    """Make the tables, or change those that are there.

    Raises
    ------
    CatalogueError
        The database is of newer code. Nothing was changed.
    """
    # Here, because files with tables of their own read and write them, too.
    from jupyter_gpuaas.controller.catalogue.all_tables import metadata

    revisions = known()
    with engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            # Else its driver would begin at the first row that is written, and leave tables out of the transaction.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(select(text("pg_advisory_xact_lock(:key)").bindparams(key=_LOCK)))
        found = version_of(connection)
        if found == revisions[-1]:
            return
        if found is None:
            metadata.create_all(connection)
            connection.execute(insert(controller_lease).values(FREE_LEASE))
            _version.create(connection)
            connection.execute(insert(_version).values(version_num=revisions[-1]))
            return
        if found and found not in revisions:
            raise CatalogueError(
                f"the service's database has the schema {found}, which is newer than this version of jupyter_gpuaas "
                f"knows ({revisions[-1]}).",
                hint="Install the version that has last used it, or a newer one.",
            )
        log.info("the database goes from schema %s to %s", found or "0000", revisions[-1])
        _upgrade(connection)


def look_at(where: str | Path) -> tuple[str | None, str]:
    """Revision of a database, as of ``version_of``, and the newest that this code knows. Changes nothing.

    Raises
    ------
    CatalogueError
        It does not answer.
    """
    engine = make_engine(address(where))
    try:
        with engine.connect() as connection:
            return version_of(connection), known()[-1]
    except SQLAlchemyError as error:
        raise CatalogueError(f"the service's database: {getattr(error, 'orig', None) or error}.") from error
    finally:
        engine.dispose()


def version_of(connection: Connection) -> str | None:
    """Revision of a database: None where it has no tables, empty where it has tables and no revision."""
    names = set(inspect(connection).get_table_names())
    if _version.name in names:
        found: str | None = connection.execute(select(_version.c.version_num)).scalar()
        if found is not None:
            return found
    return "" if "sessions" in names else None


def _upgrade(connection: Connection) -> None:
    # Here, because a tenth of a second is much for the many starts that change nothing.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
