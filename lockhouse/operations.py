"""Operations: every one authorises, then audits, then acts. Doors (command line, HTTP) only call them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from orchestration.resources import Platform, now
from stores.audit import Verdict
from stores.audit_exports import write_delta, write_ocsf
from stores.canaries import canaries_of
from stores.contracts import load_contracts
from stores.home import checked_tenant
from stores.quarantine import Entry, Quarantine
from stores.specs import domain_formats, every_table, quarantine_spec, quarantines
from stores.sql import SqlSandbox
from stores.tables import Commit, TableInfo
from transforms.access import Right
from transforms.audit import Action, Outcome
from transforms.audit import Entry as AuditEntry
from transforms.errors import MissingError, RefusedError, UsageError
from transforms.pii.canonical import canonicalise
from transforms.pii.siv import encrypt_column

if TYPE_CHECKING:
    from stores.leaks import LeakReport

# What can still be done in a tenant that was off-boarded: its trail outlives it.
_OUTLIVING = frozenset({Right.READ_AUDIT, Right.OPERATE})
_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# One for all: it keeps nothing, and is entered thousands of times a second.
_NO_STEP = nullcontext()


def take_no_time(_step: str) -> AbstractContextManager[object]:
    """Run a step whose time nobody wants to know."""
    return _NO_STEP


class Given(str):
    """An id as somebody gave it: until what it names is met, it may be anything, a person's own id for one."""

    __slots__ = ()


@dataclass
class Caller:
    """Who asks, in which tenant, through which platform.

    `scopes` bound what a token may be used for, none do where there is no token. `marks` (the request's id,
    the client, the purpose) go into every entry of the trail; `entries` counts those. `step` takes the time
    of authorising, auditing and acting, where spans are made.
    """

    platform: Platform
    principal: str
    tenant: str
    results: dict[str, int | str] = field(default_factory=dict)
    scopes: frozenset[Right] | None = None
    marks: Mapping[str, str] = field(default_factory=dict)
    entries: int = 0
    step: Callable[[str], AbstractContextManager[object]] = take_no_time

    @contextmanager
    def permitted(
        self, right: Right, action: Action, on_device: str | None = None, **parameters: str | int | None
    ) -> Iterator[None]:
        """Authorise and audit before the block runs; write down afterwards how it went.

        `on_device` is the pseudonym of a device that a grant may cover. What is `Given` stands in the trail
        in clear only where it went well. `results`, filled in the block, go into the closing entry.
        Raises: RefusedError, audited too.
        """
        asked = {name: self.digest(one) if isinstance(one, Given) else one for name, one in parameters.items()}
        try:
            with self.step("authorise"):
                role = self.authorise(right, on_device)
        except RefusedError:
            self.record(action, Outcome.REFUSED, right=right, **asked)
            raise
        self.record(action, Outcome.ALLOWED, role=role, **asked)
        self.results = {}
        try:
            with self.step("act"):
                yield
        except BaseException:
            # What left before it failed stands in the trail too.
            self.record(action, Outcome.FAILED, **asked, **self.results)
            raise
        self.record(action, Outcome.DONE, **parameters, **self.results)

    def authorise(self, right: Right, on_device: str | None = None) -> str:
        """Give what allows it.

        Raises: RefusedError where nothing does, or the token's scopes leave it out.
        """
        tenant = self.known_tenant(or_ended=right in _OUTLIVING)
        if self.scopes is not None and right not in self.scopes:
            raise RefusedError(f"the token lacks the scope {right}")
        return self.platform.access.authorise(self.principal, right, tenant, on_device)

    def record(self, action: Action, outcome: Outcome, **parameters: str | int | None) -> None:
        """Write an entry; it is durable when this returns."""
        with self.step("audit"):
            self.platform.audit.record(
                self.known_tenant(or_ended=True),
                self.principal,
                action,
                outcome,
                **{**self.marks, **parameters},
            )
        self.entries += 1

    def digest(self, text: str) -> str:
        """Give a keyed digest of something that may hold a personal value, for the audit trail."""
        return self.platform.keys(self.known_tenant()).query_digest(text)

    def known_tenant(self, *, or_ended: bool = False) -> str:
        """Give the tenant's name, and where `or_ended` that of an off-boarded one as well.

        Raises: UsageError where it is not registered, or was off-boarded.
        """
        access = self.platform.access
        if access.has_tenant(checked_tenant(self.tenant)):
            return self.tenant
        ended_at = access.ended_at(self.tenant)
        if ended_at and or_ended:
            return self.tenant
        if ended_at:
            raise UsageError(f"the tenant {self.tenant} was off-boarded on {ended_at[:10]}")
        raise UsageError(f"no tenant {self.tenant}", see="lockhouse tenant list")


def bring_up(caller: Caller) -> None:
    """Write down that somebody starts everything that works on the home.

    Raises: RefusedError, which says what to do: the processes would be refused one by one, each in its own log.
    """
    try:
        with caller.permitted(Right.OPERATE, Action.HOME_BROUGHT_UP):
            return
    except RefusedError:
        raise RefusedError(
            f"only an operator starts this home, and {caller.principal} is none: ask an operator for "
            f"`lockhouse role add {caller.principal} operator`, or use a home of your own with --home"
        ) from None


def list_tables(caller: Caller) -> list[dict[str, Any]]:
    """Describe every Delta table of the tenant, with the columns that are made of personal data."""
    with caller.permitted(Right.READ_TABLES, Action.TABLES_LISTED):
        personal = {spec.key: list(spec.personal) for spec in every_table()}
        found = caller.platform.tables.listing(caller.tenant)
        return [
            {
                "table": info.key,
                "zone": info.zone,
                "rows": info.rows,
                "version": info.version,
                "files": info.files,
                "bytes": info.size_bytes,
                "pii_columns": personal.get(info.key) or _token_columns(caller, info),
            }
            for info in found
        ]


def _token_columns(caller: Caller, info: TableInfo) -> list[str]:
    """Give the token columns of a mart: they keep the names that the masked tables gave them."""
    names = caller.platform.tables.schema(caller.tenant, info.key).names
    return [name for name in names if name.endswith("_token")]


def run_sql(caller: Caller, query: str, limit: int | None = None, timeout_s: float | None = None) -> pa.Table:
    """Run a reading query over the tenant's masked and curated tables."""
    with caller.permitted(Right.READ_TABLES, Action.SQL_RUN, query=caller.digest(query)):
        rows = SqlSandbox(caller.platform.tables, caller.tenant).run(query, limit, timeout_s)
        caller.results["rows"] = rows.num_rows
        return rows


def token(caller: Caller, value: str, domain: str) -> str:
    """Make the token of a value, as masking would. As privileged as a reveal: it can test guesses."""
    # Checked before it is written into the trail: whoever mixes up the two would leave the value there.
    marks = {"domain": known_domain(domain), "value": caller.digest(value)}
    with caller.permitted(Right.REVEAL, Action.TOKEN_MADE, **marks):
        form = domain_formats()[domain]
        canonical = canonicalise(pl.Series([value], dtype=pl.String), form)
        if canonical[0] is None:
            raise UsageError(f"that is no value of the domain {domain}: expected {form}")
        key = caller.platform.keys(caller.tenant).token_key(domain)
        return str(encrypt_column(canonical, key)[0])


def quarantine_entries(caller: Caller, source: str | None = None) -> list[Entry]:
    """List what was not accepted, without its content."""
    with caller.permitted(Right.READ_QUARANTINE, Action.QUARANTINE_LISTED):
        entries = [entry for store in _quarantines(caller, source) for entry in store.entries()]
        caller.results["entries"] = len(entries)
        return entries


def quarantine_content(caller: Caller, entry_id: str) -> tuple[str, bytes]:
    """Open one entry: its file's original name, and its bytes."""
    if not is_id(entry_id):
        raise UsageError("an entry's id is a UUID", see="lockhouse quarantine list")
    with caller.permitted(Right.REVEAL, Action.QUARANTINE_SHOWN, entry=Given(entry_id)):
        return _store_of(caller, entry_id).content(entry_id)


def drop_quarantine(caller: Caller, entry_ids: Sequence[str]) -> int:
    """Delete entries for good."""
    with caller.permitted(Right.CHANGE_QUARANTINE, Action.QUARANTINE_DROPPED, entries=len(entry_ids)):
        marks = {"action": "drop"}
        at = now()
        commit = Commit(f"drop/{at.isoformat()}", int(at.timestamp() * 1000), marks)
        rows = sum(store.drop(entry_ids, commit) for store in _quarantines(caller, None))
        caller.results["rows"] = rows
        return rows


def read_audit(caller: Caller, limit: int) -> list[AuditEntry]:
    """Give the latest entries of the tenant's trail."""
    with caller.permitted(Right.READ_AUDIT, Action.AUDIT_READ, limit=limit):
        return caller.platform.audit.entries(caller.tenant, limit)


def read_audit_page(caller: Caller, before: int | None, limit: int, own: bool) -> list[AuditEntry]:
    """Give a page of the trail, the latest first, older than `before`; `own` entries are anybody's to read."""
    if not own:
        with caller.permitted(Right.READ_AUDIT, Action.AUDIT_READ, limit=limit, before=before):
            return caller.platform.audit.page(caller.tenant, before, limit)
    caller.record(Action.AUDIT_READ, Outcome.DONE, limit=limit, before=before, own="true")
    return caller.platform.audit.page(caller.tenant, before, limit, caller.principal)


def export_audit(caller: Caller, form: str, output: Path) -> int:
    """Write the tenant's trail as OCSF JSON lines, or as a Delta table in place of an older one."""
    with caller.permitted(Right.READ_AUDIT, Action.AUDIT_EXPORTED, format=form):
        entries = caller.platform.audit.entries(caller.tenant)
        write_ocsf(output, entries) if form == "ocsf" else write_delta(output, entries)
        caller.results["rows"] = len(entries)
        return len(entries)


def verify_audit(caller: Caller) -> Verdict:
    """Verify the tenant's trail; its head is signed first, so that later cuts will show."""
    with caller.permitted(Right.READ_AUDIT, Action.AUDIT_VERIFIED):
        verdict = caller.platform.audit.verify(caller.tenant)
    if verdict.ok:
        caller.platform.audit.checkpoint(caller.tenant)
    return verdict


def canaries(caller: Caller) -> list[str]:
    """Give the tenant's canaries over all contracts."""
    keys = caller.platform.keys(caller.known_tenant())
    return [value for contract in load_contracts().values() for value in canaries_of(keys, contract)]


def scan_leaks(
    caller: Caller, values: Sequence[str], on_file: Callable[[Path], None] | None = None
) -> LeakReport:
    """Look for values in clear in every file of the home outside landing and the key store."""
    from stores.leaks import default_exclusions, scan

    with caller.permitted(Right.OPERATE, Action.LEAKS_SCANNED, values=len(values)):
        home = caller.platform.home
        report = scan(home.root, values, exclude=default_exclusions(home), on_file=on_file)
        caller.results.update(files=report.files, hits=len(report.hits), unreadable=len(report.unreadable))
        return report


def is_id(text: str) -> bool:
    """Say whether something is a UUID, in the one way in which ours are written."""
    return _ID.fullmatch(text) is not None


def known_domain(domain: str) -> str:
    """Give the domain back.

    Raises: UsageError where there is no such join domain.
    """
    known = sorted(domain_formats())
    if domain not in known:
        raise UsageError(f"no such join domain; there are: {', '.join(known)}")
    return domain


def _quarantines(caller: Caller, source: str | None) -> list[Quarantine]:
    specs = [quarantine_spec(source)] if source else list(quarantines().values())
    sealer = caller.platform.intake.sealer(caller.tenant)
    return [Quarantine(caller.tenant, caller.platform.tables, sealer, spec) for spec in specs]


def _store_of(caller: Caller, entry_id: str) -> Quarantine:
    for store in _quarantines(caller, None):
        if any(entry.id == entry_id for entry in store.entries()):
            return store
    raise MissingError("no such quarantine entry", see="lockhouse quarantine list")
