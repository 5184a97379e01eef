"""A queue of messages, whatever is behind it: received, then deleted, else delivered again.

What every implementation promises is Amazon SQS's: at least once, in no certain order; who receives
a message has it alone until its visibility time-out; after `max_receives` deliveries that nobody
confirmed it goes to the dead letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from transforms.errors import UsageError

# What SQS takes, with its attributes; the embedded queue takes no more, so that both are alike.
MAX_BODY_BYTES = 1 << 20


@dataclass(frozen=True)
class Message:
    """A message that was received. `receipt` confirms this delivery of it, and no other.

    `fault` says why it shall go to quarantine, where the receiver found that out.

    Units: `sent_at` and `received_at` in seconds since 1970; `receives` counts this delivery.
    """

    id: str
    body: str
    receipt: str
    sent_at: float
    receives: int
    received_at: float
    fault: str | None = None


@dataclass(frozen=True)
class Depth:
    """How many messages a queue has: to be received, received and not confirmed, dead.

    Units: `oldest_s` seconds since the oldest live message was sent; None where the queue does not tell.
    """

    visible: int
    in_flight: int
    dead: int
    oldest_s: float | None


class Queue(Protocol):
    """What the receiver and the command line need of a queue."""

    def send(self, bodies: Sequence[str]) -> list[str]:
        """Put messages on the queue; give their ids. Durable when it returns."""

    def receive(self, limit: int, wait_s: float) -> list[Message]:
        """Take up to `limit` messages; wait up to `wait_s` seconds for the first."""

    def extend(self, messages: Sequence[Message], visibility_s: float) -> list[Message]:
        """Keep messages for so many seconds from now; give those that are ours no more."""

    def delete(self, messages: Sequence[Message]) -> list[Message]:
        """Confirm messages: they do not come again. Give those for which that failed; they come again."""

    def depth(self) -> Depth:
        """Count the messages."""

    def redrive(self) -> int:
        """Put the dead letters back on the queue; give how many."""


def check_bodies(bodies: Sequence[str]) -> None:
    """Refuse what no queue takes. Raises: UsageError with the message's number, from 1."""
    for number, body in enumerate(bodies, 1):
        size = len(body.encode(errors="replace"))
        if not 1 <= size <= MAX_BODY_BYTES:
            raise UsageError(f"message {number} has {size} bytes; a queue takes 1 to {MAX_BODY_BYTES}")


_encode = msgspec.json.Encoder().encode


def envelope(message: Message) -> bytes:
    """Write a message as the intake reads it: a line of JSON, shaped as SQS hands it out, and when it did.

    >>> envelope(Message("m-1", "{}", "r", 1.5, 1, 2.25))
    b'{"MessageId":"m-1","Body":"{}","Attributes":{"SentTimestamp":"1500"},"ReceivedAt":2250}'
    """
    # Half of a pair of surrogates is no text: with a replacement, the record is refused and kept.
    body = message.body.encode(errors="replace").decode()
    sent = {"SentTimestamp": str(int(message.sent_at * 1000))}
    shaped = {"MessageId": message.id, "Body": body, "Attributes": sent}
    fault = {"Fault": message.fault} if message.fault else {}
    return _encode({**shaped, "ReceivedAt": int(message.received_at * 1000), **fault})
