"""Which named events have arrived in the last days: an index a tenant's source and day.

Only events that bring a name (a contract's id field, a queue's message id) are looked up here; a
file's records are known by the file. The index can be rebuilt from the tables.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from stores.sqlite_files import use_wal

# An event and who brought it: the batch and its place there, so that a retry knows its own.
Arrival = tuple[bytes, bytes, int, int]


class SeenEvents:
    """The index of one tenant's source."""

    def __init__(self, folder: Path, window_days: int) -> None:
        """Remember the folder; a day's file is made with its first event."""
        self._folder, self._window_days = folder, window_days

    def find_duplicates(self, day: date, arrivals: Sequence[Arrival]) -> np.ndarray:
        """Enter arrivals and tell which of them had come before, from elsewhere or earlier here.

        Shape: a boolean for each arrival. Each is (event id, batch id, file, record): 16, 16 bytes.
        Entering the same arrivals again gives the same answer.
        """
        duplicates = np.zeros(len(arrivals), dtype=bool)
        for path in self._earlier(day):
            with _opened(path) as index:
                duplicates |= self._held_by_others(index, arrivals)
        fresh = [arrival for arrival, old in zip(arrivals, duplicates, strict=True) if not old]
        with _opened(self._folder / f"{day.isoformat()}.db") as index:
            entered = index.executemany("insert or ignore into seen values (?, ?, ?, ?)", fresh).rowcount
            index.commit()
            if entered < len(arrivals):
                duplicates |= self._held_by_others(index, arrivals)
        return duplicates

    def forget(self, today: date) -> None:
        """Delete the days that have left the window."""
        oldest = (today - timedelta(days=self._window_days)).isoformat()
        for path in self._folder.glob("*.db*"):
            if path.name[:10] < oldest:
                path.unlink()

    def forget_events(self, ids: Sequence[bytes]) -> int:
        """Forget some events on every day, their bytes overwritten; give how many entries went."""
        gone = 0
        for path in sorted(self._folder.glob("*.db")) if ids else []:
            with _opened(path) as index:
                index.execute("pragma secure_delete = on")
                index.executemany("delete from seen where id = ?", [(one,) for one in ids])
                gone += index.total_changes
                index.commit()
                index.execute("pragma wal_checkpoint(truncate)")
        return gone

    def _earlier(self, day: date) -> list[Path]:
        days = (day - timedelta(days=back) for back in range(1, self._window_days))
        paths = (self._folder / f"{one.isoformat()}.db" for one in days)
        return [path for path in paths if path.exists()]

    def _held_by_others(self, index: sqlite3.Connection, arrivals: Sequence[Arrival]) -> np.ndarray:
        index.execute(
            "create temp table if not exists asked (at integer, id blob, batch blob, file int, record int)"
        )
        index.execute("delete from asked")
        rows = ((at, *arrival) for at, arrival in enumerate(arrivals))
        index.executemany("insert into asked values (?, ?, ?, ?, ?)", rows)
        held = index.execute(
            "select asked.at from asked join seen using (id)"
            " where (seen.batch, seen.file, seen.record) <> (asked.batch, asked.file, asked.record)"
        )
        found = np.zeros(len(arrivals), dtype=bool)
        found[[at for (at,) in held]] = True
        return found


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    index = sqlite3.connect(path, timeout=60)
    try:
        use_wal(index)
        index.execute("pragma synchronous = full")
        index.execute(
            "create table if not exists seen"
            " (id blob primary key, batch blob, file int, record int) without rowid"
        )
        yield index
    finally:
        index.close()
