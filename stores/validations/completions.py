"""What analytics has met of each change, so that a record goes to the lake once, and when it is whole."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from stores.database import VALIDATION_COMPLETIONS as ROWS
from stores.database import Database
from transforms.validations.events import Event, is_complete


class Completions:
    """The table of completions in the application database."""

    def __init__(self, database: Database) -> None:
        """Remember the database; nothing is read yet."""
        self._database = database

    def note(self, event: Event) -> bool:
        """Note an event; give whether its change is whole now, and not in the lake yet."""
        mine = _of(event.tenant, event.validation, event.change)
        with self._database.begin() as connection:
            row = connection.execute(sa.select(ROWS).where(mine)).first()
            met = {*(row.met.split(",") if row else ()), str(event.kind)}
            if row is None:
                named = {"tenant": event.tenant, "validation": event.validation, "change": event.change}
                connection.execute(ROWS.insert().values(**named, met=",".join(sorted(met)), batch_id=None))
            elif str(event.kind) not in row.met.split(","):
                connection.execute(sa.update(ROWS).where(mine).values(met=",".join(sorted(met))))
            return is_complete(met) and (row is None or row.batch_id is None)

    def hand_over(self, tenant: str, changes: Sequence[tuple[str, str]], batch: str) -> None:
        """Note which batch took the records of some changes, each named by validation and change."""
        with self._database.begin() as connection:
            for validation, change in changes:
                connection.execute(
                    sa.update(ROWS).where(_of(tenant, validation, change)).values(batch_id=batch)
                )

    def was_handed_over(self, tenant: str, validation: str) -> bool:
        """Whether the lake was given anything of a validation."""
        mine = sa.and_(ROWS.c.tenant == tenant, ROWS.c.validation == validation, ROWS.c.batch_id.is_not(None))
        return bool(self._database.rows(sa.select(ROWS.c.change).where(mine)))

    def forget(self, tenant: str, validation: str) -> None:
        """Forget all changes of a validation."""
        with self._database.begin() as connection:
            mine = sa.and_(ROWS.c.tenant == tenant, ROWS.c.validation == validation)
            connection.execute(sa.delete(ROWS).where(mine))


def _of(tenant: str, validation: str, change: str) -> sa.ColumnElement[bool]:
    return sa.and_(ROWS.c.tenant == tenant, ROWS.c.validation == validation, ROWS.c.change == change)
