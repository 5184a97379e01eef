"""The outbox: what Dagster is asked to do by programs that never import it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
import uuid_utils

from stores.database import OUTBOX, Database

EXPORT = "export"
FORGET = "forget"
FORGET_VALIDATION = "forget-validation"


@dataclass(frozen=True)
class Request:
    """Something to be done. `parameters` hold pseudonyms and times, never a personal value."""

    id: str
    kind: str
    tenant: str
    parameters: Mapping[str, str]


class Outbox:
    """The outbox table of the application database."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        """Remember the database; nothing is read yet."""
        self._database, self._clock = database, clock

    def ask(self, kind: str, tenant: str, parameters: Mapping[str, str]) -> str:
        """Ask for something; gives the request's id."""
        request = str(uuid_utils.uuid7())
        row = {"id": request, "kind": kind, "tenant": tenant, "parameters": json.dumps(dict(parameters))}
        with self._database.begin() as connection:
            asked_at = self._clock().isoformat()
            connection.execute(OUTBOX.insert().values(**row, created_at=asked_at, done_at=None))
        return request

    def waiting(self, kind: str, limit: int = 100) -> list[Request]:
        """Give requests that are not done yet, the oldest first."""
        query = sa.select(OUTBOX).where(OUTBOX.c.kind == kind, OUTBOX.c.done_at.is_(None))
        rows = self._database.rows(query.order_by(OUTBOX.c.id).limit(limit))
        return [Request(row["id"], row["kind"], row["tenant"], json.loads(row["parameters"])) for row in rows]

    def close(self, request_id: str) -> None:
        """Note that what was asked for is done."""
        with self._database.begin() as connection:
            change = sa.update(OUTBOX).where(OUTBOX.c.id == request_id)
            connection.execute(change.values(done_at=self._clock().isoformat()))
