"""Validations twice, out of order, killed between any two steps: there is one outcome."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from homes import copy_home
from orchestration.validations import LISTENERS
from stores.database import Database
from stores.embedded_queue import EmbeddedQueue
from stores.landing import Landing
from stores.outbox import Outbox
from transforms.errors import ErasedSubjectError
from transforms.validations.events import decode_event
from transforms.validations.matrix import Service
from validation_requests import PERSON
from validation_world import TENANT, World

KILL_STRIDE = int(os.environ.get("VALIDATION_KILL_STRIDE", "23"))
ORDERS = int(os.environ.get("VALIDATION_ORDERS", "4"))

ANY_ORDER = settings(
    max_examples=ORDERS,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],
)


# -- in any order, any number of times ------------------------------------------------------------


@pytest.fixture(scope="module")
def played(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[Any]]:
    """A home in which people did that and no service has run yet; their validations; how it must end."""
    home = copy_home(pristine, tmp_path_factory.mktemp("played") / "home")
    validations = World(home).play()
    reference = World(copy_home(home, home.with_name("reference")))
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
    copy = copy_home(home, tmp_path_factory.mktemp("shuffled") / "home")
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
        self.world.erase(person)
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
    story = Story(World(copy_home(pristine, tmp_path_factory.mktemp("any") / "home")))
    for number, (step, person) in enumerate(steps):
        getattr(story, step)(person, number)
    story.check()


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
        world = World(copy_home(home, tmp_path / f"killed at {at}"))
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
        world = World(copy_home(pristine, tmp_path / f"killed at {at}"))
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
