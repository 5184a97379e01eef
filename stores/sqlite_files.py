"""What our SQLite files have in common: several processes write them, and readers do not wait."""

from __future__ import annotations

import sqlite3
import time

_WAIT_S = 60.0
_PAUSE_S = 0.01


def use_wal(connection: sqlite3.Connection) -> None:
    """Put a database into write-ahead mode, where it is not yet.

    SQLite waits for no lock here, whatever its time-out, where two open a new file at once: so we do.
    Raises: sqlite3.OperationalError where another process holds it for a minute.
    """
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            connection.execute("pragma journal_mode = wal").fetchall()
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE_S)
