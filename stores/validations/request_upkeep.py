"""The upkeep of requests: what is past the contract's retention is deleted, as if somebody had asked for it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from stores.contracts import load_contract
from stores.validations.analytics import SOURCE
from stores.validations.intake import ValidationIntake
from stores.validations.request_journal import RequestJournal

_DEFAULT_DAYS = 365


class RequestUpkeep:
    """Deletes requests of all tenants when their time is over."""

    def __init__(self, journal: RequestJournal, intake: ValidationIntake) -> None:
        """Remember who knows the requests, and who deletes them."""
        self._journal, self._intake = journal, intake

    def keep_up(self, tenants: Iterable[str], now: datetime) -> int:
        """Delete the requests that were last changed before the retention's beginning; give how many."""
        days = load_contract(SOURCE).retention_days.get(f"requests.{SOURCE}", _DEFAULT_DAYS)
        expired = [
            (tenant, validation)
            for tenant in tenants
            for validation in self._journal.accepted_before(tenant, now - timedelta(days=days))
        ]
        for tenant, validation in expired:
            self._intake.delete(tenant, validation)
        self._journal.forget_keys()
        return len(expired)
