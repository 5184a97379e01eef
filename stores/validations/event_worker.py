"""What drives a consumer: events received, handled one by one, told of, and only then confirmed.

A process may be killed anywhere: what was not confirmed comes again, and a second time changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from stores.home import Home
from stores.locks import shared
from stores.queue import Message, Queue
from transforms.errors import LockhouseError
from transforms.validations.events import Event, decode_event
from transforms.validations.matrix import Service

_AT_ONCE = 100
# How often queues are looked at when nothing comes: ever less often, as long as nothing does.
_SHORTEST_S, _LONGEST_S = 0.02, 0.4


class Consumer(Protocol):
    """A service that listens."""

    def handle(self, event: Event) -> None:
        """Do what an event asks for; doing it again changes nothing."""
        ...

    def flush(self) -> None:
        """Tell of what was done, before the events are confirmed."""
        ...


@dataclass
class Handled:
    """How many events were handled, and how many could not be: those come again, and end as dead letters."""

    events: int = 0
    failures: int = 0


class EventWorker:
    """Runs one consumer over its queue."""

    def __init__(
        self, service: Service, consumer: Consumer, queue: Queue, home: Home, tell: Callable[[str], None]
    ) -> None:
        """Remember the parts; `tell` is told what goes wrong."""
        self.service, self.handled = service, Handled()
        self._consumer, self._queue, self._home, self._tell = consumer, queue, home, tell

    def work(self) -> int:
        """Handle the events that wait, some at a time; give how many came."""
        messages = self._queue.receive(_AT_ONCE, 0)
        done = [message for message in messages if self._has_handled(message)]
        # Also without an event: what a killed process left in the outbox goes out.
        self._consumer.flush()
        if done:
            self._queue.delete(done)
        self.handled.events += len(done)
        self.handled.failures += len(messages) - len(done)
        return len(messages)

    def work_on(self) -> int:
        """Work, and go on where a store or a queue does not answer: nothing is lost, and it is tried again."""
        try:
            return self.work()
        except _OUTAGES as error:
            self._tell(f"{self.service}: {_reason(error)}; it is tried again")
            return 0

    def _has_handled(self, message: Message) -> bool:
        try:
            event = decode_event(message.body)
            # An erasure that goes on meanwhile has the tenant alone, and finds nothing half done.
            with shared(self._home.tenant_lock(event.tenant)):
                self._consumer.handle(event)
        except _OUTAGES as error:
            self._tell(f"{self.service}: an event was put off: {_reason(error)}")
            return False
        return True


# What a store, a queue or the tenant's lock may raise that is over some day.
_OUTAGES = (SQLAlchemyError, OSError, LockhouseError)


def _reason(error: BaseException) -> str:
    """Say what went wrong: our own errors never quote a value, of any other only the kind is told."""
    return str(error) if isinstance(error, LockhouseError) else type(error).__name__


def run_workers(
    workers: list[EventWorker],
    is_stopped: Callable[[], bool],
    until_idle_s: float | None,
    relay: Callable[[], object],
) -> None:
    """Run consumers in turn until told to stop, or until nothing came for so many seconds.

    `relay` brings what the gateway left in its outbox to the queues.
    """
    last, pause = time.monotonic(), _SHORTEST_S
    while not is_stopped():
        with suppress(*_OUTAGES):
            # What stays in the outbox goes out the next time.
            relay()
        if sum(worker.work_on() for worker in workers):
            last, pause = time.monotonic(), _SHORTEST_S
        elif until_idle_s is not None and time.monotonic() - last >= until_idle_s:
            return
        else:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_S)
