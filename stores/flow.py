"""How messages flow: what waits on a queue, what is staged behind it, how fast rows come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from stores.home import Home
from stores.ledger import Ledger
from stores.queue import Depth, Queue
from stores.receiver import Staged, measure_staging

_PACE_OVER = timedelta(minutes=10)


@dataclass(frozen=True)
class Standing:
    """How a source and tenant stand, from the queue to the rows.

    Units: seconds; `rows_per_minute` and `lag_s` (the longest way from sent to queryable) are of the last
    ten minutes.
    """

    depth: Depth
    staged: Staged
    rows_per_minute: float
    lag_s: float | None


class Flow:
    """Measures what is between a queue and its rows, for a source and tenant."""

    def __init__(
        self,
        home: Home,
        ledger: Ledger,
        queue: Queue,
        scope: tuple[str, str],
        clock: Callable[[], datetime],
    ) -> None:
        """Remember what tells, and whose queue it is (source, tenant); nothing is asked yet."""
        self._home, self._ledger, self._queue, self._clock = home, ledger, queue, clock
        self._source, self._tenant = scope

    def measure(self) -> Standing:
        """Measure now. Raises: QueueError where the queue does not answer."""
        depth = self._queue.depth()
        pace = self._ledger.pace(self._source, self._tenant, self._clock() - _PACE_OVER)
        return Standing(depth, measure_staging(self._home, self._source), pace.rows_per_minute, pace.lag_s)
