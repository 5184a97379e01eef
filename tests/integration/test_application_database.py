# ruff: noqa: S608 - statements of our own, against a database made for the test
"""The application database on a real PostgreSQL: what holds on SQLite holds there."""

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from orchestration.resources import Platform
from stores.approvals import GRANTED
from stores.database import HEAD, METADATA, Database
from stores.database_connections import alembic_config, read_database_address
from stores.idempotency import Answer
from stores.settings import Settings, load_settings
from transforms.access import Role
from transforms.audit import Action, Outcome, first_bad
from transforms.errors import DatabaseError, NotYetError, RefusedError, UsageError
from waiting import LONGEST_S


@pytest.fixture
def database(postgres):
    made = Database(postgres)
    made.migrate()
    yield made
    made.close()


@pytest.fixture
def platform(tmp_path, postgres):
    """A home whose application database is in PostgreSQL, with its address in a file."""
    home, address = tmp_path / "home", tmp_path / "address"
    home.mkdir()
    address.write_text(postgres + "\n")
    (home / "settings.toml").write_text(f'database_url_file = "{address}"\n')
    made = Platform(load_settings(home))
    made.create_home("tester")
    yield made
    made.database.close()


# --- Migrations


def test_every_migration_goes_up_and_down_and_up_again(postgres, database):
    from alembic import command

    command.downgrade(alembic_config(database.url, "migrations"), "0001")
    assert database.revision() == "0001"
    command.upgrade(alembic_config(database.url, "migrations"), "head")
    assert database.revision() == HEAD


def test_the_declared_tables_are_those_that_the_migrations_make(database):
    with database.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = compare_metadata(context, METADATA)
    assert [one for one in found if not str(one[0]).endswith("_index")] == []


def test_processes_that_start_at_once_make_the_tables_once(postgres):
    made = [Database(postgres) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda one: one.migrate(), made))
    assert {one.revision() for one in made} == {HEAD}
    for one in made:
        one.close()


@pytest.mark.parametrize("table", ["audit", "audit_checkpoints"])
@pytest.mark.parametrize("change", ["delete from {}", "update {} set tenant = 'x'", "truncate {}"])
def test_the_audit_trail_can_only_be_added_to(database, postgres, table, change):
    with psycopg.connect(postgres) as connection:
        columns = connection.execute(f"select * from {table} limit 0").description
        connection.execute(f"insert into {table} values ({', '.join(['1'] * len(columns))})")
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            connection.execute(change.format(table))


def test_a_size_beyond_32_bits_is_kept(platform):
    batch = {"id": "b", "source": "captures", "tenant": "default", "received_at": "t", "state": "landed"}
    row = {**batch, "changed_at": "t", "size_bytes": 3 << 30}
    with platform.database.begin() as connection:
        connection.execute(METADATA.tables["batches"].insert().values(**row))
    assert platform.ledger.named(["b"])[0]["size_bytes"] == 3 << 30


# --- One after the other


def test_entries_that_come_at_once_make_one_chain(platform):
    def record(number):
        platform.audit.record("default", "tester", Action.QUEUE_COUNTED, Outcome.DONE, number=number)

    before = len(platform.audit.entries("default"))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(record, range(120)))
    entries = platform.audit.entries("default")
    assert len(entries) == before + 120
    assert [one.seq for one in entries] == list(range(1, len(entries) + 1))
    assert first_bad(entries) is None
    assert platform.audit.verify("default").ok


def test_what_is_written_once_is_written_once_by_many(platform):
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: platform.access.assign("ada", Role.ANALYST), range(16)))
    assert made.count(True) == 1


def test_who_reads_does_not_wait_for_who_writes(database):
    held, done = threading.Event(), threading.Event()

    def write():
        with database.begin():
            held.set()
            done.wait(LONGEST_S)

    thread = threading.Thread(target=write)
    thread.start()
    held.wait(LONGEST_S)
    assert database.rows(sa.select(METADATA.tables["tenants"])) == []
    assert thread.is_alive()  # it holds what it wrote for five minutes, or until it is told
    done.set()
    thread.join()


def test_what_breaks_off_leaves_nothing(database):
    with pytest.raises(ZeroDivisionError), database.begin() as connection:
        connection.execute(METADATA.tables["tenants"].insert().values(name="a", created_at="t"))
        _ = 1 / 0
    assert database.rows(sa.select(METADATA.tables["tenants"])) == []


# --- The stores


def test_people_sign_in_and_out(platform):
    users = platform.users
    assert users.add("iris", "correct horse battery")
    assert not users.add("iris", "correct horse battery")
    kept, session = users.sign_in("iris", "correct horse battery", "default")
    assert users.session(kept) == session
    users.sign_out(kept)
    assert users.session(kept) is None
    users.revoke("iris")
    with pytest.raises(RefusedError):
        users.sign_in("iris", "correct horse battery", "default")


def test_a_grant_covers_the_devices_of_its_group_for_its_time(platform):
    grants, device = platform.access.grants, "device-ref"
    grants.change_group("default", "lab", [device], [])
    now = datetime.now(UTC)
    grant = grants.add(
        "default", "iris", Role.INVESTIGATOR, "lab", now - timedelta(hours=1), now + timedelta(hours=1), "ada"
    )
    assert grants.devices_of("iris", "default") == [device]
    grants.revoke("default", grant)
    assert grants.devices_of("iris", "default") == []


def test_an_approval_serves_once(platform):
    approvals = platform.approvals("default")
    asked = approvals.ask("iris", "q", {"column": "ip"})
    assert approvals.ask("iris", "q", {"column": "ip"}).id == asked.id
    approvals.decide(asked.id, "ada", GRANTED)
    with ThreadPoolExecutor(4) as threads:
        taken = list(threads.map(lambda _: approvals.take("iris", "q"), range(8)))
    assert sum(one is not None for one in taken) == 1


def test_a_request_with_a_key_is_answered_the_same_again(platform):
    kept = platform.idempotency
    assert kept.begin("default", "iris", "k", "digest") is None
    with pytest.raises(NotYetError):
        kept.begin("default", "iris", "k", "digest")
    kept.finish("default", "iris", "k", Answer(201, "{}"))
    assert kept.begin("default", "iris", "k", "digest") == Answer(201, "{}")
    with pytest.raises(UsageError):
        kept.begin("default", "iris", "k", "other")


def test_what_is_asked_of_dagster_is_closed_once(platform):
    outbox = platform.outbox
    asked = outbox.ask("export", "default", {"device": "d"})
    assert [one.id for one in outbox.waiting("export")] == [asked]
    outbox.close(asked)
    assert outbox.waiting("export") == []


def test_what_is_deleted_is_in_no_file_of_the_table(platform, postgres):
    secret = "A" * 40 + "secret"
    table = METADATA.tables["devices"]
    row = {"tenant": "default", "device_ref": "r", "token": secret, "created_at": "t"}
    with platform.database.begin() as connection:
        connection.execute(table.insert().values(**row))
    with platform.database.begin() as connection:
        connection.execute(sa.delete(table))
    platform.database.settle()
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("checkpoint")
        [content] = connection.execute("select pg_read_binary_file(pg_relation_filepath('devices'))").fetchone()
    assert secret.encode() not in content


# --- Lost and found


def test_a_server_that_is_away_is_told_without_its_address():
    away = Database("postgresql://somebody:hidden@127.0.0.1:1/none")
    with pytest.raises(DatabaseError, match="cannot be reached") as raised:
        away.revision()
    assert "somebody" not in str(raised.value)
    assert "hidden" not in str(raised.value)
    away.close()


def test_connections_that_were_cut_are_made_anew(platform, postgres):
    roles = platform.access.roles
    assert roles("tester", "default")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    assert roles("tester", "default")
    assert platform.audit.record("default", "tester", Action.QUEUE_COUNTED, Outcome.DONE).seq > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"database_url": "mysql://host/db"}, "no address of PostgreSQL"),
        ({"database_url_file": "/nowhere/at/all"}, "cannot be read"),
    ],
)
def test_an_address_that_is_none_is_refused(tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        read_database_address(Settings(home=tmp_path, **settings))


# --- The whole way


def test_a_home_on_postgresql_takes_logins_and_forgets_them(lockhouse, tmp_path, postgres):
    """From the queue to the tables; then the person goes, and the certificate holds against the trail there."""
    home, person = tmp_path / "home", str(uuid.UUID(int=7, version=4))
    home.mkdir()
    (home / "settings.toml").write_text(f'database_url = "{postgres}"\n')
    record = {
        "user_id": person,
        "app_version": "1.2",
        "device_type": "ios",
        "ip": "192.0.2.7",
        "device_id": "d",
    }
    file = tmp_path / "one.json"
    file.write_text(json.dumps(record))
    assert lockhouse("send", "logins", file, home=home).code == 0
    assert lockhouse("receive", "--until-idle", 0, "--json", home=home).json["messages"] == 1
    taken = lockhouse("ingest", "logins", "--staged", "--json", home=home)
    assert (taken.code, taken.json["accepted"]) == (0, 1), taken.err
    erased = lockhouse("subject", "erase", "--id", person, "--yes", "--json", home=home)
    assert erased.code == 0, erased.err
    verified = lockhouse("subject", "verify", erased.json["certificate"], "--json", home=home)
    assert (verified.code, verified.json["problems"]) == (0, [])
    assert not (home / "lockhouse.db").exists()
    checks = {one["name"]: one for one in lockhouse("doctor", "--json", home=home).json["checks"]}
    assert checks["audit trail"]["ok"]
    assert checks["database"]["ok"]
    assert checks["database"]["found"].startswith("PostgreSQL answers")


def test_doctor_tells_that_postgresql_is_away(lockhouse, home, tmp_path):
    assert lockhouse("init", home=home).code == 0
    (home / "settings.toml").write_text('database_url = "postgresql://nobody@127.0.0.1:1/none"\n')
    called = lockhouse("doctor", "--json", home=home)
    [check] = [one for one in called.json["checks"] if one["name"] == "database"]
    assert (called.code, check["ok"]) == (1, False)
    assert "cannot be reached" in check["found"]
