"""Idempotency keys: a request that comes again gets the answer of the first, and is not done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from stores.database import IDEMPOTENCY, Database
from transforms.errors import NotYetError, UsageError

# Clients that come again later than this begin anew.
KEPT_FOR = timedelta(hours=24)
# The process that had begun is dead: the request may be done by another.
GIVEN_UP_AFTER = timedelta(minutes=5)


@dataclass(frozen=True)
class Answer:
    """What a request came to. `body` holds no personal value."""

    status: int
    body: str


class Idempotency:
    """The idempotency table of the application database."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        """Remember the database; nothing is read yet."""
        self._database, self._clock = database, clock

    def begin(self, tenant: str, principal: str, key: str, digest: str) -> Answer | None:
        """Begin a request under a key; gives the first one's answer where it was done before.

        Raises: UsageError where the key came with another request; NotYetError while the first one runs.
        """
        now = self._clock()
        mine = _of(tenant, principal, key)
        with self._database.begin() as connection:
            old = IDEMPOTENCY.c.created_at < (now - KEPT_FOR).isoformat()
            connection.execute(sa.delete(IDEMPOTENCY).where(old))
            row = connection.execute(sa.select(IDEMPOTENCY).where(mine)).first()
            if row is not None and row.digest != digest:
                raise UsageError("this idempotency key came with another request before")
            if row is not None and row.status is not None:
                return Answer(row.status, row.response)
            if row is not None and row.created_at > (now - GIVEN_UP_AFTER).isoformat():
                raise NotYetError("the first request under this key is still being worked on")
            connection.execute(sa.delete(IDEMPOTENCY).where(mine))
            named = {"tenant": tenant, "principal": principal, "key": key, "digest": digest}
            connection.execute(
                IDEMPOTENCY.insert().values(**named, status=None, response=None, created_at=now.isoformat())
            )
        return None

    def finish(self, tenant: str, principal: str, key: str, answer: Answer) -> None:
        """Keep what the request came to."""
        with self._database.begin() as connection:
            change = sa.update(IDEMPOTENCY).where(_of(tenant, principal, key))
            connection.execute(change.values(status=answer.status, response=answer.body))

    def abandon(self, tenant: str, principal: str, key: str) -> None:
        """Forget a request that failed: it may come again."""
        with self._database.begin() as connection:
            connection.execute(sa.delete(IDEMPOTENCY).where(_of(tenant, principal, key)))


def _of(tenant: str, principal: str, key: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        IDEMPOTENCY.c.tenant == tenant, IDEMPOTENCY.c.principal == principal, IDEMPOTENCY.c.key == key
    )
