"""The requests that are about a data subject: shown to them in clear, and erased from every place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from stores.data_subjects import Subject, refs_of
from stores.database import Database
from stores.subjects import SubjectKeys
from stores.validations.completions import Completions
from stores.validations.disclosure import Disclosure
from stores.validations.high_store import HighStore
from stores.validations.low_store import LowStore
from stores.validations.request_journal import RequestJournal
from stores.validations.request_keys import RequestKeys
from transforms.errors import GoneError


class SubjectRequests:
    """The requests of one tenant's subjects; as a copy of their data it is in the erasure plan."""

    name = "validations"

    def __init__(
        self,
        tenant: str,
        subjects: SubjectKeys,
        journal: RequestJournal,
        low: LowStore,
        high: HighStore,
        completions: Completions,
        databases: Sequence[Database],
        discard: Callable[[str], object],
    ) -> None:
        """Remember the places, and the databases that are settled when something was erased.

        `discard` takes the events with a text in them out of the queues.
        """
        self._tenant, self._subjects, self._journal = tenant, subjects, journal
        self._low, self._high, self._completions = low, high, completions
        self._databases, self._discard = databases, discard

    def gather(self, subject: Subject, disclosure: Disclosure, keys: RequestKeys) -> Iterator[dict[str, Any]]:
        """Give the requests of a subject that are there, opened, with what was decided."""
        for validation in self._subjects.requests_of(subject.refs):
            # One that is deleted meanwhile is not there.
            with suppress(GoneError):
                entry = self._journal.find(self._tenant, validation)
                status = disclosure.find_status(self._tenant, validation)
                yield {
                    "validation": validation,
                    "status": status.status,
                    "decision": status.decision,
                    "reasons": list(status.reasons),
                    "created": status.created,
                    "updated": status.updated,
                    "record": keys.decrypt(self._tenant, validation, entry.fields),
                }

    def count(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Count the requests that are about subjects."""
        return len(self._subjects.requests_of(refs_of(subjects)))

    def erase(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Erase the requests: in the journal, both stores, and among what is on its way.

        What remains is each id and when. Whom it was about is forgotten last, since it is found by that.
        """
        found = self._subjects.requests_of(refs_of(subjects))
        for validation in found:
            deleted = self._journal.erase(self._tenant, validation)
            self._low.delete(self._tenant, validation, deleted)
            self._high.delete(self._tenant, validation, deleted, None)
            self._completions.forget(self._tenant, validation)
            self._discard(validation)
        for database in self._databases if found else ():
            database.settle()
        self._subjects.detach_requests(found)
        return len(found)
