"""Holding a certificate against a home, or a copy of one, without a key and offline.

What is checked of an erasure's, and all of it has to hold:

- the certificate is byte for byte as it was signed, by the key that is given or that the home keeps;
- the audit trail is whole, had the certificate's head where it says, and has an entry with its digest;
- every file of the tenant's tables that the certificate names is as it was, or is there no more because
  its table has moved on; a table that has not moved on has no other file;
- no file of the home outside landing and keys holds a pseudonym of the subject: texts are decoded and
  compared by fingerprint, columns and headers of references are read;
- where the key tables are in the copy, the subject has a tombstone there and no key.

Of a tenant's end: the same of certificate and trail; nothing of the tenant lies where its tables, exports,
deliveries and keys were; no file outside keys holds a token that was made with one of its keys.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import sqlalchemy as sa

from stores.certificates import PUBLIC_KEY
from stores.database import AUDIT, AUDIT_CHECKPOINTS, Database
from stores.erasure_scan import places_left_out
from stores.home import Home
from stores.kept_exports import subjects_in
from stores.leaks import scan_with
from stores.row_removal import mark_file
from stores.subjects import key_files
from transforms.audit import Action, Checkpoint, Entry, first_bad, verify_checkpoint
from transforms.errors import AuditError, CertificateError, DatabaseError
from transforms.privacy.certificates import (
    ERASURE,
    OFFBOARDING,
    Fingerprints,
    PseudonymMatcher,
    TokenMatcher,
    digest_certificate,
    fingerprints_of,
    form_of,
    read_certificate,
)


@dataclass
class Verification:
    """What was found; the certificate holds where there is no problem."""

    request: str = ""
    files: int = 0
    keys: str = "not in this copy"
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.problems

    def as_record(self) -> dict[str, Any]:
        """Give the verdict as plain values."""
        return {
            "ok": self.ok,
            "request": self.request,
            "files": self.files,
            "keys": self.keys,
            "problems": self.problems,
        }


def verify_certificate(
    home: Home, certificate: Path, public_key: str | None = None, database: Database | None = None
) -> Verification:
    """Hold a certificate against a home. What does not hold is in the verdict; nothing raises for it.

    The audit trail is read from `database`, or from the home's own without one.
    """
    verdict = Verification()
    try:
        content = certificate.read_bytes()
        key, form = _public_key(home, public_key), form_of(content)
        body = read_certificate(content, key, OFFBOARDING if form == OFFBOARDING else ERASURE)
    except (CertificateError, OSError) as error:
        reason = str(error) if isinstance(error, CertificateError) else "a file could not be read"
        verdict.problems.append(reason)
        return verdict
    verdict.problems += _trail_problems(home, body, digest_certificate(content), key, database)
    if form == OFFBOARDING:
        verdict.request = certificate.stem
        verdict.problems += _left_of_tenant(home, body, verdict)
        return verdict
    verdict.request = body["request"]
    prints = fingerprints_of(body["fingerprints"])
    verdict.problems += _file_problems(home, body)
    verdict.problems += _pseudonym_problems(home, body["tenant"], prints, verdict)
    verdict.problems += _key_problems(home, body["tenant"], prints, verdict)
    return verdict


def _public_key(home: Home, given: str | None) -> bytes:
    kept = home.checkpoints / PUBLIC_KEY
    if given is None and not kept.exists():
        raise CertificateError(f"no public key in {kept.parent.name}/: give --public-key")
    try:
        return bytes.fromhex(given or kept.read_text().strip())
    except ValueError:
        raise CertificateError("the public key is no hexadecimal text") from None


def _rows(path: Path, query: str, values: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Read a database without writing beside it: a copy may lie where nothing can be written."""
    has_log = path.with_name(path.name + "-wal").exists()
    with closing(
        sqlite3.connect(f"{path.as_uri()}?mode=ro{'' if has_log else '&immutable=1'}", uri=True)
    ) as opened:
        opened.row_factory = sqlite3.Row
        return [dict(row) for row in opened.execute(query, values)]


def _kept_trail(
    home: Home, tenant: str, database: Database | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read a tenant's entries, oldest first, and the signed heads."""
    if database is not None:
        entries = sa.select(AUDIT).where(AUDIT.c.tenant == tenant).order_by(AUDIT.c.seq)
        heads = sa.select(AUDIT_CHECKPOINTS).where(AUDIT_CHECKPOINTS.c.tenant == tenant)
        return database.rows(entries), database.rows(heads)
    path = home.database.absolute()
    return (
        _rows(path, "select * from audit where tenant = ? order by seq", (tenant,)),
        _rows(path, "select * from audit_checkpoints where tenant = ?", (tenant,)),
    )


def _trail_problems(
    home: Home, body: Mapping[str, Any], digest: str, key: bytes, database: Database | None
) -> Iterator[str]:
    try:
        rows, signed = _kept_trail(home, body["tenant"], database)
        copies = home.checkpoints / f"{body['tenant']}.jsonl"
        signed += [json.loads(line) for line in copies.read_text().splitlines()]
    except (sqlite3.Error, DatabaseError, OSError, ValueError):
        yield "the audit trail or its signed heads could not be read: absent from this copy, or damaged"
        return
    entries = [Entry(**row) for row in rows]
    heads = {one.seq: one.hash for one in entries}
    bad = first_bad(entries)
    if bad is not None:
        yield f"the audit trail does not hold from entry {bad}"
    if heads.get(body["audit"]["seq"], "") != body["audit"]["head"]:
        yield "the audit trail has another head than the certificate was chained to"
    issued = [one for one in entries if one.action == Action.CERTIFICATE_ISSUED and digest in one.parameters]
    if not issued:
        yield "the audit trail knows no such certificate"
    for row in signed:
        try:
            verify_checkpoint(Checkpoint(**row), heads, key)
        except AuditError as error:
            yield str(error)
    if issued and not any(row["seq"] >= issued[0].seq for row in signed):
        yield "no signed head of the trail covers the certificate"


def _file_problems(home: Home, body: Mapping[str, Any]) -> Iterator[str]:
    """Compare the files of each table with those that the certificate names."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    named: dict[str | None, dict[str, Mapping[str, Any]]] = {key: {} for key in body["versions"]}
    for one in body["files"]:
        named.setdefault(one["table"], {})[one["file"]] = one
    yield from (_changed(home, named.pop(None, {})))
    for table, files in named.items():
        folder = home.lake / body["tenant"] / Path(*str(table).split(".", 1))
        try:
            opened = DeltaTable(str(folder))
            live = {Path(uri.removeprefix("file://")) for uri in opened.file_uris()}
        except (DeltaError, OSError):
            yield f"the table {table} cannot be opened"
            yield from _changed(home, files)
            continue
        gone = [name for name in files if not (home.root / name).exists()]
        if any((home.root / name).resolve() in {one.resolve() for one in live} for name in gone):
            yield f"a file of {table} that belongs to it is absent"
        has_moved = opened.version() > body["versions"][str(table)]
        # What a log points at as its last checkpoint is written anew with each one.
        kept = {name: one for name, one in files.items() if not (has_moved and _is_moving(name))}
        yield from _changed(home, kept)
        there = {str(path.relative_to(home.root)) for path in folder.rglob("*") if path.is_file()}
        if not has_moved and (gone or there - files.keys()):
            yield f"the table {table} has not moved on, and has not the files that the certificate names"


def _is_moving(name: str) -> bool:
    return name.endswith("/_last_checkpoint")


def _changed(home: Home, files: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, one in files.items():
        path = home.root / name
        if path.exists() and mark_file(home.root, path).sha256 != one["sha256"]:
            yield f"the file {name} was changed"


def _pseudonym_problems(home: Home, tenant: str, prints: Fingerprints, verdict: Verification) -> Iterator[str]:
    report = scan_with(home.root, PseudonymMatcher(prints), exclude=places_left_out(home, tenant))
    verdict.files = report.files
    for hit in report.hits:
        yield f"the file {hit.file} holds a pseudonym of the subject ({hit.place})"
    for missed in report.unreadable:
        yield f"the file {missed.file} could not be looked into ({missed.reason})"
    for path in sorted((home.lake / tenant).rglob("*.parquet")):
        if any(prints.has_ref(one) for one in _references(path)):
            yield f"the file {path.relative_to(home.root)} holds a reference to the subject"
    for path in sorted((home.exports / tenant).rglob("*")):
        if path.is_file() and any(prints.has_ref(one) for one in subjects_in(path)):
            yield f"the file {path.relative_to(home.root)} holds a piece of the subject's"


def _left_of_tenant(home: Home, body: Mapping[str, Any], verdict: Verification) -> Iterator[str]:
    """Look for what an off-boarded tenant had: its places, and tokens of its keys anywhere else."""
    tenant = body["tenant"]
    named = [home.lake / tenant, home.exports / tenant, *home.landing.glob(f"*/{tenant}")]
    for path in [*named, *key_files(home.keys, tenant)]:
        if path.exists():
            yield f"{path.relative_to(home.root)} is there again"
    verdict.keys = "none of the tenant's"
    report = scan_with(home.root, TokenMatcher(body["heads"]), exclude=places_left_out(home, tenant))
    verdict.files = report.files
    for hit in report.hits:
        yield f"the file {hit.file} holds a token of the tenant ({hit.place})"
    for missed in report.unreadable:
        yield f"the file {missed.file} could not be looked into ({missed.reason})"


def _references(path: Path) -> set[bytes]:
    """Read the distinct references in a data file; a damaged file was told already."""
    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name == "subject_ref"]
            found: set[bytes] = set()
            for group in range(file.num_row_groups) if names else ():
                column = file.read_row_group(group, columns=names, use_threads=False)[names[0]]
                found |= {one for one in pc.unique(column).to_pylist() if one is not None}
            return found
    except (OSError, pa.ArrowException):
        return set()


def _key_problems(home: Home, tenant: str, prints: Fingerprints, verdict: Verification) -> Iterator[str]:
    path = (home.keys / f"{tenant}.subjects.db").absolute()
    if not path.exists():
        return
    try:
        rows = _rows(path, "select ref, wrapped, state from subjects", ())
    except sqlite3.Error:
        yield "the key table could not be read"
        return
    mine = {prints.of(row["ref"]): row for row in rows if prints.has_ref(row["ref"])}
    verdict.keys = f"{len(mine)} tombstones"
    if set(mine) != prints.refs:
        yield "the key table lacks a tombstone of the subject"
    if any(row["state"] != "erased" or row["wrapped"] is not None for row in mine.values()):
        yield "the key table holds a key of the subject"
