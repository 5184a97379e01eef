"""The composition root: plain objects made from settings.

It knows no Dagster, so that the command line and the service start fast and share it with the runs.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration.validations import Surroundings, Validations
from stores.access import Access
from stores.access_packages import AccessPackages
from stores.announced_objects import AnnouncedObjects, ObjectLimits
from stores.approvals import Approvals
from stores.audit import AuditTrail
from stores.aws import s3_client
from stores.capture_exports import CaptureExports
from stores.capture_upkeep import CaptureLimits, CaptureUpkeep
from stores.captures import CaptureIntake
from stores.certificates import Certificates
from stores.contracts import load_contract
from stores.copies import Copy, ExportCopy, PackageCopy, PartCopy, RegistryCopy, SeenCopy, TokenCopy
from stores.data_subjects import DataSubjects
from stores.database import Database
from stores.database_connections import read_database_address
from stores.devices import Devices
from stores.erasing import Erasing, ErasureStores
from stores.erasure_places import ErasurePlaces
from stores.erasure_requests import ErasureRequests
from stores.erasure_scan import ErasureScan
from stores.flow import Flow
from stores.home import Home, checked_tenant
from stores.idempotency import Idempotency
from stores.intake import Intake
from stores.kept_exports import KeptExports
from stores.kept_parts import KeptParts
from stores.keyring import KeyProvider, LocalKeyring, generate_passphrase, read_passphrase
from stores.keys import TenantKeys, create_tenant_keys
from stores.landing import Landing
from stores.ledger import Ledger
from stores.maintenance import Maintenance
from stores.marts import Marts
from stores.offboarding import Offboarding, OffboardingStores, ServedRows
from stores.outbox import Outbox
from stores.publishing import Publishing
from stores.queue import Queue
from stores.queues import open_queue
from stores.receiver import Receiver, ReceiverLimits
from stores.rotation import Rotation
from stores.settings import QueueSettings, Settings, load_settings
from stores.sign_ins import SignIns, read_provider
from stores.subject_access import SubjectAccess
from stores.subjects import SubjectKeys
from stores.tables import Tables
from stores.tokens import Tokens, read_issuers
from stores.upload_policies import UploadPolicies, UploadPolicy
from stores.uploads import Uploads
from stores.user_logins import UserLogins, read_served_address
from stores.users import Users
from stores.validations.lake_removal import LakeRemoval
from stores.validations.request_upkeep import RequestUpkeep
from transforms.access import Role
from transforms.audit import Action, Outcome
from transforms.errors import UsageError
from transforms.user_logins import describe_columns

if TYPE_CHECKING:
    from stores.spans import Spans


def now() -> datetime:
    """Give the time, UTC: the platform's only clock."""
    return datetime.now(UTC)


class Platform:
    """Every store of a home, made when first used."""

    def __init__(self, settings: Settings | None = None) -> None:
        """Take the settings; nothing is opened and no file is made."""
        self.settings = settings or load_settings()
        self.home = Home(self.settings.home)

    @cached_property
    def database(self) -> Database:
        """The application database; UsageError where the home is not made yet."""
        address = read_database_address(self.settings)
        if address is None and not self.home.database.exists():
            raise UsageError(f"no home at {self.home.root}: run `lockhouse init`, or give --home")
        database = Database.at(self.home.database, address)
        database.require()
        return database

    @cached_property
    def provider(self) -> KeyProvider:
        """The keeper of the root keys."""
        return LocalKeyring(self.home.keyring, read_passphrase(self.passphrase_file))

    @property
    def passphrase_file(self) -> Path:
        """The file that opens the keyring."""
        return self.settings.passphrase_file or self.home.passphrase

    @cached_property
    def tables(self) -> Tables:
        """The Delta tables."""
        return Tables(self.home.lake, self.home.locks, self.settings.rollup_commits)

    @cached_property
    def spans(self) -> Spans | None:
        """Where spans of requests go, None where none are made."""
        if self.settings.service_spans_url is None:
            return None
        # Its libraries take a while to load, and most houses have no collector.
        from stores.spans import open_spans

        return open_spans(self.settings.service_spans_url)

    @cached_property
    def landing(self) -> Landing:
        """The landing folder."""
        return Landing(self.home, self.settings.chunk_bytes, now)

    @cached_property
    def ledger(self) -> Ledger:
        """Batches and deliveries."""
        return Ledger(self.database, now)

    @cached_property
    def access(self) -> Access:
        """Principals, roles, tenants."""
        return Access(self.database, now)

    @cached_property
    def users(self) -> Users:
        """People who sign in."""
        return Users(self.database, now)

    @cached_property
    def sign_ins(self) -> SignIns | None:
        """Sign-ins through another house's provider; None where none is set."""
        provider = read_provider(self.settings.service_sign_in_file)
        return SignIns(provider, now) if provider else None

    @cached_property
    def idempotency(self) -> Idempotency:
        """Requests that came with a key."""
        return Idempotency(self.database, now)

    def uploads(self, tenant: str) -> Uploads:
        """Give a tenant's uploads."""
        chosen = self.settings
        kept, limits = self.kept_parts(tenant), (chosen.upload_limit_bytes, chosen.upload_quota_bytes)
        return Uploads(tenant, self.home, self.landing, kept, *limits)

    def kept_parts(self, tenant: str) -> KeptParts:
        """Give the sealed parts of a tenant's late uploads."""
        return KeptParts(self.home, self.intake.sealer(tenant), self.settings.upload_parts_days, now)

    @cached_property
    def upload_policies(self) -> UploadPolicies:
        """When devices should send."""
        chosen = self.settings
        default = UploadPolicy(
            chosen.upload_interval_seconds, chosen.upload_wifi_only, chosen.upload_charging_only
        )
        return UploadPolicies(self.database, now, default)

    @cached_property
    def tokens(self) -> Tokens:
        """Access tokens: our own, and those of other issuers."""
        chosen = self.settings
        others = read_issuers(chosen.service_issuers_file)
        issuer = chosen.service_url or "urn:lockhouse"
        return Tokens(self.provider, self.access.clients, issuer, others, now)

    @cached_property
    def audit(self) -> AuditTrail:
        """The audit trail."""
        return AuditTrail(self.database, self.provider, self.home.checkpoints, now)

    @cached_property
    def intake(self) -> Intake:
        """The way from landing to the lake."""
        return Intake(
            self.home,
            self.provider,
            self.landing,
            self.ledger,
            self.tables,
            self.settings.duplicate_window_days,
            now,
        )

    @cached_property
    def captures(self) -> CaptureIntake:
        """The way of captures from landing to the lake."""
        return CaptureIntake(
            self.home,
            self.provider,
            self.landing,
            self.ledger,
            self.tables,
            self.devices,
            now,
            self.settings.capture_flow_bytes,
        )

    def capture_exports(self, tenant: str) -> CaptureExports:
        """Give the exports of a tenant's captures."""
        return CaptureExports(tenant, self.tables, self.captures.sealer(tenant))

    def kept_exports(self, tenant: str) -> KeptExports:
        """Give a tenant's kept exports."""
        sealer = self.captures.sealer(tenant)
        exports = CaptureExports(tenant, self.tables, sealer)
        return KeptExports(tenant, self.home, exports, sealer, self.devices(tenant), now)

    @cached_property
    def publishing(self) -> Publishing:
        """The way of masked logins to PostgreSQL."""
        return Publishing(self.home, self.tables, self.ledger, self._user_logins())

    @property
    def queues(self) -> tuple[QueueSettings, ...]:
        """The queues that messages come from: those that are listed, else that of the default tenant's logins.

        Raises: UsageError where two receivers would be each other's rivals.
        """
        listed = self.settings.queues or (QueueSettings(url=self.settings.queue_url),)
        known = {(one.source, one.tenant, one.carries) for one in listed}
        if len(known) < len(listed):
            raise UsageError("queues: a source and tenant have one queue of records, and one of objects")
        for one in listed:
            checked_tenant(one.tenant)
            if load_contract(one.source).origin != "producer":
                raise UsageError(f"queues: {one.source} come by none; requests are submitted one by one")
            if one.carries == "objects" and not (one.url and one.buckets):
                raise UsageError(
                    "queues: one that carries objects needs its `url`, and the `buckets` it may name"
                )
        return listed

    def queue(self, source: str, tenant: str) -> Queue:
        """Give the queue of a source and tenant: SQS where its URL is set, else an embedded one."""
        return self._queue_at(self._queues_of(source, tenant)[0])

    def receivers(self, source: str, tenant: str, tell: Callable[[str], None]) -> list[Receiver]:
        """Give a receiver for each queue of a source and tenant; `tell` is told what goes wrong."""
        return [self.receiver(one, tell) for one in self._queues_of(source, tenant)]

    def receiver(self, queue: QueueSettings, tell: Callable[[str], None]) -> Receiver:
        """Give the receiver of a queue; `tell` is told what goes wrong."""
        chosen = self.settings
        limits = ReceiverLimits(
            chosen.segment_messages,
            chosen.segment_seconds,
            chosen.staging_limit_bytes,
            chosen.staging_limit_seconds,
            chosen.queue_visibility_s,
        )
        objects = self._announced_objects(queue) if queue.carries == "objects" else None
        return Receiver(self.home, self._queue_at(queue), queue.source, queue.tenant, limits, tell, objects)

    def flow(self, source: str, tenant: str) -> Flow:
        """Give who measures what is between a queue and its rows."""
        return Flow(self.home, self.ledger, self.queue(source, tenant), (source, tenant), now)

    def _queues_of(self, source: str, tenant: str) -> list[QueueSettings]:
        # What nobody listed has an embedded queue, so that it can be tried.
        found = [one for one in self.queues if (one.source, one.tenant) == (source, tenant)]
        return sorted(found, key=lambda one: one.carries, reverse=True) or [
            QueueSettings(source=source, tenant=tenant)
        ]

    def _queue_at(self, one: QueueSettings) -> Queue:
        return open_queue(self.settings, one.url, self.home.queue(one.source, one.tenant), now)

    def _announced_objects(self, one: QueueSettings) -> AnnouncedObjects:
        return AnnouncedObjects(
            self.landing.drop_folder(one.source, one.tenant),
            (one.source, one.tenant),
            lambda: self.keys(one.tenant).identity_key("delivery"),
            lambda: self.database,
            lambda: s3_client(self.settings),
            ObjectLimits(one.buckets, self.settings.staging_limit_bytes),
            now,
        )

    @cached_property
    def outbox(self) -> Outbox:
        """What Dagster is asked to do."""
        return Outbox(self.database, now)

    @cached_property
    def validations(self) -> Validations:
        """The services of the identity validations."""
        return Validations(
            Surroundings(
                self.settings,
                self.home,
                self.database,
                self.landing,
                self.outbox,
                self.keys,
                self.subject_keys,
                now,
            )
        )

    @cached_property
    def validation_upkeep(self) -> RequestUpkeep:
        """The upkeep of the validations' requests."""
        return RequestUpkeep(self.validations.journal, self.validations.intake)

    @cached_property
    def lake_removal(self) -> LakeRemoval:
        """The way of deleted validations out of the lake."""
        return LakeRemoval(self.home, self.tables, self.marts, self.landing, self.outbox)

    def devices(self, tenant: str) -> Devices:
        """Give a tenant's device registry."""
        return Devices(tenant, self.keys(tenant), self.database, now)

    def data_subjects(self, tenant: str) -> DataSubjects:
        """Give who finds a tenant's data subjects."""
        return DataSubjects(self.keys(tenant), self.subject_keys(tenant), self.devices(tenant))

    def subject_keys(self, tenant: str) -> SubjectKeys:
        """Give a tenant's subject keys."""
        return SubjectKeys(self.home.keys, self.keys(tenant))

    def approvals(self, tenant: str) -> Approvals:
        """Give a tenant's approvals of reveals."""
        return Approvals(tenant, self.database, now)

    def erasure_requests(self, tenant: str) -> ErasureRequests:
        """Give a tenant's erasure requests."""
        return ErasureRequests(tenant, self.keys(tenant), self.database, now)

    def access_packages(self, tenant: str) -> AccessPackages:
        """Give a tenant's access requests and their packages."""
        return AccessPackages(tenant, self.home, self.keys(tenant), self.database, now)

    def copies(self, tenant: str) -> list[Copy]:
        """Give every copy of subjects' data beside the tables: what keeps one is erased by being listed."""
        copies: list[Copy] = [
            SeenCopy(self.home, tenant, self.settings.duplicate_window_days),
            ExportCopy(tenant, self.kept_exports(tenant), self.outbox),
            PackageCopy(self.access_packages(tenant), self.keys(tenant).query_digest),
            PartCopy(self.kept_parts(tenant)),
            RegistryCopy(self.devices(tenant), self.database),
            self.validations.subject_requests(tenant),
        ]
        served = self._user_logins()
        if served:
            count, delete = partial(served.count_tokens, tenant), partial(served.delete_tokens, tenant)
            copies.append(TokenCopy(SERVED, count, delete))
        return copies

    def _user_logins(self) -> UserLogins | None:
        """Give the served logins, where a PostgreSQL is set."""
        url = read_served_address(self.settings)
        return UserLogins(url, describe_columns(load_contract("logins"))) if url else None

    def subject_access(self, tenant: str) -> SubjectAccess:
        """Give who gathers everything about a tenant's data subjects."""
        sealer = self.intake.sealer(tenant)
        return SubjectAccess(
            tenant,
            self.tables,
            sealer,
            ErasurePlaces(tenant, self.tables, sealer, self.ledger),
            self.capture_exports(tenant),
            self.devices(tenant),
            self.audit,
            self.intake.vault(tenant),
            partial(self.validations.gather, tenant),
        )

    def erasing(self, tenant: str) -> Erasing:
        """Give the erasure of a tenant's data subjects."""
        horizon = timedelta(days=self.settings.rotation_horizon_days)
        sealer = self.intake.sealer(tenant)
        return Erasing(
            ErasureStores(
                tenant,
                self.home,
                self.tables,
                self.subject_keys(tenant),
                ErasurePlaces(tenant, self.tables, sealer, self.ledger),
                self.erasure_requests(tenant),
                self.ledger,
                self.marts,
                self.copies(tenant),
                ErasureScan(self.home, tenant),
                Certificates(tenant, self.home, self.tables, self.audit, self.provider, now, horizon),
                self.data_subjects(tenant),
            )
        )

    def offboarding(self, tenant: str) -> Offboarding:
        """Give the end of a tenant."""
        served = self._user_logins()
        beside = [ServedRows("validations", partial(self.validations.delete_tenant, tenant))]
        return Offboarding(
            OffboardingStores(
                tenant,
                self.home,
                self.tables,
                self.provider,
                self.database,
                self.landing,
                self.outbox,
                lambda: self.kept_exports(tenant),
                [*beside, *([ServedRows(SERVED, partial(served.delete_tenant, tenant))] if served else [])],
                self.audit,
                now,
            )
        )

    def rotation(self, tenant: str) -> Rotation:
        """Give the epochs of a tenant's token keys."""
        return Rotation(
            tenant,
            self.home,
            self.provider,
            self.tables,
            self.database,
            self.devices(tenant),
            self.intake.vault(tenant),
            self.settings.rotation_horizon_days,
            now,
        )

    @cached_property
    def maintenance(self) -> Maintenance:
        """The upkeep of the lake."""
        return Maintenance(self.home, self.provider, self.tables, self.settings.duplicate_window_days)

    @cached_property
    def capture_upkeep(self) -> CaptureUpkeep:
        """The upkeep of captures."""
        chosen = self.settings
        limits = CaptureLimits(
            chosen.capture_retention_days, chosen.packet_retention_days, chosen.capture_limit_bytes
        )
        return CaptureUpkeep(self.home, self.tables, self.kept_exports, limits, now)

    @cached_property
    def marts(self) -> Marts:
        """The curated marts."""
        chosen = {
            "k_threshold": self.settings.k_threshold,
            "session_gap_minutes": self.settings.session_gap_minutes,
        }
        return Marts(self.tables, self.home.lake, self.home.dbt, chosen)

    def keys(self, tenant: str) -> TenantKeys:
        """Give a tenant's keys."""
        return TenantKeys(tenant, self.provider)

    def add_tenant(self, tenant: str, principal: str) -> bool:
        """Register a tenant with keys of its own, once and audited; give whether it is new."""
        is_new = self.access.add_tenant(checked_tenant(tenant))
        create_tenant_keys(tenant, self.provider)
        if is_new:
            self.audit.record(tenant, principal, Action.TENANT_ADDED, Outcome.DONE)
        return is_new

    def create_home(self, principal: str) -> bool:
        """Make the home: folders, keyring, database, the first tenant, the local operator. Idempotent.

        Gives whether it was made now.
        """
        is_new = not self.home.keyring.exists()
        self.home.make()
        if self.settings.passphrase_file is None:
            generate_passphrase(self.home.passphrase)
        LocalKeyring.create(self.home.keyring, read_passphrase(self.passphrase_file))
        database = Database.at(self.home.database, read_database_address(self.settings))
        database.migrate()
        database.close()
        self.validations.migrate()
        # Whoever makes the home operates it; nobody becomes operator by making it again.
        if self.access.is_unclaimed() and self.access.assign(principal, Role.OPERATOR):
            self.audit.record(DEFAULT_TENANT, principal, Action.ROLE_ASSIGNED, Outcome.DONE, role=Role.OPERATOR)
        self.add_tenant(DEFAULT_TENANT, principal)
        if is_new:
            self.audit.record(DEFAULT_TENANT, principal, Action.HOME_CREATED, Outcome.DONE)
        return is_new


DEFAULT_TENANT = "default"
SERVED = "served.user_logins"
