"""Validations without Dagster: twice, out of order, killed between any two steps, there is one outcome."""

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from orchestration.resources import Platform
from orchestration.validations import LISTENERS, Surroundings, Validations
from stores.data_subjects import Subject
from stores.database import Database
from stores.embedded_queue import EmbeddedQueue
from stores.erasure_scan import SubjectMatcher
from stores.landing import Landing
from stores.leaks import default_exclusions, scan, scan_with
from stores.outbox import FORGET_VALIDATION, Outbox
from stores.settings import Settings
from stores.validations.event_worker import EventWorker, run_workers
from stores.validations.request_journal import RequestMark
from transforms.errors import ConflictError, ErasedSubjectError, GoneError, MissingError
from transforms.validations.events import decode_event
from transforms.validations.matrix import Asset, Service

START = datetime(2026, 11, 21, 7, tzinfo=UTC)
PERSON = {
    "username": "jo.bloggs-of-springfield",
    "full_name": "Josephine Bloggs-Featherstone",
    "date_of_birth": "1980-02-29",
    "address_street": "742 Evergreen Terrace Nine",
    "address_postal_code": "90210-5555",
    "address_city": "Springfield-on-Sea",
    "address_country": "DE",
    "phone_number": "+12025550123",
    "document_type": "passport",
    "document_number": "L898902C36",
}
TENANT = "default"
KILL_STRIDE = int(os.environ.get("VALIDATION_KILL_STRIDE", "23"))
ORDERS = int(os.environ.get("VALIDATION_ORDERS", "4"))


ANY_ORDER = settings(
    max_examples=ORDERS,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],
)


class World:
    """A home with its validations, under a clock that goes on by a second whenever it is looked at."""

    def __init__(self, home: Path, **chosen: Any) -> None:
        self.platform = Platform(Settings(home=home, **chosen))
        self.time = START
        shared = self.platform
        self.validations = Validations(
            Surroundings(
                shared.settings,
                shared.home,
                shared.database,
                shared.landing,
                shared.outbox,
                shared.keys,
                shared.subject_keys,
                self.now,
            )
        )
        shared.__dict__["validations"] = self.validations
        self.told: list[str] = []

    def now(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time

    def submit(self, number: int = 0, key: str | None = None, **changed: str) -> str:
        fields = {**PERSON, "username": f"{PERSON['username']}-{number}", **changed}
        mark = RequestMark(key, json.dumps(fields)) if key else None
        return self.validations.intake.submit(TENANT, fields, "username", mark).validation

    def workers(self) -> list[EventWorker]:
        return [self.validations.worker(service, self.told.append) for service in LISTENERS]

    def work(self) -> None:
        """Run every service until nothing comes, a while after what was received and not confirmed."""
        self.time += timedelta(minutes=5)
        self.validations.intake.relay()
        workers = self.workers()
        while sum(worker.work() for worker in workers):
            pass

    def outcome(self, *validations: str) -> list[Any]:
        """What everybody knows of some validations, without ids and times that a run makes up."""
        return [self._outcome(one) for one in validations]

    def _outcome(self, validation: str) -> Any:
        try:
            status = self.validations.disclosure.find_status(TENANT, validation)
        except GoneError:
            assert self.validations.low.get(TENANT, validation) is None
            assert self.validations.high.get(TENANT, validation) is None
            return "gone"
        record = self.validations.disclosure.open_record(TENANT, validation)
        change = self.validations.journal.find(TENANT, validation).change
        landed = [one for one in self.landed() if one["revision"] == change]
        assert landed, "the lake was not given the latest change"
        assert all(one == landed[0] for one in landed)
        assert {name: landed[0][name] for name in record} == record
        assert landed[0]["decision"] == status.decision
        return status.status, status.decision, status.reasons, record

    def landed(self) -> list[dict[str, Any]]:
        batches = self.platform.landing.open_batches("validations")
        contents = [path.read_text() for batch in batches for _, path, _ in batch.files()]
        return [json.loads(line) for content in contents for line in content.splitlines()]

    def asked(self, kind: str) -> int:
        return len(self.platform.outbox.waiting(kind))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("validations") / "home"
    Platform(Settings(home=home)).create_home("tester")
    return home


@pytest.fixture
def world(pristine: Path, tmp_path: Path) -> World:
    return World(Path(shutil.copytree(pristine, tmp_path / "home")))


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
    home = Path(shutil.copytree(pristine, tmp_path / "home"))
    world = World(home, validation_keep_decisions="other, default")
    validation = world.submit()
    world.work()
    world.validations.intake.delete(TENANT, validation)
    world.work()
    with sqlite3.connect(home / "validations" / "low.db") as database:
        assert database.execute("select id, decision from deletions").fetchall() == [(validation, "accepted")]


def test_each_tenant_has_its_own_age_and_its_own_keys(pristine: Path, tmp_path: Path):
    world = World(
        Path(shutil.copytree(pristine, tmp_path / "home")),
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
    with pytest.raises(ConflictError):
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
    home = Path(shutil.copytree(pristine, tmp_path / "home"))
    world = World(home, low_store_url=urls[0], high_store_url_file=secret)
    world.validations.migrate()
    validations = play(world)
    world.work()
    first, second, third = world.outcome(*validations)
    assert (first[1], second, third[1]) == ("rejected", "gone", "accepted")
    with sqlite3.connect(home / "validations" / "low.db") as embedded:
        assert embedded.execute("select count(*) from decisions").fetchone() == (0,)
    reader = world.validations._target(Service.DISCLOSURE, Asset.HIGH)
    with pytest.raises(sa.exc.InternalError, match="read-only"), reader.database.begin() as connection:
        connection.exec_driver_sql("delete from records")
    erase(world, 2)
    assert world.outcome(validations[2]) == ["gone"]
    world.validations.close()


# -- in any order, any number of times ------------------------------------------------------------


def play(world: World) -> list[str]:
    """What people do: three requests, changes of two, a deletion of one."""
    first, second, third = (world.submit(number, key=f"k-{number}") for number in range(3))
    world.validations.intake.update(TENANT, first, {"phone_number": "+10000000000"}, [])
    world.validations.intake.update(TENANT, first, {"address_city": "Elsewhere"}, [])
    world.validations.intake.update(TENANT, second, {"full_name": "Another Name"}, [])
    world.validations.intake.delete(TENANT, second)
    return [first, second, third]


@pytest.fixture(scope="module")
def played(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[Any]]:
    """A home in which people did that and no service has run yet; their validations; how it must end."""
    home = Path(shutil.copytree(pristine, tmp_path_factory.mktemp("played") / "home"))
    validations = play(World(home))
    reference = World(Path(shutil.copytree(home, home.with_name("reference"))))
    reference.work()
    return home, validations, reference.outcome(*validations)


def test_what_people_did_ends_as_it_should(played: tuple[Path, list[str], list[Any]]):
    _, _, (first, second, third) = played
    assert first[:3] == ("fulfilled", "rejected", ("phone_number.invalid",))
    assert first[3]["address_city"] == "Elsewhere"
    assert second == "gone"
    assert third[:3] == ("fulfilled", "accepted", ())


class Shuffler:
    """Delivers events in any order, some of them several times."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.world, self.dice = world, dice
        self.pools: dict[Service, list[str]] = {service: [] for service in LISTENERS}
        self.seen: dict[Service, list[str]] = {service: [] for service in LISTENERS}
        self.consumers = {one: world.validations._consumer(one) for one in LISTENERS}

    def collect(self) -> None:
        # The clock of this world began anew: what was sent before lies in its future.
        self.world.time += timedelta(minutes=5)
        for service in LISTENERS:
            queue = self.world.validations.queue(service)
            while messages := queue.receive(100, 0):
                queue.delete(messages)
                self.pools[service] += [one.body for one in messages]
                self.seen[service] += [one.body for one in messages]

    def run(self) -> None:
        self.collect()
        while any(self.pools.values()):
            service = self.dice.choice([one for one, pool in self.pools.items() if pool])
            pool = self.pools[service]
            message = pool[self.dice.randrange(len(pool))]
            if self.dice.random() < 0.7:
                pool.remove(message)
            self.deliver(service, message)

    def replay(self) -> None:
        """Deliver everything once more, in yet another order."""
        for service, messages in self.seen.items():
            for message in self.dice.sample(messages, len(messages)):
                self.deliver(service, message)

    def deliver(self, service: Service, message: str) -> None:
        self.consumers[service].handle(decode_event(message))
        self.consumers[service].flush()
        self.collect()


@ANY_ORDER
@given(seed=st.integers(0, 2**32))
def test_any_order_and_any_number_of_deliveries_end_alike(
    seed: int, played: tuple[Path, list[str], list[Any]], tmp_path_factory: pytest.TempPathFactory
):
    home, validations, wanted = played
    copy = Path(shutil.copytree(home, tmp_path_factory.mktemp("shuffled") / "home"))
    world, dice = World(copy), random.Random(seed)  # noqa: S311 - an order for tests
    shuffler = Shuffler(world, dice)
    shuffler.run()
    assert world.outcome(*validations) == wanted
    before = len(world.landed())
    shuffler.replay()
    shuffler.run()
    assert world.outcome(*validations) == wanted
    assert len(world.landed()) == before


STEPS = ("submit", "submit_anew", "update", "delete", "erase", "replay", "work")


class Story:
    """What two people do, and what has to come of it."""

    def __init__(self, world: World) -> None:
        self.world, self.erased = world, set[int]()
        self.known: dict[int, str] = {}
        # The name that stands in the latest change; nobody's, once it is deleted.
        self.names: dict[int, str | None] = {}
        self.seen: dict[Service, list[str]] = {service: [] for service in LISTENERS}

    def submit(self, person: int, number: int) -> None:
        """The same request under the same key, however often it comes."""
        if person in self.known:
            assert self.world.submit(person, key=f"k-{person}") == self.known[person]
        elif person in self.erased:
            self.submit_anew(person, number)
        else:
            self.known[person] = self.world.submit(person, key=f"k-{person}")
            self.names[person] = PERSON["full_name"]

    def submit_anew(self, person: int, number: int) -> None:
        """A request of its own, which nothing below changes."""
        if person not in self.erased:
            self.world.submit(person, key=f"anew-{person}-{number}")
            return
        with pytest.raises(ErasedSubjectError):
            self.world.submit(person, key=f"anew-{person}-{number}")

    def update(self, person: int, number: int) -> None:
        if self.names.get(person) is not None:
            self.names[person] = f"Name {'ABCDEFGHIJKLM'[number]}"
            change = {"full_name": self.names[person]}
            self.world.validations.intake.update(TENANT, self.known[person], change, [])

    def delete(self, person: int, number: int) -> None:
        if self.names.get(person) is not None:
            self.world.validations.intake.delete(TENANT, self.known[person])
            self.names[person] = None

    def erase(self, person: int, number: int) -> None:
        erase(self.world, person)
        self.erased.add(person)
        self.names[person] = None

    def replay(self, person: int, number: int) -> None:
        for service, messages in self.seen.items():
            self.world.validations.queue(service).send(messages)

    def work(self, person: int, number: int) -> None:
        for service in LISTENERS:
            queue = self.world.validations.queue(service)
            self.world.time += timedelta(minutes=5)
            self.seen[service] += [one.body for one in queue.receive(100, 0)]
        self.world.work()

    def check(self) -> None:
        self.world.work()
        self.world.work()
        for person, validation in self.known.items():
            found = self.world.outcome(validation)[0]
            if self.names[person] is None:
                assert found == "gone"
            else:
                assert (found[1], found[3]["full_name"]) == ("accepted", self.names[person])


@ANY_ORDER
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 1)), min_size=4, max_size=12))
def test_any_order_of_what_people_do_ends_as_the_last_of_it_says(
    steps: list[tuple[str, int]], pristine: Path, tmp_path_factory: pytest.TempPathFactory
):
    story = Story(World(Path(shutil.copytree(pristine, tmp_path_factory.mktemp("any") / "home"))))
    for number, (step, person) in enumerate(steps):
        getattr(story, step)(person, number)
    story.check()


def erase(world: World, person: int) -> Subject:
    subject = world.platform.data_subjects(TENANT).find(f"{PERSON['username']}-{person}", "user")
    request = world.platform.erasure_requests(TENANT).add([subject], ["digest"], "tester", "a test")
    done = world.platform.erasing(TENANT).complete(request)
    assert str(done.state) == "certified"
    return subject


# -- killed between any two steps -----------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


class Executioner:
    """Ends the process before or after the n-th thing that it does to a file."""

    def __init__(self, at: int) -> None:
        self.at, self.steps = at, 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            raise Killed

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.step()
            done = function(*arguments, **named)
            self.step()
            return done

        return wrapped

    def around_transaction(self, begin: Callable[..., Any]) -> Callable[..., Any]:
        import contextlib

        @contextlib.contextmanager
        def wrapped(*arguments: Any, **named: Any) -> Iterator[Any]:
            self.step()
            with begin(*arguments, **named) as connection:
                yield connection
                # Killed before the commit: nothing of it is there.
                self.step()
            self.step()

        return wrapped

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Database, "begin", self.around_transaction(Database.begin))
        patch.setattr(EmbeddedQueue, "_writing", self.around_transaction(EmbeddedQueue._writing))
        patch.setattr(Landing, "land", self.around(Landing.land))
        patch.setattr(Outbox, "ask", self.around(Outbox.ask))


def test_a_kill_between_any_two_steps_changes_nothing(
    played: tuple[Path, list[str], list[Any]], tmp_path: Path
):
    home, validations, wanted = played
    at, kills = 1, 0
    while True:
        world = World(Path(shutil.copytree(home, tmp_path / f"killed at {at}")))
        executioner = Executioner(at)
        with pytest.MonkeyPatch.context() as patch:
            executioner.watch(patch)
            try:
                world.work()
                break
            except Killed:
                kills += 1
        again = World(world.platform.home.root)
        again.time = world.time
        again.work()
        assert again.outcome(*validations) == wanted, f"killed at step {at}"
        shutil.rmtree(world.platform.home.root)
        at += KILL_STRIDE
    assert kills >= 5


def test_a_kill_while_a_request_is_accepted_loses_and_doubles_nothing(pristine: Path, tmp_path: Path):
    at = 1
    while True:
        world = World(Path(shutil.copytree(pristine, tmp_path / f"killed at {at}")))
        with pytest.MonkeyPatch.context() as patch:
            Executioner(at).watch(patch)
            try:
                world.submit(0, key="k-0")
                break
            except Killed:
                pass
        again = World(world.platform.home.root)
        validation = again.submit(0, key="k-0")
        again.work()
        assert again.outcome(validation)[0][:2] == ("fulfilled", "accepted"), f"killed at step {at}"
        assert {one["validation_id"] for one in again.landed()} == {validation}
        shutil.rmtree(world.platform.home.root)
        at += max(1, KILL_STRIDE // 6)
    assert at > 5


# -- erasure and access -----------------------------------------------------------------------------


def test_an_erasure_takes_every_request_of_a_person_and_nothing_of_anybody_else(world: World):
    mine = [world.submit(0), world.submit(0, document_number="X12345678")]
    other = world.submit(1)
    world.work()
    waiting = world.submit(0)
    before = world.outcome(other)
    subject = erase(world, 0)
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
