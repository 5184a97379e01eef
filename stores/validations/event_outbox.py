"""What both stores have: an outbox, whose events are written with what they tell of, and how rows are found."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from stores.database import Database
from transforms.validations.events import Event, encode_event

_AT_ONCE = 500


def event_table(metadata: sa.MetaData) -> sa.Table:
    """Declare the table of a store's events; numbers are not given twice."""
    return sa.Table(
        "events",
        metadata,
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )


class EventOutbox:
    """The events of one database that are on their way to the queues."""

    def __init__(self, database: Database, table: sa.Table) -> None:
        """Remember the table; nothing is read yet."""
        self._database, self._table = database, table

    def add(self, connection: sa.Connection, event: Event) -> None:
        """Write an event in the transaction of what it tells."""
        connection.execute(self._table.insert().values(tenant=event.tenant, message=encode_event(event)))

    def waiting(self) -> list[tuple[int, str]]:
        """Give some messages by their numbers, the oldest first."""
        query = sa.select(self._table).order_by(self._table.c.number).limit(_AT_ONCE)
        return [(row["number"], row["message"]) for row in self._database.rows(query)]

    def close(self, numbers: Sequence[int]) -> None:
        """Forget messages that are on the queues of everybody whom they go to."""
        with self._database.begin() as connection:
            connection.execute(sa.delete(self._table).where(self._table.c.number.in_(numbers)))


def delete_rows(database: Database, tables: sa.MetaData, tenant: str) -> int:
    """Delete the rows of a tenant in every table of a store; give how many went."""
    with database.begin() as connection:
        gone = sum(
            connection.execute(sa.delete(table).where(table.c.tenant == tenant)).rowcount
            for table in tables.sorted_tables
        )
    database.settle()
    return gone


def of_validation(table: sa.Table, tenant: str, validation: str) -> sa.ColumnElement[bool]:
    """Tell the rows of a validation in a store's table."""
    return sa.and_(table.c.tenant == tenant, table.c.id == validation)
