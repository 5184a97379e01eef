"""The gateway's disclosure: what became of a request, and its personal data for whoever may have them."""

from __future__ import annotations

from dataclasses import dataclass

from stores.validations.handles import Handle
from stores.validations.low_store import FULFILLED, PENDING
from stores.validations.request_journal import RequestJournal
from transforms.errors import NotYetError
from transforms.validations.events import moment_of


@dataclass(frozen=True)
class ValidationStatus:
    """How far a validation is: decided or not, and why so."""

    validation: str
    status: str
    decision: str | None
    reasons: tuple[str, ...]
    created: str
    updated: str


class Disclosure:
    """Reads both stores; changes nothing."""

    def __init__(self, journal: RequestJournal, low: Handle, high: Handle, keys: Handle) -> None:
        """Remember the journal, and what the access matrix lends."""
        self._journal, self._low, self._high, self._keys = journal, low, high, keys

    def find_status(self, tenant: str, validation: str) -> ValidationStatus:
        """Give how far a validation is; pending until its latest change is decided.

        Raises: MissingError, GoneError.
        """
        entry = self._journal.find(tenant, validation)
        found = self._low.get(tenant, validation)
        created, changed = (moment_of(one).isoformat() for one in (validation, entry.change))
        if found is None or found.change != entry.change or found.status != FULFILLED:
            return ValidationStatus(validation, PENDING, None, (), created, changed)
        return ValidationStatus(validation, FULFILLED, found.decision, found.reasons, created, found.updated)

    def open_record(self, tenant: str, validation: str) -> dict[str, str]:
        """Give the personal data of a validation, in clear.

        Raises: MissingError, GoneError; NotYetError while the latest change is not stored yet.
        """
        entry = self._journal.find(tenant, validation)
        found = self._high.get(tenant, validation)
        if found is None or found.change != entry.change:
            raise NotYetError("the data are not stored yet: try again, or start `lockhouse worker`")
        opened: dict[str, str] = self._keys.decrypt(tenant, validation, found.fields)
        return opened
