"""Deleted validations leave the lake too: the sealed records, the masked rows, and what was made of them.

Only files that hold one are written again, as in an erasure (ADR 0017).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

from stores.home import Home
from stores.landing import Landing
from stores.locks import exclusive
from stores.marts import Marts
from stores.outbox import FORGET_VALIDATION, Outbox, Request
from stores.row_removal import Match, RowRemoval, mart_spec
from stores.tables import Tables
from stores.validations.analytics import SOURCE
from transforms.errors import TableError
from transforms.pii.contracts import Contract
from transforms.privacy.removals import Removal
from transforms.tables import masked_table, raw_table

# The mart with a row for each validation; the others are made of it.
OUTCOMES = "curated.validation_outcomes"


class LakeRemoval:
    """Does what analytics asked for when a validation was deleted that the lake had been given."""

    def __init__(self, home: Home, tables: Tables, marts: Marts, landing: Landing, outbox: Outbox) -> None:
        """Remember the stores; nothing is read yet."""
        self._home, self._tables, self._marts = home, tables, marts
        self._landing, self._outbox = landing, outbox

    def forget_waiting(self, contract: Contract) -> int:
        """Forget every deleted validation that is asked for; give how many rows of masked went.

        A tenant whose batches are on their way is left for the next time: one of them may bring such a row.
        """
        coming = {batch.tenant for batch in self._landing.open_batches(SOURCE)}
        asked: dict[str, list[Request]] = {}
        for request in self._outbox.waiting(FORGET_VALIDATION):
            if request.tenant not in coming:
                asked.setdefault(request.tenant, []).append(request)
        rows = 0
        for tenant, requests in asked.items():
            rows += self.forget(tenant, contract, [one.parameters["validation"] for one in requests])
            for request in requests:
                self._outbox.close(request.id)
        return rows

    def forget(self, tenant: str, contract: Contract, validations: Sequence[str]) -> int:
        """Forget validations of a tenant; give how many rows of masked went. Again, nothing more goes."""
        raw, masked = raw_table(contract), masked_table(contract)
        removal, wanted = RowRemoval(self._tables, tenant), [Match("validation_id", tuple(validations))]
        mark = f"deletion/{min(validations)}"
        with exclusive(self._home.tenant_lock(tenant)):
            found = removal.rows(masked, wanted, ["event_id", "event_hour"])
            dates = {*self._published(tenant, removal, wanted)}
            if found.height:
                events = [Match("event_id", tuple(found["event_id"]))]
                dates |= set(found["event_hour"].dt.date())
                # Masked goes after raw: it says which records are meant, should this be cut short.
                for spec in (raw, masked):
                    removal.remove(spec, events, mark, _note)
            if dates:
                self._rebuild(tenant, contract, sorted(dates), mark)
            for info in self._tables.listing(tenant):
                if info.name == contract.source or info.zone == "curated":
                    self._tables.forget_past(tenant, info.key)
        return found.height

    def _published(self, tenant: str, removal: RowRemoval, wanted: Sequence[Match]) -> Iterator[date]:
        """Give the dates on which the marts still show one, also where its masked row is gone already."""
        if self._tables.exists(tenant, OUTCOMES):
            rows = removal.rows(mart_spec(self._tables, tenant, OUTCOMES), wanted, ["event_date"])
            yield from (date.fromisoformat(one) for one in rows["event_date"].unique())

    def _rebuild(self, tenant: str, contract: Contract, dates: Sequence[date], mark: str) -> None:
        outcome = self._marts.rebuild(tenant, contract.source, dates, mark)
        if not outcome.succeeded:
            raise TableError(f"marts were not made anew: {', '.join(outcome.failed()) or outcome.message}")


def _note(removal: Removal) -> None:
    """Keep nothing: whoever repeats this finds by itself what is left."""
