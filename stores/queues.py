"""Which of the two kinds of queue is opened: SQS where an address is set, else an embedded one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from stores.aws import sqs_client
from stores.embedded_queue import EmbeddedQueue, QueueLimits
from stores.queue import Queue
from stores.settings import Settings
from stores.sqs import SqsLimits, SqsQueue


def open_queue(settings: Settings, url: str | None, path: Path, clock: Callable[[], datetime]) -> Queue:
    """Give the queue at an address of SQS, or the embedded one in a file; nothing is connected yet."""
    if url is not None:
        return SqsQueue(url, SqsLimits(settings.queue_visibility_s), lambda: sqs_client(settings))
    limits = QueueLimits(settings.queue_visibility_s, settings.queue_max_receives)
    return EmbeddedQueue(path, limits, lambda: clock().timestamp())
