"""Validations without Dagster: requested, changed, decided, deleted, erased, shown."""

import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from homes import copy_home
from orchestration.validations import LISTENERS
from stores.erasure_scan import SubjectMatcher
from stores.leaks import default_exclusions, scan, scan_with
from stores.outbox import FORGET_VALIDATION
from stores.validations.event_worker import run_workers
from transforms.errors import ErasedSubjectError, GoneError, MissingError, UsageError
from transforms.validations.events import decode_event
from transforms.validations.matrix import Asset, Service
from validation_requests import PERSON
from validation_world import TENANT, World


def test_a_request_is_pending_then_decided_and_its_data_can_be_read(world: World):
    validation = world.submit()
    status = world.validations.disclosure.find_status(TENANT, validation)
    assert (status.status, status.decision) == ("pending", None)
    world.work()
    status = world.validations.disclosure.find_status(TENANT, validation)
    assert (status.status, status.decision, status.reasons) == ("fulfilled", "accepted", ())
    assert status.created <= status.updated
    record = world.validations.disclosure.open_record(TENANT, validation)
    assert record == {**PERSON, "username": f"{PERSON['username']}-0"}
    assert [one["decision"] for one in world.landed()] == ["accepted"]
    assert len(world.platform.landing.open_batches("validations")) == 1


def test_a_change_seals_what_it_brings_and_is_decided_again(world: World):
    validation = world.submit()
    world.work()
    before = world.validations.high.get(TENANT, validation)
    world.validations.intake.update(TENANT, validation, {"phone_number": "+10000000000"}, ["address_city"])
    assert world.validations.disclosure.find_status(TENANT, validation).status == "pending"
    world.work()
    after = world.validations.high.get(TENANT, validation)
    assert before is not None and after is not None
    changed = {name for name in before.fields if after.fields.get(name) != before.fields[name]}
    assert changed == {"phone_number", "address_city"}
    status = world.validations.disclosure.find_status(TENANT, validation)
    assert (status.decision, status.reasons) == ("rejected", ("phone_number.invalid", "address.incomplete"))
    assert [one["decision"] for one in world.landed()] == ["accepted", "rejected"]
    # Two changes at once, before any of them is handled: the last one has both.
    world.validations.intake.update(TENANT, validation, {"phone_number": "+12025550100"}, [])
    world.validations.intake.update(TENANT, validation, {"address_city": "Elsewhere"}, [])
    world.work()
    assert world.validations.disclosure.find_status(TENANT, validation).decision == "accepted"


def test_a_deletion_leaves_the_id_and_the_time(world: World):
    validation, other = world.submit(0, key="k-1"), world.submit(1)
    world.work()
    deleted = world.validations.intake.delete(TENANT, validation)
    for ask in (world.validations.disclosure.find_status, world.validations.disclosure.open_record):
        with pytest.raises(GoneError, match=deleted[:19]):
            ask(TENANT, validation)
    world.work()
    for path, table in (("low.db", "decisions"), ("high.db", "records")):
        with sqlite3.connect(world.platform.home.validations / path) as database:
            rows = database.execute("select * from deletions").fetchall()
            assert [row[:3] for row in rows] == [(TENANT, validation, deleted)]
            assert all(value is None for row in rows for value in row[3:])
            assert database.execute(f"select id from {table}").fetchall() == [(other,)]  # noqa: S608
    with pytest.raises(GoneError):
        world.validations.intake.delete(TENANT, validation)
    with pytest.raises(GoneError):
        world.validations.intake.update(TENANT, validation, {"full_name": "X Y"}, [])
    # The same request once more is the one that was deleted, not a new one.
    assert world.submit(0, key="k-1") == validation
    assert world.asked(FORGET_VALIDATION) == 1


def test_a_tenant_may_keep_the_decision_of_what_is_deleted(pristine: Path, tmp_path: Path):
    home = copy_home(pristine, tmp_path / "home")
    world = World(home, validation_keep_decisions="other, default")
    validation = world.submit()
    world.work()
    world.validations.intake.delete(TENANT, validation)
    world.work()
    with sqlite3.connect(home / "validations" / "low.db") as database:
        assert database.execute("select id, decision from deletions").fetchall() == [(validation, "accepted")]


def test_each_tenant_has_its_own_age_and_its_own_keys(pristine: Path, tmp_path: Path):
    world = World(
        copy_home(pristine, tmp_path / "home"),
        validation_minimum_age=50,
        validation_minimum_ages="acme=16, other=99",
    )
    world.platform.add_tenant("acme", "tester")
    fields = {**PERSON}
    ids = {one: world.validations.intake.submit(one, fields, "username").validation for one in (TENANT, "acme")}
    world.work()
    statuses = {one: world.validations.disclosure.find_status(one, ids[one]) for one in ids}
    assert statuses[TENANT].reasons == ("date_of_birth.too_young",)
    assert statuses["acme"].decision == "accepted"
    for tenant, validation in (("acme", ids[TENANT]), (TENANT, ids["acme"])):
        with pytest.raises(MissingError):
            world.validations.disclosure.find_status(tenant, validation)


def test_the_same_key_is_the_same_request_and_another_body_is_refused(world: World):
    validation = world.submit(0, key="k-1")
    assert world.submit(0, key="k-1") == validation
    world.work()
    assert world.submit(0, key="k-1") == validation
    with pytest.raises(UsageError):
        world.submit(0, key="k-1", full_name="Somebody Else")
    assert world.submit(0) != validation
    world.work()
    assert len({one["validation_id"] for one in world.landed()}) == 2


def test_no_store_and_no_queue_holds_anything_readable(world: World):
    validation = world.submit()
    canaries = [value for value in world_values() if len(value) > 5]
    for _ in range(2):
        report = scan(world.platform.home.root, canaries, exclude=default_exclusions(world.platform.home))
        assert (report.hits, report.unreadable) == ([], [])
        world.work()
        world.validations.intake.update(TENANT, validation, {"full_name": PERSON["full_name"]}, [])


def world_values() -> list[str]:
    return [f"{PERSON['username']}-0", *(value for name, value in PERSON.items() if name != "username")]


def test_a_message_that_is_no_event_becomes_a_dead_letter_and_holds_nobody_up(world: World):
    queue = world.validations.queue(Service.VALIDATOR)
    queue.send(["nonsense"])
    validation = world.submit()
    for _ in range(8):
        world.time += timedelta(minutes=2)
        for worker in world.workers():
            worker.work()
    assert world.outcome(validation)[0][:2] == ("fulfilled", "accepted")
    assert queue.depth().dead == 1
    assert all("nonsense" not in one for one in world.told)


def test_what_is_past_its_retention_is_deleted(world: World):
    old = world.submit(0)
    world.work()
    world.time += timedelta(days=200)
    young = world.submit(1)
    world.work()
    upkeep, end = world.platform.validation_upkeep, world.time + timedelta(days=170)
    assert upkeep.keep_up([TENANT], end) == 1
    assert upkeep.keep_up([TENANT], end) == 0
    world.work()
    assert world.outcome(old) == ["gone"]
    assert world.outcome(young)[0][:2] == ("fulfilled", "accepted")


def test_both_stores_can_be_databases_elsewhere(pristine: Path, tmp_path: Path, postgres_server: str):
    """Two databases of PostgreSQL: who may only read has a connection that can do no more."""
    import psycopg

    urls = []
    for name in ("low", "high"):
        database = f"{name}{os.getpid()}"
        with psycopg.connect(postgres_server.format("postgres"), autocommit=True) as connection:
            connection.execute(f"create database {database}")
        urls.append(postgres_server.format(database))
    secret = tmp_path / "high-url"
    secret.write_text(urls[1] + "\n")
    home = copy_home(pristine, tmp_path / "home")
    world = World(home, low_store_url=urls[0], high_store_url_file=secret)
    world.validations.migrate()
    validations = world.play()
    world.work()
    first, second, third = world.outcome(*validations)
    assert (first[1], second, third[1]) == ("rejected", "gone", "accepted")
    with sqlite3.connect(home / "validations" / "low.db") as embedded:
        assert embedded.execute("select count(*) from decisions").fetchone() == (0,)
    reader = world.validations._target(Service.DISCLOSURE, Asset.HIGH)
    with pytest.raises(sa.exc.InternalError, match="read-only"), reader.database.begin() as connection:
        connection.exec_driver_sql("delete from records")
    world.erase(2)
    assert world.outcome(validations[2]) == ["gone"]
    world.validations.close()


# -- erasure and access -----------------------------------------------------------------------------


def test_an_erasure_takes_every_request_of_a_person_and_nothing_of_anybody_else(world: World):
    mine = [world.submit(0), world.submit(0, document_number="X12345678")]
    other = world.submit(1)
    world.work()
    waiting = world.submit(0)
    before = world.outcome(other)
    subject = world.erase(0)
    world.work()
    assert world.outcome(*mine, waiting) == ["gone"] * 3
    assert world.outcome(other) == before
    with pytest.raises(ErasedSubjectError):
        world.submit(0)
    excluded = [world.platform.home.landing, world.platform.home.keys]
    report = scan_with(world.platform.home.root, SubjectMatcher([subject]), exclude=excluded)
    assert (report.hits, report.unreadable) == ([], [])
    (certificate,) = world.platform.home.certificates.rglob("*.json")
    assert json.loads(certificate.read_text())["body"]["copies"]["validations"] == 3


def test_a_store_that_does_not_answer_holds_up_and_loses_nothing(world: World):
    validation = world.submit()
    workers = world.workers()
    high = world.platform.home.validations / "high.db"
    with sqlite3.connect(high) as database:
        database.execute("alter table records rename to elsewhere")
    rounds = iter([False] * 3 + [True])
    run_workers(workers, lambda: next(rounds), None, world.validations.intake.relay)
    assert any(one.startswith("pii-store: an event was put off: OperationalError") for one in world.told)
    assert all(value not in one for one in world.told for value in world_values())
    assert world.validations.disclosure.find_status(TENANT, validation).decision == "accepted"
    with sqlite3.connect(high) as database:
        database.execute("alter table elsewhere rename to records")
    world.work()
    assert world.outcome(validation)[0][:2] == ("fulfilled", "accepted")


def test_who_closes_an_event_late_closes_no_other(world: World):
    """Two processes relay the same events; between them the outbox was empty, and another event came."""
    event = decode_event(
        json.dumps(
            {
                "event": "DeletionRequest",
                "version": 1,
                "tenant": TENANT,
                "validation": world.validations.journal.new_id(),
                "change": world.validations.journal.new_id(),
                "payload": {},
            }
        )
    )
    validations = world.validations
    for store, database in (
        (validations.journal, world.platform.database),
        (validations.low, validations.low.database),
        (validations.high, validations.high.database),
    ):
        outbox = store.outbox
        with database.begin() as connection:
            outbox.add(connection, event)
        seen = [number for number, _ in outbox.waiting()]
        outbox.close(seen)
        with database.begin() as connection:
            outbox.add(connection, event)
        outbox.close(seen)
        assert len(outbox.waiting()) == 1


def test_many_may_submit_at_once(world: World):
    """As a service does it: from many threads, each with a connection of its own to the queues."""
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda number: world.submit(number % 5, key=f"k-{number % 10}"), range(30)))
    assert len(set(ids)) == 10
    world.work()
    assert [one[:2] for one in world.outcome(*sorted(set(ids)))] == [("fulfilled", "accepted")] * 10


def test_the_end_of_a_tenant_takes_its_validations_and_no_other(world: World):
    world.platform.add_tenant("acme", "tester")
    mine = world.submit()
    validations = world.validations
    theirs = validations.intake.submit("acme", PERSON, "username").validation
    world.work()
    validations.intake.delete("acme", theirs)
    validations.intake.submit("acme", PERSON, "username")
    world.platform.offboarding("acme").complete("tester")
    for path in world.platform.home.root.rglob("*.db"):
        with sqlite3.connect(path) as database:
            assert not [line for line in database.iterdump() if theirs in line], path.name
    queues = [validations.queue(service).depth().visible for service in LISTENERS]
    assert queues == [0, 0, 0]
    assert world.outcome(mine)[0][:2] == ("fulfilled", "accepted")


def test_access_shows_the_requests_of_a_person_in_clear(world: World):
    validation = world.submit(0)
    world.submit(1)
    world.work()
    waiting = world.submit(0)
    subject = world.platform.data_subjects(TENANT).find(f"{PERSON['username']}-0".upper(), "user")
    found = world.platform.subject_access(TENANT).gather(subject, lambda text: text)["validation requests"]
    assert [one["validation"] for one in found] == [validation, waiting]
    assert found[0]["record"] == {**PERSON, "username": f"{PERSON['username']}-0"}
    assert (found[0]["decision"], found[1]["decision"]) == ("accepted", None)
    assert found[1]["record"] == found[0]["record"]
