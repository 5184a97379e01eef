"""Subject keys: one random key for each data subject of a tenant, kept where deletion is real.

Destroying a subject's key makes everything sealed for them unreadable, in every file and copy.
The row of an erased subject stays, without a key: it is the tombstone that late data meet.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from stores.keys import TenantKeys
from stores.sqlite_files import use_wal
from transforms.errors import DecryptionError, ErasedSubjectError
from transforms.pii.ciphers import length_prefixed, siv_decrypt, siv_encrypt
from transforms.pii.identities import subject_referrer, subject_refs
from transforms.pii.siv import SivKey, decrypt_column, encrypt_column
from transforms.validations.sealing import public_half_of

KEY_BYTES = 32
_REF_BYTES = 16
_ASKED_AT_ONCE = 500
_REWRAPPED_AT_ONCE = 50_000
_LIVE_SUBJECTS = "select ref, wrapped from subjects where state = 'live'"
# Subjects that a batch remembers, some 50 MB.
_KEPT = 1 << 17
_SCHEMA = """
create table if not exists subjects (
    ref blob primary key,
    wrapped blob,
    state text not null check (state in ('live', 'erased')),
    check ((state = 'live') = (wrapped is not null))
) without rowid;
-- Tombstones are counted for every chunk: without it, by a look at every subject there is.
create index if not exists erased_subjects on subjects (state) where state = 'erased';
create table if not exists day_keys (day text primary key, wrapped blob not null) without rowid;
create table if not exists public_halves (ref blob primary key, half blob not null) without rowid;
create table if not exists requests (id text primary key, ref blob not null) without rowid;
create index if not exists requests_of_a_subject on requests (ref);
"""


def key_files(folder: Path, tenant: str) -> list[Path]:
    """Give the files of a tenant's key table that are there: the database and what SQLite has beside it."""
    database = _database(folder, tenant)
    return [path for path in folder.glob(f"{database.name}*") if path.is_file()]


def _database(folder: Path, tenant: str) -> Path:
    return folder / f"{tenant}.subjects.db"


class SubjectKeys:
    """The key table of one tenant, in an SQLite file of its own."""

    def __init__(self, folder: Path, keys: TenantKeys) -> None:
        """Remember where the file lies; it is made on first use."""
        self._path = _database(folder, keys.tenant)
        self._keys = keys
        self._day_keys: dict[date, bytes] = {}

    def keys_for(self, refs: Sequence[bytes]) -> dict[bytes, bytes]:
        """Give the key of each subject, made now where there was none.

        A key is on disk (synced, read back) before it is given out. Erased subjects are left out of
        the result: what comes of them is to be refused.
        """
        with self._opened() as database:
            found = self._wrapped(database, refs)
            # Whoever asks in order pays no sorting.
            if missing := sorted(ref for ref in dict.fromkeys(refs) if ref not in found):
                self._insert(database, missing)
                found |= self._wrapped(database, missing)
        return self._unwrapped({ref: wrapped for ref, wrapped in found.items() if wrapped is not None})

    def existing(self, refs: Sequence[bytes]) -> dict[bytes, bytes]:
        """Give the keys of those subjects who have one; nobody gets a new one."""
        with self._opened() as database:
            found = self._wrapped(database, refs)
        return self._unwrapped({ref: wrapped for ref, wrapped in found.items() if wrapped is not None})

    def key(self, ref: bytes) -> bytes:
        """Give one subject's key.

        Raises: ErasedSubjectError where they were erased, or were never known.
        """
        found = self.existing([ref])
        if ref not in found:
            raise ErasedSubjectError("that data subject has no key: they were erased, or never known")
        return found[ref]

    def states(self, refs: Sequence[bytes]) -> dict[bytes, str]:
        """Give the state of those subjects who are known: `live` or `erased`."""
        with self._opened() as database:
            found = self._wrapped(database, refs)
        return {ref: "erased" if wrapped is None else "live" for ref, wrapped in found.items()}

    def erasures(self) -> int:
        """Count the tombstones: who kept something over an erasure sees that there was one."""
        with self._opened() as database:
            return int(database.execute("select count(*) from subjects where state = 'erased'").fetchone()[0])

    def erase(self, refs: Sequence[bytes]) -> None:
        """Destroy keys for good and leave tombstones; unknown subjects get one as well."""
        with self._opened() as database:
            database.executemany(
                "insert into subjects (ref, wrapped, state) values (?, null, 'erased')"
                " on conflict (ref) do update set wrapped = null, state = 'erased'",
                [(ref,) for ref in refs],
            )
            database.executemany("delete from public_halves where ref = ?", [(ref,) for ref in refs])
            database.commit()
            _settle(database)

    def public_half(self, ref: bytes, request: str | None = None) -> bytes:
        """Give the public half of a subject's key, published when the subject is first met.

        A request that is named is noted as being about them: nothing else says so without being opened.
        Raises: ErasedSubjectError where they were erased.
        """
        with self._opened() as database:
            row = database.execute("select half from public_halves where ref = ?", (ref,)).fetchone()
            half = bytes(row[0]) if row else self._published(database, ref)
            if request is not None:
                # Not for one who was erased in between: the tombstone is looked at in the same statement.
                live = "select ?, ref from subjects where ref = ? and state = 'live'"
                database.execute(f"insert or ignore into requests {live}", (request, ref))
                database.commit()
        return half

    def _published(self, database: sqlite3.Connection, ref: bytes) -> bytes:
        """Derive a public half and keep it; a subject who was never met gets a key first."""
        found = self._wrapped(database, [ref])
        if not found:
            self._insert(database, [ref])
            found = self._wrapped(database, [ref])
        wrapped = found[ref]
        if wrapped is None:
            raise ErasedSubjectError("the data subject was erased: nothing more is stored of them")
        half = public_half_of(self._unwrapped({ref: wrapped})[ref])
        kept = (
            "insert or ignore into public_halves select ref, ? from subjects where ref = ? and state = 'live'"
        )
        database.execute(kept, (half, ref))
        database.commit()
        return half

    def subject_of_request(self, request: str) -> bytes | None:
        """Give the reference of whom a request is about; None for one that is unknown, or was let go."""
        with self._opened() as database:
            row = database.execute("select ref from requests where id = ?", (request,)).fetchone()
        return bytes(row[0]) if row else None

    def requests_of(self, refs: Sequence[bytes]) -> list[str]:
        """Give the requests that are about some subjects, in the order of their ids."""
        with self._opened() as database:
            found = [
                str(row[0])
                for ref in refs
                for row in database.execute("select id from requests where ref = ?", (ref,))
            ]
        return sorted(found)

    def detach_requests(self, requests: Sequence[str]) -> None:
        """Forget whom requests were about."""
        with self._opened() as database:
            database.executemany("delete from requests where id = ?", [(one,) for one in requests])
            database.commit()
            _settle(database)

    def day_key(self, day: date, *, create: bool = False) -> bytes:
        """Give the quarantine key of a day, made now if `create` says so.

        Raises: DecryptionError where there is none: its retention is over.
        """
        if day not in self._day_keys:
            self._day_keys[day] = self._stored_day_key(day, create)
        return self._day_keys[day]

    def _stored_day_key(self, day: date, create: bool) -> bytes:
        wrapping = self._keys.wrapping_key()
        label = length_prefixed(b"day", day.isoformat().encode())
        with self._opened() as database:
            if create:
                fresh = wrapping.key_id + siv_encrypt(wrapping.key, secrets.token_bytes(KEY_BYTES), label)
                database.execute("insert or ignore into day_keys values (?, ?)", (day.isoformat(), fresh))
                database.commit()
            row = database.execute("select wrapped from day_keys where day = ?", (day.isoformat(),)).fetchone()
        if row is None:
            raise DecryptionError("the quarantine of that day")
        return siv_decrypt(self._keys.live_wrapping_keys()[_day_key_id(row[0])].key, row[0][4:], label)

    def forget_days(self, oldest: date) -> None:
        """Destroy the quarantine keys of the days before `oldest`: their retention is over."""
        with self._opened() as database:
            gone = database.execute("delete from day_keys where day < ?", (oldest.isoformat(),)).rowcount
            database.commit()
            if gone:
                _settle(database)
        self._day_keys.clear()

    def rewrap(self) -> int:
        """Wrap every key anew under the present epoch; gives how many. Doing it again does nothing more.

        What a copy of the old file holds can be opened for as long as the old epoch's root lives.
        """
        current = self._keys.wrapping_key()
        with self._opened() as database:
            count = sum(
                self._rewrap_subjects(database, rows, current)
                for rows in _batches(database, _LIVE_SUBJECTS, current)
            ) + sum(
                self._rewrap_days(database, rows, current)
                for rows in _batches(database, "select day, wrapped from day_keys", current)
            )
            _settle(database)
        self._day_keys.clear()
        return count

    def _rewrap_subjects(
        self, database: sqlite3.Connection, rows: Sequence[tuple[bytes, bytes]], current: SivKey
    ) -> int:
        old = dict(rows)
        opened = self._unwrapped(old)
        plain = pl.Series([ref + opened[ref] for ref in old], dtype=pl.Binary)
        wrapped = encrypt_column(plain, current, text=False).to_list()
        # An erasure in between has taken the old one away: nothing is put back.
        database.executemany(
            "update subjects set wrapped = ? where ref = ? and wrapped = ?",
            [(new, ref, was) for new, (ref, was) in zip(wrapped, old.items(), strict=True)],
        )
        database.commit()
        return len(old)

    def _rewrap_days(
        self, database: sqlite3.Connection, rows: Sequence[tuple[str, bytes]], current: SivKey
    ) -> int:
        live = self._keys.live_wrapping_keys()
        for day, wrapped in rows:
            label = length_prefixed(b"day", day.encode())
            plain = siv_decrypt(live[_day_key_id(wrapped)].key, wrapped[4:], label)
            fresh = current.key_id + siv_encrypt(current.key, plain, label)
            changed = "update day_keys set wrapped = ? where day = ? and wrapped = ?"
            database.execute(changed, (fresh, day, wrapped))
        database.commit()
        return len(rows)

    def count(self) -> int:
        """Give the number of subjects with a live key."""
        with self._opened() as database:
            return int(database.execute("select count(*) from subjects where state = 'live'").fetchone()[0])

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        database = sqlite3.connect(self._path, timeout=60)
        try:
            # Deleted keys are overwritten, and a key is on disk before anything is sealed with it.
            use_wal(database)
            for pragma in ("secure_delete = on", "synchronous = full"):
                database.execute(f"pragma {pragma}")
            database.executescript(_SCHEMA)
            self._path.chmod(0o600)
            yield database
        finally:
            database.close()

    def _wrapped(self, database: sqlite3.Connection, refs: Sequence[bytes]) -> dict[bytes, bytes | None]:
        found: dict[bytes, bytes | None] = {}
        # In the order of the table, neighbours lie on the same page.
        ordered = sorted(refs)
        for start in range(0, len(ordered), _ASKED_AT_ONCE):
            asked = ordered[start : start + _ASKED_AT_ONCE]
            places = ", ".join("?" * len(asked))
            query = f"select ref, wrapped from subjects where ref in ({places})"  # noqa: S608 - no values
            found.update(database.execute(query, asked))
        return found

    def _insert(self, database: sqlite3.Connection, refs: Sequence[bytes]) -> None:
        random = secrets.token_bytes(KEY_BYTES * len(refs))
        fresh = [ref + random[at * KEY_BYTES : (at + 1) * KEY_BYTES] for at, ref in enumerate(refs)]
        wrapped = encrypt_column(pl.Series(fresh, dtype=pl.Binary), self._keys.wrapping_key(), text=False)
        database.executemany(
            "insert or ignore into subjects values (?, ?, 'live')", zip(refs, wrapped.to_list(), strict=True)
        )
        database.commit()

    def unwrap_keys(self, refs: pl.Series, wrapped: pl.Series) -> pl.Series:
        """Open wrapped keys; each holds its subject's reference, so that no row can stand for another.

        Shape: Binary in, as many Binary keys out. Raises: DecryptionError where one does not verify.
        """
        opened = decrypt_column(wrapped, self._keys.live_wrapping_keys())
        # Compared and cut as columns: a loop over a million would cost as much as opening them.
        if not (opened.bin.slice(0, _REF_BYTES) == refs).all():
            raise DecryptionError("a subject key")
        return opened.bin.slice(_REF_BYTES)

    def _unwrapped(self, wrapped: dict[bytes, bytes]) -> dict[bytes, bytes]:
        refs, keys = (pl.Series(pa.array(part, pa.large_binary())) for part in (wrapped, wrapped.values()))
        return dict(zip(wrapped, self.unwrap_keys(refs, keys).to_list(), strict=True))


class BatchSubjects:
    """The subjects of one batch: the reference of each is computed and their key read once.

    Held for no longer than the tenant's lock, since an erasure in between would go unnoticed.
    """

    def __init__(self, subjects: SubjectKeys, ref_key: bytes, domain: str) -> None:
        """Begin with nobody."""
        self._subjects = subjects
        self._ref_of = subject_referrer(ref_key, domain)
        self._refs = pl.DataFrame(schema={"id": pl.String, "ref": pl.Binary})
        self._keys: dict[bytes, bytes] = {}

    def refs(self, ids: pl.Series) -> pl.Series:
        """Give the reference of each subject. Shape: canonical ids in, as many Binary values out."""
        known = self._known(ids)
        if known.null_count():
            fresh = ids.filter(known.is_null()).unique()
            added = pl.DataFrame({"id": fresh, "ref": subject_refs(fresh, self._ref_of)})
            if self._refs.height + added.height > _KEPT:
                # What is forgotten is computed again.
                self._refs = self._refs.clear()
                return subject_refs(ids, self._ref_of)
            self._refs = pl.concat([self._refs, added])
            known = self._known(ids)
        return known

    def _known(self, ids: pl.Series) -> pl.Series:
        asked = ids.rename("id").to_frame()
        return asked.join(self._refs, on="id", how="left", maintain_order="left")["ref"]

    def keys_for(self, refs: Sequence[bytes]) -> dict[bytes, bytes]:
        """Give keys as `SubjectKeys.keys_for` does."""
        unread = [ref for ref in refs if ref not in self._keys]
        if len(self._keys) + len(unread) > _KEPT:
            self._keys, unread = {}, list(refs)
        self._keys |= self._subjects.keys_for(unread)
        return {ref: self._keys[ref] for ref in refs if ref in self._keys}


def _batches(database: sqlite3.Connection, query: str, current: SivKey) -> Iterator[list[tuple[Any, bytes]]]:
    """Give the rows whose key another epoch wrapped, some at a time."""
    # A subject's is a whole token, which begins with its version; a day's begins with the key id.
    rows = [row for row in database.execute(query) if not row[1].startswith((current.prefix, current.key_id))]
    for start in range(0, len(rows), _REWRAPPED_AT_ONCE):
        yield rows[start : start + _REWRAPPED_AT_ONCE]


def _day_key_id(wrapped: bytes) -> bytes:
    return wrapped[:4]


def _settle(database: sqlite3.Connection) -> None:
    """Write the log back and cut it to nothing: an old page there would still hold the key."""
    database.execute("pragma wal_checkpoint(truncate)")
