"""The high-security store: the personal data of validations, each field sealed. It holds no key.

Every method can be called again, and calls may come in any order, as in the low-security store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Column, LargeBinary, MetaData, Text

from stores.database import Database
from stores.validations.event_outbox import EventOutbox, delete_rows, event_table, of_validation
from transforms.validations.events import Event, moment_of

METADATA = MetaData()
HEAD = "v201"
RECORDS = sa.Table(
    "records",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("change", Text, nullable=False),
    Column("username", LargeBinary, nullable=False),
    Column("full_name", LargeBinary, nullable=False),
    Column("date_of_birth", LargeBinary, nullable=False),
    Column("address_country", LargeBinary, nullable=False),
    Column("phone_number", LargeBinary, nullable=False),
    Column("address_street", LargeBinary),
    Column("address_postal_code", LargeBinary),
    Column("address_city", LargeBinary),
    Column("document_type", LargeBinary),
    Column("document_number", LargeBinary),
    Column("created", Text, nullable=False),
    Column("updated", Text, nullable=False),
)
DELETIONS = sa.Table(
    "deletions",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("deleted", Text, nullable=False),
)
EVENTS = event_table(METADATA)
FIELDS = tuple(one.name for one in RECORDS.columns if isinstance(one.type, LargeBinary))


@dataclass(frozen=True)
class SealedRecord:
    """The personal data of a validation, sealed; absent fields are not in it."""

    id: str
    change: str
    fields: Mapping[str, bytes]
    created: str
    updated: str


class HighStore:
    """The sealed records of all tenants."""

    def __init__(self, database: Database) -> None:
        """Remember the database; nothing is read yet."""
        self.database = database
        self.outbox = EventOutbox(database, EVENTS)

    @staticmethod
    def database_at(path: Path, url: str | None, *, is_read_only: bool = False) -> Database:
        """Give the store's database: the one at an address, else the embedded one."""
        address, tables = url or f"sqlite:///{path}", tuple(METADATA.tables)
        return Database(address, "migrations/high", HEAD, tables, is_read_only=is_read_only)

    def put(self, tenant: str, validation: str, change: str, fields: Mapping[str, bytes], event: Event) -> bool:
        """Store a new record with the event that tells it; give False where one is there, or was deleted."""
        with self.database.begin() as connection:
            for table in (RECORDS, DELETIONS):
                if connection.execute(
                    sa.select(table.c.id).where(of_validation(table, tenant, validation))
                ).first():
                    return False
            created = moment_of(validation).isoformat()
            named = {"tenant": tenant, "id": validation, "created": created, **_values(change, fields)}
            connection.execute(RECORDS.insert().values(**named))
            self.outbox.add(connection, event)
            return True

    def update(
        self, tenant: str, validation: str, change: str, fields: Mapping[str, bytes], event: Event
    ) -> None:
        """Replace the fields of a record by those of a later change, with the event that tells it."""
        older = sa.and_(of_validation(RECORDS, tenant, validation), RECORDS.c.change < change)
        with self.database.begin() as connection:
            if connection.execute(sa.update(RECORDS).where(older).values(**_values(change, fields))).rowcount:
                self.outbox.add(connection, event)

    def delete(self, tenant: str, validation: str, deleted: str, event: Event | None) -> None:
        """Delete a record, with the event that tells it, once; what remains is the id and when."""
        with self.database.begin() as connection:
            connection.execute(sa.delete(RECORDS).where(of_validation(RECORDS, tenant, validation)))
            gone = sa.select(DELETIONS.c.id).where(of_validation(DELETIONS, tenant, validation))
            if connection.execute(gone).first() is None:
                connection.execute(DELETIONS.insert().values(tenant=tenant, id=validation, deleted=deleted))
                if event is not None:
                    self.outbox.add(connection, event)

    def delete_tenant(self, tenant: str) -> int:
        """Delete everything of a tenant, events on their way and what is left of deletions too."""
        return delete_rows(self.database, METADATA, tenant)

    def get(self, tenant: str, validation: str) -> SealedRecord | None:
        """Give a record, sealed as it is; None where nothing is there."""
        rows = self.database.rows(sa.select(RECORDS).where(of_validation(RECORDS, tenant, validation)))
        if not rows:
            return None
        row = rows[0]
        fields = {name: bytes(row[name]) for name in FIELDS if row[name] is not None}
        return SealedRecord(validation, row["change"], fields, row["created"], row["updated"])


def _values(change: str, fields: Mapping[str, bytes]) -> dict[str, object]:
    sealed = {name: fields.get(name) for name in FIELDS}
    return {**sealed, "change": change, "updated": moment_of(change).isoformat()}
