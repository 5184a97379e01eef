"""The receiver: messages from a queue become segments, files in landing that the intake takes.

    landing/<source>/<tenant>/.queue-<sent>-<id>.ndjson.part being written
    landing/<source>/<tenant>/queue-<sent>-<id>.ndjson    whole, a queue message a line

A segment is written, synced and named before its messages are confirmed. Whoever is killed before
that leaves the messages on the queue; after it, they come again and are known by their ids.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import uuid_utils

from stores.announced_objects import AnnouncedObjects
from stores.home import Home, written_whole
from stores.locks import exclusive
from stores.queue import Message, Queue, envelope
from transforms.errors import QueueError

# A segment is held in memory until it is closed.
_SEGMENT_BYTES = 64 << 20
# A stop has to wait for a poll, so that none is longer than this.
_LONGEST_WAIT_S = 2.0
_LOOK_S = 0.5
_PATIENCE_S = (0.5, 1, 2, 5, 15)
# By what a queue carries: its lock, and what files begin with.
_OF_QUEUES = {"records": ("receive", "queue"), "objects": ("objects", "object")}
_NAME = re.compile(r"^(?:queue-([0-9]{1,15})-[0-9a-f-]{36}\.ndjson|object-([0-9]{1,15})-[0-9a-f-]{36})$")


@dataclass(frozen=True)
class ReceiverLimits:
    """When a segment is closed, and when the receiver waits for the lake."""

    messages: int = 1000
    seconds: float = 5
    staging_bytes: int = 1 << 30
    staging_seconds: float = 3600
    visibility_s: float = 60


@dataclass
class Received:
    """What a receiver did: messages taken, segments, and deliveries that could not be confirmed."""

    messages: int = 0
    segments: int = 0
    unconfirmed: int = 0

    def __add__(self, other: Received) -> Received:
        """Add what another receiver did."""
        return Received(
            self.messages + other.messages,
            self.segments + other.segments,
            self.unconfirmed + other.unconfirmed,
        )


@dataclass(frozen=True)
class Staged:
    """What waits in landing for the lake. Units: seconds since the oldest of it was written."""

    files: int
    size_bytes: int
    oldest_s: float


class Receiver:
    """Takes messages of one source and tenant into landing.

    Where the messages announce objects of a bucket, the objects are taken in their place.
    """

    def __init__(
        self,
        home: Home,
        queue: Queue,
        source: str,
        tenant: str,
        limits: ReceiverLimits,
        tell: Callable[[str], None] = lambda _message: None,
        objects: AnnouncedObjects | None = None,
    ) -> None:
        """Remember the queue and the place; `tell` is told what goes wrong, never a message's content."""
        self._objects, self.carries = objects, "records" if objects is None else "objects"
        self._home, self._queue, self._limits, self._tell = home, queue, limits, tell
        self.source = source
        self._folder = home.landing / source / tenant
        self._held: list[Message] = []
        self._held_bytes, self._since = 0, 0.0
        self._looked, self._is_full = 0.0, False
        self.received = Received()

    def run(self, is_stopped: Callable[[], bool], until_idle_s: float | None = None) -> Received:
        """Receive until told to stop, or until nothing came for `until_idle_s` seconds.

        What is held is written and confirmed before this ends.
        """
        if self._objects is not None:
            self._objects.forget_old()
        busy, failures = time.monotonic(), 0
        while not is_stopped():
            came = False
            try:
                came = self._take(until_idle_s)
                failures = 0
            except (QueueError, OSError) as error:
                # Nothing is lost: what was not confirmed comes again.
                self._forget()
                reason = str(error) if isinstance(error, QueueError) else type(error).__name__
                self._tell(f"receiver: {reason}; trying again")
                _rest(_PATIENCE_S[min(failures, len(_PATIENCE_S) - 1)], is_stopped)
                failures += 1
            if came:
                busy = time.monotonic()
            elif until_idle_s is not None and time.monotonic() - busy >= until_idle_s:
                break
        self._finish()
        return self.received

    def _finish(self) -> None:
        try:
            self.close_segment()
        except (QueueError, OSError) as error:
            self._tell(
                f"receiver: its last messages are not confirmed ({type(error).__name__}); they come again"
            )

    def _take(self, until_idle_s: float | None) -> bool:
        """Take what comes within a short while; give whether anything did."""
        if self.is_full():
            self.close_segment()
            time.sleep(_LOOK_S)
            return True
        # An object may take long: no other message shall wait for it, and be given to somebody else.
        room = 1 if self._objects else self._limits.messages - len(self._held)
        messages = self._queue.receive(room, self._wait_s(until_idle_s))
        for one in messages:
            if self._objects is None:
                self._hold(one)
            else:
                self._land(one, self._objects)
        self._close_if_due()
        return bool(messages)

    def _wait_s(self, until_idle_s: float | None) -> float:
        longest = _LONGEST_WAIT_S if until_idle_s is None else min(_LONGEST_WAIT_S, max(until_idle_s, 0.1))
        if not self._held:
            return longest
        # SQS counts whole seconds; nought is a short poll, and the segment is closed in time.
        return max(0.0, min(longest, self._since + self._limits.seconds - time.monotonic()))

    def _land(self, message: Message, objects: AnnouncedObjects) -> None:
        """Take the objects that a message announces; what is wrong with it goes to quarantine."""

        def keep() -> None:
            self._queue.extend([message], self._limits.visibility_s)

        fault = objects.land(message.body, message.sent_at, keep)
        if fault is not None:
            self._hold(replace(message, fault=fault))
            return
        self.received.messages += 1
        self._confirm([message])

    def _hold(self, message: Message) -> None:
        if not self._held:
            self._since = time.monotonic()
        self._held.append(message)
        self._held_bytes += len(message.body)

    def _close_if_due(self) -> None:
        is_large = len(self._held) >= self._limits.messages or self._held_bytes >= _SEGMENT_BYTES
        if self._held and (is_large or time.monotonic() - self._since >= self._limits.seconds):
            self.close_segment()

    def close_segment(self) -> None:
        """Write what is held, sync it, name it, and only then confirm the messages."""
        if not self._held:
            return
        messages = self._held
        if time.monotonic() - self._since > self._limits.visibility_s / 2:
            # Whatever was lost meanwhile is written all the same: a second delivery is known by its id.
            self._queue.extend(messages, self._limits.visibility_s)
        write_segment(self._folder, messages)
        self._forget()
        self.received.segments += 1
        self.received.messages += len(messages)
        self._confirm(messages)

    def _confirm(self, messages: Sequence[Message]) -> None:
        failed = self._queue.delete(messages)
        if failed:
            failed = self._queue.delete(failed)
        self.received.unconfirmed += len(failed)

    def _forget(self) -> None:
        self._held, self._held_bytes = [], 0

    def is_full(self) -> bool:
        """Whether so much is staged, or for so long, that the lake has to catch up first."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_S or not self._looked:
            staged = measure_staging(self._home, self.source)
            was, self._looked = self._is_full, now
            self._is_full = (
                staged.size_bytes >= self._limits.staging_bytes
                or staged.oldest_s >= self._limits.staging_seconds
            )
            if self._is_full and not was:
                self._tell(f"receiver: {staged.size_bytes:,} bytes are staged; waiting for the lake")
        return self._is_full


def write_segment(folder: Path, messages: Sequence[Message]) -> Path:
    """Write messages as one segment: complete and on disk before it has its name."""
    oldest = int(min(one.sent_at for one in messages) * 1000)
    path = folder / f"queue-{max(oldest, 0)}-{uuid_utils.uuid7()}.ndjson"
    with written_whole(path) as file:
        file.write(b"".join(envelope(one) + b"\n" for one in messages))
    return path


def segment_sent_at(name: str) -> float | None:
    """Give when the oldest message of a segment was sent, by the segment's name; None for other files.

    Units: seconds since 1970.

    >>> segment_sent_at("queue-1500-01a1fd48-46cc-7408-8d46-1806dd950c5d.ndjson"), segment_sent_at("a.json")
    (1.5, None)
    """
    found = _NAME.match(name)
    return int(found[1] or found[2]) / 1000 if found else None


def measure_staging(home: Home, source: str) -> Staged:
    """Measure what lies readable in landing for a source: dropped, or claimed and not sealed yet."""
    files = sizes = 0
    oldest = now = time.time()
    for path in _staged_files(home, source):
        try:
            state = path.stat()
        except FileNotFoundError:
            continue  # sealed, or claimed, this moment
        files, sizes, oldest = files + 1, sizes + state.st_size, min(oldest, state.st_mtime)
    return Staged(files, sizes, max(0.0, now - oldest))


def _staged_files(home: Home, source: str) -> Iterator[Path]:
    yield from (path for path in (home.landing / source).glob("*/*") if not path.name.startswith("."))
    # A batch's files bear numbers; its manifest and lock do not.
    yield from (path for path in (home.landing / ".batches").glob("*/*") if path.name.isdigit())


@contextmanager
def receiving(home: Home, source: str, tenant: str, carries: str = "records") -> Iterator[int]:
    """Be the only receiver of a queue in this home; gives how many half-written files were removed.

    Raises: BusyError where another one runs.
    """
    lock, files = _OF_QUEUES[carries]
    with exclusive(home.locks / tenant / f"{source}.{lock}.lock", wait=False):
        left = list((home.landing / source / tenant).glob(f".{files}-*.part"))
        for part in left:
            # Its messages were not confirmed: they come again.
            part.unlink()
        yield len(left)


def receive_from_all(
    receivers: Sequence[Receiver], is_stopped: Callable[[], bool], until_idle_s: float | None = None
) -> Received:
    """Let every receiver run, each in a thread of its own; where one breaks, all stop and that is raised."""
    if len(receivers) == 1:
        return receivers[0].run(is_stopped, until_idle_s)
    broken = threading.Event()

    def run(one: Receiver) -> Received:
        try:
            return one.run(lambda: is_stopped() or broken.is_set(), until_idle_s)
        except BaseException:
            broken.set()
            raise

    with ThreadPoolExecutor(len(receivers), "receiver") as threads:
        return sum(threads.map(run, receivers), Received())


def _rest(seconds: float, is_stopped: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not is_stopped():
        time.sleep(0.05)
