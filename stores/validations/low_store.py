"""The low-security store: what was decided about a validation, and nothing of the person.

Every method can be called again, and calls may come in any order: the greatest change counts, and what was
deleted does not come back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Column, MetaData, Text

from stores.database import Database
from stores.validations.event_outbox import EventOutbox, delete_rows, event_table, of_validation
from transforms.validations.events import Event, moment_of

METADATA = MetaData()
HEAD = "v101"
DECISIONS = sa.Table(
    "decisions",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("change", Text, nullable=False),
    Column("decision", Text),
    Column("reasons", Text),
    Column("status", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("updated", Text, nullable=False),
)
DELETIONS = sa.Table(
    "deletions",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("deleted", Text, nullable=False),
    Column("decision", Text),
)
EVENTS = event_table(METADATA)

PENDING, FULFILLED = "pending", "fulfilled"


@dataclass(frozen=True)
class DecisionRecord:
    """What is known of a validation without its personal data."""

    id: str
    change: str
    decision: str | None
    reasons: tuple[str, ...]
    status: str
    created: str
    updated: str


class LowStore:
    """The decisions of all tenants."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        """Remember the database; nothing is read yet."""
        self.database, self._clock = database, clock
        self.outbox = EventOutbox(database, EVENTS)

    @staticmethod
    def database_at(path: Path, url: str | None, *, is_read_only: bool = False) -> Database:
        """Give the store's database: the one at an address, else the embedded one."""
        address, tables = url or f"sqlite:///{path}", tuple(METADATA.tables)
        return Database(address, "migrations/low", HEAD, tables, is_read_only=is_read_only)

    def put(self, tenant: str, validation: str, change: str) -> None:
        """Enter a validation, or a later change of one, as pending."""
        mine = of_validation(DECISIONS, tenant, validation)
        entered = moment_of(change).isoformat()
        fresh = {"change": change, "decision": None, "reasons": None, "status": PENDING, "updated": entered}
        with self.database.begin() as connection:
            if connection.execute(
                sa.select(DELETIONS).where(of_validation(DELETIONS, tenant, validation))
            ).first():
                return
            if connection.execute(sa.select(DECISIONS).where(mine)).first() is None:
                created = moment_of(validation).isoformat()
                row = {"tenant": tenant, "id": validation, "created": created, **fresh}
                connection.execute(DECISIONS.insert().values(**row))
            else:
                connection.execute(
                    sa.update(DECISIONS).where(mine, DECISIONS.c.change < change).values(**fresh)
                )

    def update(
        self, tenant: str, validation: str, change: str, decision: str, reasons: Sequence[str], event: Event
    ) -> None:
        """Write down the decision about a change, once, with the event that tells it."""
        pending = sa.and_(
            of_validation(DECISIONS, tenant, validation),
            DECISIONS.c.change == change,
            DECISIONS.c.status == PENDING,
        )
        decided = {
            "decision": decision,
            "reasons": ",".join(reasons),
            "status": FULFILLED,
            "updated": self._clock().isoformat(),
        }
        with self.database.begin() as connection:
            if connection.execute(sa.update(DECISIONS).where(pending).values(**decided)).rowcount:
                self.outbox.add(connection, event)

    def delete(self, tenant: str, validation: str, deleted: str, *, keeps_decision: bool = False) -> None:
        """Delete a decision; what remains is the id and when, and the verdict where a tenant keeps it."""
        with self.database.begin() as connection:
            mine = of_validation(DECISIONS, tenant, validation)
            kept = connection.execute(sa.select(DECISIONS.c.decision).where(mine)).scalar()
            connection.execute(sa.delete(DECISIONS).where(mine))
            if (
                connection.execute(
                    sa.select(DELETIONS).where(of_validation(DELETIONS, tenant, validation))
                ).first()
                is None
            ):
                row = {"tenant": tenant, "id": validation, "deleted": deleted}
                connection.execute(DELETIONS.insert().values(**row, decision=kept if keeps_decision else None))

    def delete_tenant(self, tenant: str) -> int:
        """Delete everything of a tenant, events on their way and what is left of deletions too."""
        return delete_rows(self.database, METADATA, tenant)

    def get(self, tenant: str, validation: str) -> DecisionRecord | None:
        """Give what was decided; None where nothing is there."""
        rows = self.database.rows(sa.select(DECISIONS).where(of_validation(DECISIONS, tenant, validation)))
        if not rows:
            return None
        row = {name: value for name, value in rows[0].items() if name != "tenant"}
        return DecisionRecord(
            **{**row, "reasons": tuple((row["reasons"] or "").split(",")) if row["reasons"] else ()}
        )
