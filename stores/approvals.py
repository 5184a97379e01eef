"""Approvals: a reveal that needs a second person waits here until somebody else has decided."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
import uuid_utils

from stores.database import APPROVALS, Database
from transforms.errors import ConflictError, MissingError, RefusedError

# A granted reveal is made soon, or asked for again.
VALID_FOR = timedelta(hours=24)
GRANTED, REFUSED = "granted", "refused"


@dataclass(frozen=True)
class Approval:
    """What somebody asked for. `question` is a keyed digest of all of it, `described` what may be shown."""

    id: str
    asked_by: str
    asked_at: str
    question: str
    described: Mapping[str, Any]
    decision: str | None
    decided_by: str | None
    decided_at: str | None
    used_at: str | None


class Approvals:
    """The approvals of one tenant."""

    def __init__(self, tenant: str, database: Database, clock: Callable[[], datetime]) -> None:
        """Remember the database; nothing is read yet."""
        self._tenant, self._database, self._clock = tenant, database, clock

    def ask(self, principal: str, question: str, described: Mapping[str, Any]) -> Approval:
        """Ask for a decision, once: the same question that waits is given again."""
        for one in self.listing():
            if one.decision is None and (one.question, one.asked_by) == (question, principal):
                return one
        row = {
            "id": str(uuid_utils.uuid7()),
            "tenant": self._tenant,
            "asked_by": principal,
            "asked_at": self._now(),
            "question": question,
            "described": json.dumps(dict(described)),
        }
        with self._database.begin() as connection:
            connection.execute(APPROVALS.insert().values(**row))
        return self.find(row["id"])

    def decide(self, approval_id: str, principal: str, decision: str) -> Approval:
        """Grant or refuse what somebody else asked for.

        Raises: RefusedError where one decides on one's own question; ConflictError where it is decided.
        """
        asked = self.find(approval_id)
        if asked.asked_by == principal:
            raise RefusedError("a second person has to decide: nobody grants what they asked for themselves")
        if asked.decision is not None:
            raise ConflictError(f"it was decided already: {asked.decision}")
        waiting = sa.and_(self._is(approval_id), APPROVALS.c.decision.is_(None))
        made = {"decision": decision, "decided_by": principal, "decided_at": self._now()}
        with self._database.begin() as connection:
            connection.execute(sa.update(APPROVALS).where(waiting).values(**made))
        return self.find(approval_id)

    def take(self, principal: str, question: str) -> Approval | None:
        """Use up an approval of a question, None where there is none; each serves once."""
        oldest = (self._clock() - VALID_FOR).isoformat(timespec="seconds")
        for one in self.listing():
            is_mine = (one.question, one.asked_by, one.decision) == (question, principal, GRANTED)
            if is_mine and one.used_at is None and str(one.decided_at) >= oldest:
                free = sa.and_(self._is(one.id), APPROVALS.c.used_at.is_(None))
                with self._database.begin() as connection:
                    change = sa.update(APPROVALS).where(free).values(used_at=self._now())
                    if connection.execute(change).rowcount:
                        return one
        return None

    def listing(self) -> list[Approval]:
        """Give every question, the oldest first."""
        query = sa.select(APPROVALS).where(APPROVALS.c.tenant == self._tenant).order_by(APPROVALS.c.id)
        rows = self._database.rows(query)
        return [Approval(**{**_without_tenant(row), "described": json.loads(row["described"])}) for row in rows]

    def find(self, approval_id: str) -> Approval:
        """Give a question by its id.

        Raises: MissingError where there is none.
        """
        found = [one for one in self.listing() if one.id == approval_id]
        if not found:
            raise MissingError("no such request", see="lockhouse approval list")
        return found[0]

    def _is(self, approval_id: str) -> sa.ColumnElement[bool]:
        return sa.and_(APPROVALS.c.tenant == self._tenant, APPROVALS.c.id == approval_id)

    def _now(self) -> str:
        return self._clock().isoformat(timespec="seconds")


def _without_tenant(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "tenant"}
