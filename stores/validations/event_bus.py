"""How events travel: a queue for each service that listens; whoever publishes relays its own outbox.

An event leaves the outbox once it is on every queue: a process that is killed in between sends it again.
Consumers do not mind: the second time changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from stores.queue import Queue
from stores.validations.event_outbox import EventOutbox
from transforms.errors import RefusedError
from transforms.validations.events import decode_event
from transforms.validations.matrix import PUBLICATIONS, Service, subscribers_of


class EventBus:
    """What one service has of the events: its outbox, and the queues of those who listen."""

    def __init__(
        self, service: Service, queue_of: Callable[[Service], Queue], outbox: EventOutbox | None
    ) -> None:
        """Remember the queues; none is opened yet."""
        self._service, self._queue_of, self._outbox = service, queue_of, outbox

    def publish(self) -> int:
        """Bring everything in the outbox to the queues, in its order; give how many events.

        Raises: RefusedError for an event that is not this service's to tell.
        """
        count = 0
        while self._outbox is not None and (waiting := self._outbox.waiting()):
            messages = defaultdict(list)
            for _, message in waiting:
                kind = decode_event(message).kind
                if kind not in PUBLICATIONS.get(self._service, frozenset()):
                    raise RefusedError(f"{self._service} may not publish {kind}")
                for listener in subscribers_of(kind):
                    messages[listener].append(message)
            for listener, bodies in messages.items():
                self._queue_of(listener).send(bodies)
            self._outbox.close([number for number, _ in waiting])
            count += len(waiting)
        return count

    def subscribe(self) -> Queue:
        """Give the queue of this service's events."""
        return self._queue_of(self._service)
