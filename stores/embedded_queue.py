"""The embedded queue: one SQLite file below landing, with the semantics of SQS.

Bodies are readable, so the file lies in landing. What is deleted is overwritten at once
(`secure_delete`), and the log is cut when a delivery is confirmed.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uuid_utils

from stores.queue import Depth, Message, check_bodies
from stores.sqlite_files import use_wal

# How often a waiting receiver looks: a look costs 30 microseconds.
_LOOK_S = 0.25
_SCHEMA = (
    "create table if not exists messages (number integer primary key, id text not null unique,"
    " body text not null, sent_at real not null, visible_at real not null, receives int not null default 0,"
    " receipt text, is_dead int not null default 0)",
    "create index if not exists waiting on messages (is_dead, visible_at)",
)


@dataclass(frozen=True)
class QueueLimits:
    """How long a received message is kept from others, and after how many deliveries it is dead."""

    visibility_s: float = 60
    max_receives: int = 5


class EmbeddedQueue:
    """A queue in one file. Making one touches nothing."""

    def __init__(self, path: Path, limits: QueueLimits, clock: Callable[[], float]) -> None:
        """Remember the file; `clock` tells seconds since 1970."""
        self._path, self._limits, self._clock = path, limits, clock
        self._connection: sqlite3.Connection | None = None

    def send(self, bodies: Sequence[str]) -> list[str]:
        """Put messages on the queue. Raises: UsageError where one is too large."""
        check_bodies(bodies)
        ids = [str(uuid_utils.uuid4()) for _ in bodies]
        now = self._clock()
        rows = [(one, body, now, now) for one, body in zip(ids, bodies, strict=True)]
        with self._writing() as connection:
            connection.executemany(
                "insert into messages (id, body, sent_at, visible_at) values (?, ?, ?, ?)", rows
            )
        return ids

    def receive(self, limit: int, wait_s: float) -> list[Message]:
        """Take messages whose time has come, the longest waiting first; bury those delivered too often."""
        until = time.monotonic() + wait_s
        while True:
            if self._is_waiting() and (messages := self._take(limit)):
                return messages
            left = until - time.monotonic()
            if left <= 0:
                return []
            time.sleep(min(_LOOK_S, left))

    def extend(self, messages: Sequence[Message], visibility_s: float) -> list[Message]:
        """Keep messages for longer; those that somebody else received since are given back."""
        lost = []
        until = self._clock() + visibility_s
        with self._writing() as connection:
            for one in messages:
                sql = "update messages set visible_at = ? where id = ? and receipt = ? and is_dead = 0"
                if connection.execute(sql, (until, one.id, one.receipt)).rowcount == 0:
                    lost.append(one)
        return lost

    def delete(self, messages: Sequence[Message]) -> list[Message]:
        """Delete messages for good; those that somebody else received since are given back."""
        kept = []
        with self._writing() as connection:
            for one in messages:
                sql = "delete from messages where id = ? and receipt = ? and is_dead = 0"
                if connection.execute(sql, (one.id, one.receipt)).rowcount == 0:
                    kept.append(one)
        # Otherwise the log still shows what the file has overwritten.
        self._opened().execute("pragma wal_checkpoint(truncate)").fetchall()
        return kept

    def depth(self) -> Depth:
        """Count the messages."""
        now = self._clock()
        sql = (
            "select coalesce(sum(is_dead = 0 and visible_at <= ?), 0),"
            " coalesce(sum(is_dead = 0 and visible_at > ?), 0), coalesce(sum(is_dead), 0),"
            " min(case when is_dead = 0 then sent_at end) from messages"
        )
        visible, in_flight, dead, oldest = self._opened().execute(sql, (now, now)).fetchone()
        return Depth(visible, in_flight, dead, max(0.0, now - oldest) if oldest is not None else 0.0)

    def redrive(self) -> int:
        """Put the dead letters back, as if they had never been delivered."""
        with self._writing() as connection:
            sql = "update messages set is_dead = 0, receives = 0, receipt = null, visible_at = ? where is_dead"
            return connection.execute(sql, (self._clock(),)).rowcount

    def discard(self, part: str) -> int:
        """Delete every message in whose body some text stands, received or not; give how many went."""
        if not self._path.exists():
            return 0
        with self._writing() as connection:
            gone = connection.execute("delete from messages where instr(body, ?)", (part,)).rowcount
        self._opened().execute("pragma wal_checkpoint(truncate)").fetchall()
        return gone

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _is_waiting(self) -> bool:
        sql = "select 1 from messages where is_dead = 0 and visible_at <= ? limit 1"
        return self._opened().execute(sql, (self._clock(),)).fetchone() is not None

    def _take(self, limit: int) -> list[Message]:
        now, most = self._clock(), self._limits.max_receives
        with self._writing() as connection:
            connection.execute(
                "update messages set is_dead = 1, receipt = null"
                " where is_dead = 0 and visible_at <= ? and receives >= ?",
                (now, most),
            )
            found = connection.execute(
                "select number, id, body, sent_at, receives from messages"
                " where is_dead = 0 and visible_at <= ? order by visible_at, number limit ?",
                (now, limit),
            ).fetchall()
            receipts = [str(uuid_utils.uuid4()) for _ in found]
            hidden = now + self._limits.visibility_s
            connection.executemany(
                "update messages set receipt = ?, receives = receives + 1, visible_at = ? where number = ?",
                [(receipt, hidden, row[0]) for receipt, row in zip(receipts, found, strict=True)],
            )
        return [
            Message(name, body, receipt, sent_at, receives + 1, now)
            for receipt, (_, name, body, sent_at, receives) in zip(receipts, found, strict=True)
        ]

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection in one transaction, durable when the block ends."""
        connection = self._opened()
        connection.execute("begin immediate")
        try:
            yield connection
        except BaseException:
            connection.execute("rollback")
            raise
        connection.execute("commit")

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            connection = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            self._path.chmod(0o600)
            use_wal(connection)
            for pragma in ("synchronous = full", "secure_delete = on"):
                connection.execute(f"pragma {pragma}").fetchall()
            for statement in _SCHEMA:
                connection.execute(statement)
            self._connection = connection
        return self._connection
