"""The erasure of data subjects: keys first, then rows, copies and old versions, then a scan and a proof.

Each step is written down before and after it is done, and can be done again: a process that is killed
anywhere leaves a request that the next one completes. Whoever's rows share a file with the subject's
keep every one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from stores.certificates import Certificates
from stores.copies import Copy
from stores.data_subjects import DEVICE_DOMAIN, DataSubjects, Subject, refs_of
from stores.erasure_places import ErasurePlaces
from stores.erasure_plan import erasure_plan, matches_of, token_columns
from stores.erasure_requests import Erasure, ErasureRequests, ErasureState, Work
from stores.erasure_scan import ErasureScan
from stores.home import Home
from stores.ledger import Ledger
from stores.locks import exclusive
from stores.marts import ZONE, Marts
from stores.row_removal import Match, RowRemoval, mart_spec
from stores.subjects import SubjectKeys
from stores.tables import Tables
from transforms.capture.tables import PACKETS
from transforms.errors import ErasureError, TableError
from transforms.privacy.removals import Removal, removal_of
from transforms.tables import TableSpec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ErasureStores:
    """What an erasure works on, of one tenant."""

    tenant: str
    home: Home
    tables: Tables
    subjects: SubjectKeys
    places: ErasurePlaces
    requests: ErasureRequests
    ledger: Ledger
    marts: Marts
    copies: Sequence[Copy]
    scan: ErasureScan
    certificates: Certificates
    finder: DataSubjects


class Erasing:
    """Erases data subjects of one tenant."""

    def __init__(self, stores: ErasureStores) -> None:
        """Remember the stores; nothing is opened yet."""
        self._stores = stores
        self._removal = RowRemoval(stores.tables, stores.tenant)

    def preview(self, subjects: Sequence[Subject]) -> list[dict[str, Any]]:
        """Tell what an erasure would take: rows, files and bytes of each table and copy. Changes nothing."""
        places = self._stores.places.find(subjects)
        found = []
        for key, (spec, way) in erasure_plan().items():
            if self._stores.tables.exists(self._stores.tenant, key):
                held = self._removal.find(spec, matches_of(way, subjects, places.get(key, {})))
                rows = sum(int(one.gone.sum()) for one in held)
                size = sum(one.size_bytes for one in held)
                found.append({"table": key, "way": way.kind, "rows": rows, "files": len(held), "bytes": size})
        for key, spec in self._mart_specs():
            held = self._removal.find(spec, _named_in(spec, subjects))
            rows = sum(int(one.gone.sum()) for one in held)
            size = sum(one.size_bytes for one in held)
            rebuilt = "made anew for the dates, or deleted by token"
            found.append({"table": key, "way": rebuilt, "rows": rows, "files": len(held), "bytes": size})
        for copy in self._stores.copies:
            count = copy.count(subjects, places)
            found.append({"table": copy.name, "way": "a copy", "rows": count, "files": 0, "bytes": 0})
        return found

    def destroy_key(self, request: Erasure) -> None:
        """Take the first step: the tombstone, and the end of everything that was sealed for the subjects."""
        with exclusive(self._stores.home.tenant_lock(self._stores.tenant)):
            self._destroy_key(request)

    def complete(self, request: Erasure) -> Erasure:
        """Bring a request to its certificate, from wherever it stands.

        Raises: ErasureError where something of the subject is still found; the request stays open.
        """
        stores = self._stores
        if request.state is ErasureState.CERTIFIED or request.work is None:
            return request
        # A rotation since the request has given the same people other tokens.
        request.work.subjects = [stores.finder.renewed(one) for one in request.work.subjects]
        if not request.has_come_to(ErasureState.ROWS_DELETED):
            with exclusive(stores.home.tenant_lock(stores.tenant)):
                self._destroy_key(request)
                self._locate(request, request.work)
                self._delete(request, request.work)
                stores.requests.save(request, ErasureState.ROWS_DELETED)
        self._scan(request, request.work)
        request.certificate = stores.certificates.issue(request, request.work.subjects)
        stores.requests.close(request)
        return request

    def resume(self) -> list[Erasure]:
        """Complete every request that a killed process, or nobody yet, has left open; the oldest first."""
        return [self.complete(one) for one in self._stores.requests.unfinished()]

    def _destroy_key(self, request: Erasure) -> None:
        if request.has_come_to(ErasureState.KEY_DESTROYED) or request.work is None:
            return
        refs = refs_of(request.work.subjects)
        known = self._stores.subjects.states(refs)
        self._stores.subjects.erase(refs)
        live = sum(state == "live" for state in known.values())
        request.progress["keys"] = {"destroyed": live, "tombstones": len(refs)}
        self._stores.requests.save(request, ErasureState.KEY_DESTROYED)

    def _locate(self, request: Erasure, work: Work) -> None:
        if not request.has_come_to(ErasureState.LOCATED):
            work.places = self._stores.places.find(work.subjects)
            self._stores.requests.save(request, ErasureState.LOCATED)

    def _delete(self, request: Erasure, work: Work) -> None:
        stores = self._stores
        for key, (spec, way) in erasure_plan().items():
            if stores.tables.exists(stores.tenant, key):
                self._remove(request, spec, matches_of(way, work.subjects, work.places.get(key, {})))
        for batch, chunk, accepted in work.places["chunks"]:
            stores.ledger.accept_fewer(batch, chunk, accepted)
        self._rebuild_marts(request, work)
        for key, spec in self._mart_specs():
            self._remove(request, spec, self._left_in_mart(key, spec, work))
        copies = request.progress.setdefault("copies", {})
        for copy in stores.copies:
            # What a first attempt took is counted before it is taken: a second one finds nothing.
            copies[copy.name] = max(copies.get(copy.name, 0), copy.count(work.subjects, work.places))
            stores.requests.save(request)
            copy.erase(work.subjects, work.places)
        for info in stores.tables.listing(stores.tenant):
            stores.tables.forget_past(stores.tenant, info.key)

    def _remove(self, request: Erasure, spec: TableSpec, matches: Sequence[Match]) -> None:
        """Take rows out of a table, and keep the record of it; one that was begun is looked at first."""
        records = request.progress.setdefault("tables", [])

        def keep(removal: Removal) -> None:
            records.append(removal.as_record())
            self._stores.requests.save(request)

        begun = [
            at for at, one in enumerate(records) if one["table"] == spec.key and one["version_after"] is None
        ]
        for at in begun:
            done = self._removal.was_committed(spec, removal_of(records[at]))
            records[at] = done.as_record() if done else None
        records[:] = [one for one in records if one]
        removal = self._removal.remove(spec, matches, request.id, keep)
        if removal is not None:
            records[-1] = removal.as_record()
            self._stores.requests.save(request)

    def _rebuild_marts(self, request: Erasure, work: Work) -> None:
        """Make the touched dates of every mart anew; what was there of the subjects is no longer in masked."""
        stores = self._stores
        for source, dates in work.places["dates"].items():
            if dates and (stores.home.lake / stores.tenant / ZONE).is_dir():
                days = [date.fromisoformat(one) for one in dates]
                outcome = stores.marts.rebuild(stores.tenant, source, days, f"erasure/{request.id}")
                if not outcome.succeeded:
                    raise TableError(
                        f"marts were not made anew: {', '.join(outcome.failed()) or outcome.message}"
                    )
                request.progress.setdefault("marts", {})[source] = dates
                stores.requests.save(request)

    def _mart_specs(self) -> Iterator[tuple[str, TableSpec]]:
        stores = self._stores
        for info in stores.tables.listing(stores.tenant):
            if info.zone == ZONE:
                yield info.key, mart_spec(stores.tables, stores.tenant, info.key)

    def _left_in_mart(self, key: str, spec: TableSpec, work: Work) -> list[Match]:
        """Give what a rebuild could not reach: dates whose masked rows are past their retention."""
        people = [one for one in work.subjects if one.domain != DEVICE_DOMAIN]
        matches = _named_in(spec, people)
        if "device_token" not in {one.name for one in spec.columns}:
            return matches
        for subject in work.subjects:
            for stretch in subject.stretches:
                own = Match("device_token", stretch.device_tokens)
                rows = self._removal.rows(PACKETS, [own], ["packet_hour"])
                alive = {hour[:10] for hour in rows["packet_hour"]} | set(
                    work.places["dates"].get("captures", ())
                )
                dates = self._removal.rows(spec, [own], ["event_date"])["event_date"].unique().to_list()
                inside = [
                    date.fromisoformat(day)
                    for day in dates
                    if day not in alive and _is_inside(day, stretch.since_ns, stretch.until_ns)
                ]
                if inside:
                    matches.append(Match("device_token", stretch.device_tokens, {"event_date": tuple(inside)}))
        return matches

    def _scan(self, request: Erasure, work: Work) -> None:
        if request.has_come_to(ErasureState.SCANNED):
            return
        report = self._stores.scan.run(work.subjects)
        request.progress["scan"] = {
            "files": report.files,
            "bytes": report.size_bytes,
            "hits": len(report.hits),
            "unreadable": len(report.unreadable),
        }
        self._stores.requests.save(request)
        if report.hits or report.unreadable:
            places = [(one.file, one.place) for one in report.hits]
            places += [(one.file, one.place) for one in report.unreadable]
            shown = [f"{file} ({place})" for file, place in places]
            raise ErasureError(
                f"the erasure is not complete: met {len(report.hits)} places that hold the subject and "
                f"{len(report.unreadable)} that could not be looked into, first {'; '.join(shown[:3])}; "
                "mend them, then `lockhouse subject status` goes on"
            )
        self._stores.requests.save(request, ErasureState.SCANNED)


def _named_in(spec: TableSpec, subjects: Sequence[Subject]) -> list[Match]:
    """Give the rows of a mart that name a person by a token."""
    matches = []
    domains: Mapping[str, str] = token_columns()
    for one in spec.columns:
        domain = domains.get(one.name)
        found = [subject for subject in subjects if subject.domain == domain and domain != DEVICE_DOMAIN]
        if found:
            values = [text for subject in found for text in (*subject.tokens, *subject.heads)]
            matches.append(Match(one.name, tuple(values)))
    return matches


def _is_inside(day: str, since_ns: int, until_ns: int | None) -> bool:
    """Whether a whole date lies in a stretch of time."""
    begin = datetime.fromisoformat(day).replace(tzinfo=UTC)
    end = begin + timedelta(days=1)
    first, last = _ns(begin), _ns(end)
    return since_ns <= first and (until_ns is None or last <= until_ns)


def _ns(moment: datetime) -> int:
    return int((moment - _EPOCH).total_seconds()) * 1_000_000_000
