"""Analytics: once the decision and the personal data of a change are both there, the lake gets the record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import msgspec

from stores.landing import Landing
from stores.outbox import FORGET_VALIDATION, Outbox
from stores.validations.completions import Completions
from stores.validations.handles import Handle
from stores.validations.low_store import FULFILLED
from transforms.errors import ErasedSubjectError
from transforms.validations.events import Event, EventType, moment_of

SOURCE = "validations"
# The name that a batch's file has in its manifest.
_FILE = "validations.ndjson"


class Analytics:
    """Hands decided validations to the lake: in landing for as long as it takes to seal them there."""

    def __init__(
        self,
        low: Handle,
        high: Handle,
        keys: Handle,
        completions: Completions,
        landing: Landing,
        outbox: Outbox,
    ) -> None:
        """Remember what the access matrix lends, and the way to the lake."""
        self._low, self._high, self._keys = low, high, keys
        self._completions, self._landing, self._outbox = completions, landing, outbox
        self._ready: dict[str, dict[tuple[str, str], bytes]] = defaultdict(dict)

    def handle(self, event: Event) -> None:
        """Note an event; what it completes is kept until `flush`."""
        if event.kind in (EventType.DELETION_REQUEST, EventType.DATA_DELETED):
            self._forget(event)
        elif event.kind is not EventType.VALIDATION_REQUEST and self._completions.note(event):
            record = self._gather(event)
            if record is not None:
                self._ready[event.tenant][event.validation, event.change] = msgspec.json.encode(record)

    def flush(self) -> None:
        """Land what is complete, a batch for each tenant: Dagster takes what has landed.

        A process that is killed in between lands the records again; the lake knows them by their change.
        """
        ready, self._ready = self._ready, defaultdict(dict)
        for tenant, records in ready.items():
            if not records:
                continue
            content = b"\n".join(records.values()) + b"\n"
            [batch] = self._landing.land(SOURCE, tenant, _FILE, content)
            self._completions.hand_over(tenant, list(records), batch.id)

    def _forget(self, event: Event) -> None:
        """Forget a deleted validation, in the lake too where it had come so far."""
        records = self._ready[event.tenant]
        for named in [one for one in records if one[0] == event.validation]:
            del records[named]
        if self._completions.was_handed_over(event.tenant, event.validation):
            self._outbox.ask(FORGET_VALIDATION, event.tenant, {"validation": event.validation})
        self._completions.forget(event.tenant, event.validation)

    def _gather(self, event: Event) -> Mapping[str, str] | None:
        """Give a record for the lake; None where a later change, a deletion or an erasure came in between."""
        named = (event.tenant, event.validation)
        decided, stored = self._low.get(*named), self._high.get(*named)
        if decided is None or stored is None:
            # Both were there once: they were deleted, and nothing more is waited for.
            self._completions.forget(*named)
            return None
        if decided.status != FULFILLED or not decided.change == stored.change == event.change:
            return None
        try:
            fields: Mapping[str, str] = self._keys.decrypt(*named, stored.fields)
        except ErasedSubjectError:
            return None
        return {
            **fields,
            "validation_id": event.validation,
            "revision": event.change,
            "decision": str(decided.decision),
            **({"reasons": ",".join(decided.reasons)} if decided.reasons else {}),
            "requested_at": moment_of(event.change).isoformat(),
            "decided_at": decided.updated,
        }
