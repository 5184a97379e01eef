"""The gateway's intake: it takes requests, seals each field and tells of them. It can open nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from stores.validations.handles import Handle
from stores.validations.request_journal import RequestJournal, RequestMark
from stores.validations.request_keys import Registrar
from transforms.errors import UsageError


@dataclass(frozen=True)
class Accepted:
    """A request that was accepted, now or when it came before under the same key."""

    validation: str
    is_new: bool


class ValidationIntake:
    """Accepts requests, changes and deletions."""

    def __init__(self, journal: RequestJournal, registrar: Registrar, keys: Handle, events: Handle) -> None:
        """Remember the journal, and what the access matrix lends."""
        self._journal, self._registrar, self._keys, self._events = journal, registrar, keys, events

    def submit(
        self,
        tenant: str,
        fields: Mapping[str, str],
        subject: str,
        mark: RequestMark | None = None,
        *,
        is_told: bool = True,
    ) -> Accepted:
        """Accept a request of canonical fields, of which `subject` names whom it is about.

        Of many requests, all but the last may be told of later: they are in the outbox.

        Raises: ErasedSubjectError where they were erased; UsageError where the key came with another one.
        """
        known = self._journal.find_marked(tenant, mark) if mark else None
        if known is not None:
            return Accepted(known, is_new=False)
        validation = self._journal.new_id()
        half = self._registrar.enrol(tenant, validation, fields[subject])
        sealed = self._keys.encrypt(half, tenant, validation, fields)
        accepted = self._journal.accept(tenant, validation, sealed, mark)
        if accepted != validation:
            self._registrar.release(tenant, validation)
        if is_told:
            self.relay()
        return Accepted(accepted, is_new=accepted == validation)

    def relay(self) -> None:
        """Tell of everything that was accepted and not told of, as after a crash."""
        self._events.publish()

    def update(
        self,
        tenant: str,
        validation: str,
        changed: Mapping[str, str],
        removed: Collection[str],
        mark: RequestMark | None = None,
    ) -> str:
        """Accept a change: only what it brings is sealed. Gives the change's id.

        Raises: MissingError, GoneError; UsageError for a change of nothing.
        """
        if not changed and not removed:
            raise UsageError("the change is empty: name at least one field")
        self._journal.find(tenant, validation)
        half = self._registrar.public_half(tenant, validation)
        sealed = self._keys.encrypt(half, tenant, validation, changed)
        change = self._journal.change(tenant, validation, sealed, removed, mark)
        self.relay()
        return change

    def delete(self, tenant: str, validation: str) -> str:
        """Accept a deletion: from now on the validation is gone. Gives since when.

        Raises: MissingError, GoneError.
        """
        deleted = self._journal.delete(tenant, validation)
        self._registrar.release(tenant, validation)
        self.relay()
        return deleted
