"""The PII store: it keeps the sealed fields of requests, and can open none of them."""

from __future__ import annotations

from stores.validations.handles import Handle
from transforms.validations.events import Event, EventType, moment_of


class PiiStore:
    """Stores, replaces and deletes sealed records."""

    def __init__(self, high: Handle, events: Handle) -> None:
        """Remember what the access matrix lends."""
        self._high, self._events = high, events

    def handle(self, event: Event) -> None:
        """Store a request's fields, or delete them."""
        named = (event.tenant, event.validation)
        if event.kind is EventType.DELETION_REQUEST:
            told = Event(EventType.DATA_DELETED, *named, event.change)
            self._high.delete(*named, moment_of(event.change).isoformat(), told)
            return
        stored, updated = (
            Event(kind, *named, event.change) for kind in (EventType.DATA_STORED, EventType.DATA_UPDATED)
        )
        if not self._high.put(*named, event.change, event.fields, stored):
            self._high.update(*named, event.change, event.fields, updated)

    def flush(self) -> None:
        """Tell of what was stored."""
        self._events.publish()
