"""The gateway's journal: every request as it was last sealed, its keys, and the events that tell of it.

It is what the gateway answers for before the stores have heard of a request, and what a change of some
fields is put together with. Nothing in it can be opened by who writes it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
import uuid_utils

from stores.database import VALIDATION_EVENTS, VALIDATION_KEYS, VALIDATION_REQUESTS, Database
from stores.validations.event_outbox import EventOutbox
from transforms.errors import GoneError, MissingError, UsageError
from transforms.validations.events import Event, EventType, following, moment_of

# A client that comes again later than this begins anew.
KEYS_KEPT_FOR = timedelta(days=30)


@dataclass(frozen=True)
class RequestMark:
    """Under which key something was asked for, and what: keyed digests of both."""

    key: str
    body: str


@dataclass(frozen=True)
class JournalEntry:
    """A request that was accepted; `change` is its latest one."""

    id: str
    change: str
    fields: Mapping[str, bytes]
    deleted: str | None


class RequestJournal:
    """The requests of all tenants, as the gateway knows them."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        """Remember the database; nothing is read yet."""
        self._database, self._clock = database, clock
        self.outbox = EventOutbox(database, VALIDATION_EVENTS)

    def new_id(self) -> str:
        """Make a UUID of version 7 for now."""
        # In whole microseconds: a float of seconds holds no more.
        return str(uuid_utils.uuid7(nanoseconds=int(self._clock().timestamp() * 1_000_000) * 1000))

    def find_marked(self, tenant: str, mark: RequestMark) -> str | None:
        """Give the validation that came under a key before.

        Raises: UsageError where it came with something else.
        """
        with self._database.begin() as connection:
            return _marked(connection, tenant, mark)

    def accept(
        self, tenant: str, validation: str, fields: Mapping[str, bytes], mark: RequestMark | None
    ) -> str:
        """Write a new request down, with its event; give its id, or of who came first under the key."""
        event = Event(EventType.VALIDATION_REQUEST, tenant, validation, validation, fields)
        with self._database.begin() as connection:
            known = _marked(connection, tenant, mark) if mark else None
            if known is not None:
                return known
            row = {"tenant": tenant, "id": validation, "change": validation, "fields": _packed(fields)}
            connection.execute(VALIDATION_REQUESTS.insert().values(**row, deleted=None))
            self._keep_mark(connection, tenant, validation, mark)
            self.outbox.add(connection, event)
        return validation

    def change(
        self,
        tenant: str,
        validation: str,
        fields: Mapping[str, bytes],
        removed: Collection[str],
        mark: RequestMark | None,
    ) -> str:
        """Put changed fields to those that were left alone; give the change's id.

        Raises: MissingError, GoneError; UsageError where the key came with something else.
        """
        with self._database.begin() as connection:
            entry = _live(connection, tenant, validation)
            if mark is not None and _marked(connection, tenant, mark) is not None:
                return entry.change
            kept = {name: one for name, one in entry.fields.items() if name not in removed}
            merged, change = {**kept, **fields}, max(self.new_id(), following(entry.change))
            _set(connection, tenant, validation, change=change, fields=_packed(merged))
            self._keep_mark(connection, tenant, validation, mark)
            self.outbox.add(connection, Event(EventType.VALIDATION_REQUEST, tenant, validation, change, merged))
        return change

    def delete(self, tenant: str, validation: str) -> str:
        """Delete a request, with the event that asks the stores to; what remains is its id and when.

        Gives when. Raises: MissingError, GoneError.
        """
        with self._database.begin() as connection:
            entry = _live(connection, tenant, validation)
            change = max(self.new_id(), following(entry.change))
            deleted = moment_of(change).isoformat()
            _forget(connection, tenant, validation, deleted, change)
            self.outbox.add(connection, Event(EventType.DELETION_REQUEST, tenant, validation, change))
        return deleted

    def erase(self, tenant: str, validation: str) -> str:
        """Forget a request whose subject is erased, and every event of it that is still here; give when."""
        with self._database.begin() as connection:
            entry = _find(connection, tenant, validation)
            deleted = (entry.deleted if entry else None) or self._clock().isoformat(timespec="milliseconds")
            if entry is not None and entry.deleted is None:
                _forget(connection, tenant, validation, deleted, entry.change)
            mine = VALIDATION_EVENTS.c.message.contains(validation, autoescape=True)
            connection.execute(sa.delete(VALIDATION_EVENTS).where(mine))
        return deleted

    def find(self, tenant: str, validation: str) -> JournalEntry:
        """Give a request that is there.

        Raises: MissingError where the tenant has none of that id; GoneError where it was deleted.
        """
        with self._database.begin() as connection:
            return _live(connection, tenant, validation)

    def accepted_before(self, tenant: str, moment: datetime) -> Iterator[str]:
        """Give the requests that are there and were last changed before a moment."""
        mine = sa.and_(VALIDATION_REQUESTS.c.tenant == tenant, VALIDATION_REQUESTS.c.deleted.is_(None))
        for row in self._database.rows(sa.select(VALIDATION_REQUESTS).where(mine)):
            if moment_of(row["change"]) < moment:
                yield str(row["id"])

    def forget_keys(self) -> None:
        """Forget keys that are older than a client comes again."""
        oldest = (self._clock() - KEYS_KEPT_FOR).isoformat()
        with self._database.begin() as connection:
            connection.execute(sa.delete(VALIDATION_KEYS).where(VALIDATION_KEYS.c.created_at < oldest))

    def _keep_mark(
        self, connection: sa.Connection, tenant: str, validation: str, mark: RequestMark | None
    ) -> None:
        if mark is not None:
            row = {"tenant": tenant, "key": mark.key, "validation": validation, "body": mark.body}
            connection.execute(VALIDATION_KEYS.insert().values(**row, created_at=self._clock().isoformat()))


def _marked(connection: sa.Connection, tenant: str, mark: RequestMark) -> str | None:
    mine = sa.and_(VALIDATION_KEYS.c.tenant == tenant, VALIDATION_KEYS.c.key == mark.key)
    row = connection.execute(sa.select(VALIDATION_KEYS).where(mine)).first()
    # What was deleted is not held against its key any more: only that it was here is still known.
    if row is not None and row.body not in (None, mark.body):
        raise UsageError("this idempotency key came with another request before")
    return str(row.validation) if row is not None else None


def _find(connection: sa.Connection, tenant: str, validation: str) -> JournalEntry | None:
    row = connection.execute(sa.select(VALIDATION_REQUESTS).where(_of(tenant, validation))).first()
    if row is None:
        return None
    packed = json.loads(row.fields) if row.fields else {}
    fields = {name: base64.b64decode(one) for name, one in packed.items()}
    return JournalEntry(row.id, row.change, fields, row.deleted)


def _live(connection: sa.Connection, tenant: str, validation: str) -> JournalEntry:
    entry = _find(connection, tenant, validation)
    if entry is None:
        raise MissingError("no such validation")
    if entry.deleted is not None:
        raise GoneError(f"the validation was deleted at {entry.deleted}")
    return entry


def _forget(connection: sa.Connection, tenant: str, validation: str, deleted: str, change: str) -> None:
    _set(connection, tenant, validation, change=change, fields=None, deleted=deleted)
    mine = sa.and_(VALIDATION_KEYS.c.tenant == tenant, VALIDATION_KEYS.c.validation == validation)
    connection.execute(sa.update(VALIDATION_KEYS).where(mine).values(body=None))


def _set(connection: sa.Connection, tenant: str, validation: str, **values: str | None) -> None:
    connection.execute(sa.update(VALIDATION_REQUESTS).where(_of(tenant, validation)).values(**values))


def _of(tenant: str, validation: str) -> sa.ColumnElement[bool]:
    return sa.and_(VALIDATION_REQUESTS.c.tenant == tenant, VALIDATION_REQUESTS.c.id == validation)


def _packed(fields: Mapping[str, bytes]) -> str:
    return json.dumps({name: base64.b64encode(one).decode() for name, one in sorted(fields.items())})
