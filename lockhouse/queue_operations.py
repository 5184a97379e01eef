"""Operations on the queue: every one authorises, then audits, then acts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO

from lockhouse.operations import Caller
from orchestration.resources import now
from stores.contracts import load_contract
from stores.receiver import receive_from_all, receiving
from transforms.access import Right
from transforms.audit import Action
from transforms.errors import UsageError
from transforms.pii.synthetic import synthetic_records
from transforms.records import read_records

# What is sent at once, and so is durable together.
_SEND_AT_ONCE = 500


def send_records(caller: Caller, source: str, stream: BinaryIO) -> int:
    """Put every record of a file on the source's queue, as it stands; give how many.

    Raises: UsageError where a part of the file is no record: what stood before it is on the queue.
    """
    with caller.permitted(Right.INGEST, Action.QUEUE_SENT, source=_known(source)):
        queue = caller.platform.queue(source, caller.tenant)
        sent = sum(len(queue.send(group)) for group in _batched(_bodies(stream)))
        caller.results["messages"] = sent
        return sent


def send_synthetic(
    caller: Caller, source: str, count: int, rate: float | None, is_stopped: Callable[[], bool]
) -> int:
    """Put made-up records on the source's queue, `rate` a second where one is given; give how many."""
    with caller.permitted(Right.INGEST, Action.QUEUE_SENT, source=_known(source), synthetic=count):
        queue = caller.platform.queue(source, caller.tenant)
        made = synthetic_records(load_contract(source), int(time.time()), count, now(), days=1)
        # A tenth of a second's worth at once: an even stream without a sync for each message.
        size = max(1, min(_SEND_AT_ONCE, int(rate / 10))) if rate else _SEND_AT_ONCE
        start, sent = time.monotonic(), 0
        for group in _batched((_encoded(one) for one in made), size):
            if is_stopped():
                break
            sent += len(queue.send(group))
            if rate:
                time.sleep(max(0.0, start + sent / rate - time.monotonic()))
        caller.results["messages"] = sent
        return sent


def receive_messages(
    caller: Caller,
    source: str,
    until_idle_s: float | None,
    is_stopped: Callable[[], bool],
    tell: Callable[[str], None],
) -> dict[str, int]:
    """Receive into segments until told to stop, or until nothing came for a while.

    Raises: BusyError where another process receives from this queue.
    """
    with caller.permitted(Right.INGEST, Action.QUEUE_RECEIVED, source=_known(source)):
        platform = caller.platform
        with ExitStack() as stack:
            receivers = platform.receivers(source, caller.tenant, tell)
            for one in receivers:
                stack.enter_context(receiving(platform.home, source, caller.tenant, one.carries))
            done = receive_from_all(receivers, is_stopped, until_idle_s)
        result = {"messages": done.messages, "segments": done.segments, "unconfirmed": done.unconfirmed}
        caller.results.update(result)
        return result


def watch_queue(caller: Caller, source: str) -> Iterator[dict[str, Any]]:
    """Measure the queue and what lies behind it, each time that the next is asked for."""
    with caller.permitted(Right.INGEST, Action.QUEUE_COUNTED, source=_known(source)):
        flow = caller.platform.flow(source, caller.tenant)
    while True:
        found = flow.measure()
        depth, staged = found.depth, found.staged
        yield {
            "visible": depth.visible,
            "in_flight": depth.in_flight,
            "dead": depth.dead,
            "oldest_s": None if depth.oldest_s is None else round(depth.oldest_s, 1),
            "staged_files": staged.files,
            "staged_bytes": staged.size_bytes,
            "staged_s": round(staged.oldest_s, 1),
            "rows_per_minute": found.rows_per_minute,
            "lag_s": found.lag_s,
        }


def redrive_queue(caller: Caller, source: str) -> int:
    """Put the dead letters back on the queue; give how many."""
    with caller.permitted(Right.OPERATE, Action.QUEUE_REDRIVEN, source=_known(source)):
        moved = caller.platform.queue(source, caller.tenant).redrive()
        caller.results["messages"] = moved
        return moved


def _known(source: str) -> str:
    # Only records of a contract come in messages; a capture is too large for one.
    if load_contract(source).origin != "producer":
        raise UsageError(f"{source} come by no queue: `lockhouse validation submit` takes a request")
    return source


def _bodies(stream: BinaryIO) -> Iterator[str]:
    for piece in read_records(stream):
        for number, payload in enumerate(piece.payloads, piece.first + 1):
            try:
                yield payload.decode()
            except UnicodeDecodeError:
                raise UsageError(f"record {number} is no text: a queue takes text only") from None
        if piece.damage is not None:
            raise UsageError(f"the file cannot be read as a whole: {piece.damage.reason}")


def _encoded(record: dict[str, Any]) -> str:
    import msgspec

    return msgspec.json.encode(record).decode()


def _batched(bodies: Iterable[str], size: int = _SEND_AT_ONCE) -> Iterator[list[str]]:
    each = iter(bodies)
    while group := list(itertools.islice(each, size)):
        yield group
