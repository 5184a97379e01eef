"""The curated marts of a tenant: which dates a write has touched, and their rebuild by dbt."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from stores.dbt_runs import DbtOutcome, build
from stores.tables import Tables

ZONE = "curated"


class Marts:
    """Builds the marts. One build of a tenant runs at a time."""

    def __init__(self, tables: Tables, lake: Path, target: Path, settings: dict[str, int]) -> None:
        """Remember the lake, and where dbt may write what it needs while it runs."""
        self._tables, self._lake, self._target, self._settings = tables, lake, target, settings

    def rebuild(self, tenant: str, dates: Sequence[date], mark: str) -> DbtOutcome:
        """Replace the given dates in every mart of a tenant; `mark` goes into the tables' history.

        A mart that does not fit its contract, or a test that fails, is in the outcome.
        """
        with self._tables.writing_zone(tenant, ZONE):
            return build(tenant, self._lake, dates, self._target, mark, settings=self._settings)
