# ruff: noqa: S608 - statements of our own, against a database made for the test
"""The tables that queries use are the tables that the migrations make."""

import sqlite3
import warnings
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from stores import database as module
from stores.database import HEAD, LARGE, METADATA, Database
from transforms.errors import UsageError


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrations") / "app.db"
    Database.at(path).migrate()
    return path


def test_the_newest_migration_is_the_one_that_is_asked_for(path: Path):
    scripts = ScriptDirectory(str(Path(module.__file__).parent / "migrations"))
    assert scripts.get_heads() == [HEAD]
    assert Database.at(path).revision() == HEAD


def test_the_declared_tables_are_those_that_the_migrations_make(path: Path):
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = [one for one in compare_metadata(context, METADATA) if not _is_an_index(one)]
    engine.dispose()
    assert differences == []


def _is_an_index(difference: object) -> bool:
    """Indexes make queries fast; they are declared in the migrations alone."""
    return isinstance(difference, tuple) and str(difference[0]).endswith("_index")


@pytest.mark.parametrize("table", METADATA.sorted_tables, ids=lambda table: table.name)
def test_columns_keys_and_nullability_agree(path: Path, table: sa.Table):
    engine = sa.create_engine(f"sqlite:///{path}")
    inspector = sa.inspect(engine)
    columns = {one["name"]: one for one in inspector.get_columns(table.name)}
    assert list(columns) == [one.name for one in table.columns]
    for declared in table.columns:
        made = columns[declared.name]
        wanted = sa.Integer if declared.type is LARGE else type(declared.type)
        assert isinstance(made["type"], wanted), declared
        assert declared.primary_key or made["nullable"] == declared.nullable, declared
    keys = inspector.get_pk_constraint(table.name)["constrained_columns"]
    assert keys == [one.name for one in table.primary_key.columns]
    made_foreign = {
        (one["constrained_columns"][0], one["referred_table"]) for one in inspector.get_foreign_keys(table.name)
    }
    assert made_foreign == {(one.parent.name, one.column.table.name) for one in table.foreign_keys}
    engine.dispose()


def test_migrating_again_changes_nothing(path: Path):
    with sqlite3.connect(path) as database:
        before = database.execute("select * from sqlite_master order by name").fetchall()
    Database.at(path).migrate()
    with sqlite3.connect(path) as database:
        assert database.execute("select * from sqlite_master order by name").fetchall() == before


def test_no_warning_is_raised_by_a_migration(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Database.at(tmp_path / "app.db").migrate()


def test_an_empty_database_and_one_of_another_release_are_refused(tmp_path: Path):
    empty = Database.at(tmp_path / "app.db")
    with pytest.raises(UsageError, match="lockhouse init"):
        empty.require()
    empty.migrate()
    empty.require()
    with empty.begin() as connection:
        connection.execute(sa.text("update alembic_version set version_num = '9999'"))
    with pytest.raises(UsageError, match="another release"):
        empty.require()


@pytest.mark.parametrize("table", ["audit", "audit_checkpoints"])
@pytest.mark.parametrize("change", ["delete from {}", "update {} set tenant = 'x'"])
def test_the_audit_trail_can_only_be_added_to(path: Path, table: str, change: str, tmp_path: Path):
    database = sqlite3.connect(":memory:")
    with sqlite3.connect(path) as made:
        made.backup(database)
    columns = len(database.execute(f"pragma table_info({table})").fetchall())
    database.execute(f"insert into {table} values ({', '.join(['1'] * columns)})")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute(change.format(table))
    database.close()


def test_every_commit_is_synced_and_deleted_bytes_are_overwritten(path: Path):
    with Database.at(path).begin() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"pragma {name}").scalar()
            for name in ("synchronous", "secure_delete", "foreign_keys", "journal_mode")
        }
    assert pragmas == {"synchronous": 2, "secure_delete": 1, "foreign_keys": 1, "journal_mode": "wal"}
