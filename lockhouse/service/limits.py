"""How much each caller may ask for: a bucket that fills as time passes."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from transforms.errors import QuotaError

# Callers beyond these are forgotten, the one that was quiet for longest first: memory stays bounded.
_MOST_CALLERS = 10_000


class Buckets:
    """A bucket for each name: `per_minute` requests on average, as many at once."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with full buckets."""
        self._size, self._clock = float(per_minute), clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, name: str) -> None:
        """Take one request out of a bucket.

        Raises: QuotaError where it is empty; it says how long to wait.
        """
        with self._lock:
            now = self._clock()
            level, since = self._levels.pop(name, (self._size, now))
            level = min(self._size, level + (now - since) * self._size / 60)
            self._levels[name] = (level - 1 if level >= 1 else level, now)
            if len(self._levels) > _MOST_CALLERS:
                self._levels.popitem(last=False)
            if level < 1:
                raise QuotaError("too many requests: wait, then go on", (1 - level) * 60 / self._size)
