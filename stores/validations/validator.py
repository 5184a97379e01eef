"""The validator: it opens what a request states, decides, and keeps the decision, never the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stores.validations.handles import Handle
from transforms.errors import ErasedSubjectError
from transforms.validations.events import Event, EventType, moment_of
from transforms.validations.rules import decide_validation


class Validator:
    """Decides about every change of every request."""

    def __init__(
        self,
        low: Handle,
        keys: Handle,
        events: Handle,
        minimum_age: Callable[[str], int],
        keeps_decisions: Callable[[str], bool],
    ) -> None:
        """Remember what the access matrix lends, and what each tenant has chosen."""
        self._low, self._keys, self._events = low, keys, events
        self._minimum_age, self._keeps_decisions = minimum_age, keeps_decisions

    def handle(self, event: Event) -> None:
        """Decide about a request, or forget one."""
        named = (event.tenant, event.validation)
        if event.kind is EventType.DELETION_REQUEST:
            deleted = moment_of(event.change).isoformat()
            self._low.delete(*named, deleted, keeps_decision=self._keeps_decisions(event.tenant))
            return
        self._low.put(*named, event.change)
        try:
            fields: Mapping[str, str] = self._keys.decrypt(*named, event.fields)
        except ErasedSubjectError:
            # Deleted or erased since: that event follows, or was here before.
            return
        # As of the day of the request: a replay decides alike.
        on = moment_of(event.change).date()
        decision = decide_validation(fields, on, self._minimum_age(event.tenant))
        result = Event(EventType.VALIDATION_RESULT, *named, event.change, decision=decision.verdict)
        self._low.update(*named, event.change, decision.verdict, decision.reasons, result)

    def flush(self) -> None:
        """Tell of what was decided."""
        self._events.publish()
