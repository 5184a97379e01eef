"""What drives a consumer: events received, handled one by one, told of, and only then confirmed.

A process may be killed anywhere: what was not confirmed comes again, and a second time changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from stores.home import Home
from stores.locks import shared
from stores.queue import Message, Queue
from transforms.errors import LockhouseError
from transforms.validations.events import Event, decode_event
from transforms.validations.matrix import Service

_AT_ONCE = 100


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

    def work(self, wait_s: float = 0) -> int:
        """Handle some events, waiting for the first as long as told; give how many came."""
        messages = self._queue.receive(_AT_ONCE, wait_s)
        done = [message for message in messages if self._has_handled(message)]
        # Also without an event: what a killed process left in the outbox goes out.
        self._consumer.flush()
        if done:
            self._queue.delete(done)
        self.handled.events += len(done)
        self.handled.failures += len(messages) - len(done)
        return len(messages)

    def _has_handled(self, message: Message) -> bool:
        try:
            event = decode_event(message.body)
            # An erasure that goes on meanwhile has the tenant alone, and finds nothing half done.
            with shared(self._home.tenant_lock(event.tenant)):
                self._consumer.handle(event)
        except LockhouseError as error:
            self._tell(f"{self.service}: an event was put off: {error}")
            return False
        return True


def run_workers(
    workers: list[EventWorker],
    is_stopped: Callable[[], bool],
    until_idle_s: float | None,
    relay: Callable[[], object],
) -> None:
    """Run consumers in turn until told to stop, or until nothing came for so many seconds.

    `relay` brings what the gateway left in its outbox to the queues. One alone waits at its queue; several
    look at theirs in turn.
    """
    last = time.monotonic()
    while not is_stopped():
        relay()
        came = sum(worker.work() for worker in workers)
        if came:
            last = time.monotonic()
        elif until_idle_s is not None and time.monotonic() - last >= until_idle_s:
            return
        else:
            time.sleep(_PAUSE_S)


# How often queues are looked at when nothing comes.
_PAUSE_S = 0.05
