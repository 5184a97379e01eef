"""The validations put together: each service with the handles that the access matrix lends it.

Like the composition root, it knows no Dagster.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from stores.contracts import load_contract
from stores.data_subjects import Subject
from stores.database import Database
from stores.database_connections import read_address
from stores.embedded_queue import EmbeddedQueue
from stores.home import Home
from stores.keys import TenantKeys
from stores.landing import Landing
from stores.outbox import Outbox
from stores.queue import Queue
from stores.queues import open_queue
from stores.settings import Settings
from stores.subjects import SubjectKeys
from stores.validations.analytics import SOURCE, Analytics
from stores.validations.completions import Completions
from stores.validations.disclosure import Disclosure
from stores.validations.event_bus import EventBus
from stores.validations.event_outbox import EventOutbox
from stores.validations.event_worker import Consumer, EventWorker
from stores.validations.handles import Handle
from stores.validations.high_store import HighStore
from stores.validations.intake import ValidationIntake
from stores.validations.low_store import LowStore
from stores.validations.pii_store import PiiStore
from stores.validations.request_journal import RequestJournal
from stores.validations.request_keys import Registrar, RequestKeys
from stores.validations.subject_requests import SubjectRequests
from stores.validations.validator import Validator
from transforms.errors import UsageError
from transforms.validations.matrix import SUBSCRIPTIONS, Asset, Service, verbs_of


@dataclass(frozen=True)
class Surroundings:
    """What the validations share with the rest of the platform."""

    settings: Settings
    home: Home
    database: Database
    landing: Landing
    outbox: Outbox
    keys: Callable[[str], TenantKeys]
    subject_keys: Callable[[str], SubjectKeys]
    clock: Callable[[], datetime]


class Validations:
    """Every service of the validations, made when first used."""

    def __init__(self, around: Surroundings) -> None:
        """Remember the surroundings; nothing is opened yet."""
        self._around = around
        # A connection to an embedded queue is its thread's alone.
        self._opened = threading.local()

    @cached_property
    def journal(self) -> RequestJournal:
        """What the gateway has accepted."""
        return RequestJournal(self._around.database, self._around.clock)

    @cached_property
    def low(self) -> LowStore:
        """The low-security store, as its writers have it."""
        return LowStore(self._writable(LowStore.database_at(*self._low_address())), self._around.clock)

    @cached_property
    def high(self) -> HighStore:
        """The high-security store, as its writers have it."""
        return HighStore(self._writable(HighStore.database_at(*self._high_address())))

    @cached_property
    def completions(self) -> Completions:
        """What analytics has met."""
        return Completions(self._around.database)

    @cached_property
    def registrar(self) -> Registrar:
        """Who meets subjects."""
        domain = str(load_contract(SOURCE).subject.domain)
        return Registrar(domain, self._around.keys, self._around.subject_keys)

    @cached_property
    def intake(self) -> ValidationIntake:
        """Who accepts requests."""
        service = Service.INTAKE
        return ValidationIntake(
            self.journal, self.registrar, self.lend(service, Asset.KEYS), self.lend(service, Asset.EVENTS)
        )

    @cached_property
    def disclosure(self) -> Disclosure:
        """Who answers for requests."""
        lent = (self.lend(Service.DISCLOSURE, asset) for asset in (Asset.LOW, Asset.HIGH, Asset.KEYS))
        return Disclosure(self.journal, *lent)

    def subject_requests(self, tenant: str) -> SubjectRequests:
        """Give who finds a tenant's requests by whom they are about."""
        databases = [self._around.database, self.low.database, self.high.database]
        return SubjectRequests(
            tenant,
            self._around.subject_keys(tenant),
            self.journal,
            self.low,
            self.high,
            self.completions,
            databases,
            self.discard,
        )

    def delete_tenant(self, tenant: str) -> int:
        """Delete what both stores and the queues have of a tenant; give how many rows went."""
        self.discard(f'"tenant":"{tenant}"')
        return self.low.delete_tenant(tenant) + self.high.delete_tenant(tenant)

    def discard(self, part: str) -> None:
        """Take the events with a text in them out of the queues; those of SQS are their owner's to delete."""
        for service in LISTENERS:
            queue = self.queue(service)
            if isinstance(queue, EmbeddedQueue):
                queue.discard(part)

    def gather(self, tenant: str, subject: Subject) -> list[dict[str, Any]]:
        """Give everything that the validations have of a subject, in clear."""
        keys = RequestKeys(self._around.subject_keys)
        return list(self.subject_requests(tenant).gather(subject, self.disclosure, keys))

    def lend(self, service: Service, asset: Asset) -> Handle:
        """Give a service what the access matrix lets it have of an asset."""
        return Handle(service, asset, self._target(service, asset))

    def worker(self, service: Service, tell: Callable[[str], None]) -> EventWorker:
        """Give what runs a service that listens; `tell` is told what goes wrong."""
        queue: Queue = self.lend(service, Asset.EVENTS).subscribe()
        return EventWorker(service, self._consumer(service), queue, self._around.home, tell)

    def migrate(self) -> None:
        """Make the tables of both stores, or bring them to this release."""
        for database in (
            LowStore.database_at(*self._low_address()),
            HighStore.database_at(*self._high_address()),
        ):
            database.migrate()
            database.close()

    def close(self) -> None:
        """Give back the connections to both stores."""
        for store in (self.low, self.high, self._low_reader, self._high_reader):
            store.database.close()

    def queue(self, service: Service) -> Queue:
        """Give the queue of the events that a service listens to."""
        queues: dict[Service, Queue] = self._opened.__dict__.setdefault("queues", {})
        if service not in queues:
            queues[service] = self._opened_queue(service)
        return queues[service]

    def _consumer(self, service: Service) -> Consumer:
        if service is Service.VALIDATOR:
            lent = [self.lend(service, asset) for asset in (Asset.LOW, Asset.KEYS, Asset.EVENTS)]
            return Validator(lent[0], lent[1], lent[2], self._minimum_age, self._keeps_decisions)
        if service is Service.PII_STORE:
            return PiiStore(self.lend(service, Asset.HIGH), self.lend(service, Asset.EVENTS))
        lent = [self.lend(service, asset) for asset in (Asset.LOW, Asset.HIGH, Asset.KEYS)]
        return Analytics(lent[0], lent[1], lent[2], self.completions, self._around.landing, self._around.outbox)

    def _target(self, service: Service, asset: Asset) -> object:
        """Give what a handle is made of; who may only read has a connection that can do no more."""
        writes = set(verbs_of(service, asset)) & {"put", "update", "delete"}
        if asset is Asset.KEYS:
            return RequestKeys(self._around.subject_keys)
        if asset is Asset.LOW:
            return self.low if writes else self._low_reader
        if asset is Asset.HIGH:
            return self.high if writes else self._high_reader
        return EventBus(service, self.queue, self._outbox_of(service))

    def _outbox_of(self, service: Service) -> EventOutbox | None:
        """Give the outbox of the store that a service writes to; only that store is opened."""
        if service is Service.INTAKE:
            return self.journal.outbox
        if service is Service.VALIDATOR:
            return self.low.outbox
        return self.high.outbox if service is Service.PII_STORE else None

    @cached_property
    def _low_reader(self) -> LowStore:
        return LowStore(LowStore.database_at(*self._low_address(), is_read_only=True), self._around.clock)

    @cached_property
    def _high_reader(self) -> HighStore:
        return HighStore(HighStore.database_at(*self._high_address(), is_read_only=True))

    def _low_address(self) -> tuple[Path, str | None]:
        return self._around.home.validations / "low.db", read_address(self._around.settings, "low_store_url")

    def _high_address(self) -> tuple[Path, str | None]:
        return self._around.home.validations / "high.db", read_address(self._around.settings, "high_store_url")

    def _writable(self, database: Database) -> Database:
        database.require()
        return database

    def _opened_queue(self, service: Service) -> Queue:
        chosen = self._around.settings
        url = chosen.validation_queue_url and chosen.validation_queue_url.replace("{service}", service)
        path = self._around.home.validations / "queues" / f"{service}.db"
        return open_queue(chosen, url, path, self._around.clock)

    def _minimum_age(self, tenant: str) -> int:
        chosen = self._around.settings
        ages = dict(
            one.strip().split("=", 1) for one in chosen.validation_minimum_ages.split(",") if "=" in one
        )
        try:
            return int(ages.get(tenant, chosen.validation_minimum_age))
        except ValueError:
            raise UsageError(
                "validation_minimum_ages holds an age that is no number: acme=16,other=21"
            ) from None

    def _keeps_decisions(self, tenant: str) -> bool:
        named = {one.strip() for one in self._around.settings.validation_keep_decisions.split(",")}
        return bool(named & {tenant, "*"})


LISTENERS = tuple(SUBSCRIPTIONS)
