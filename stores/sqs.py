"""Amazon SQS behind the queue's interface: standard and FIFO, long polling, partial failures, redrive."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uuid_utils

from stores.queue import Depth, Message, check_bodies
from transforms.errors import QueueError

if TYPE_CHECKING:
    from stores.settings import Settings

# What SQS takes in one call: so many entries, and so many bytes over all of them.
_ENTRIES = 10
_CALL_BYTES = 1 << 20
# The longest that SQS waits for a first message; a stop has to wait for it, so the receiver asks for less.
_LONGEST_POLL_S = 20


@dataclass(frozen=True)
class SqsLimits:
    """How long a received message is kept from others. The dead letters' limit is the queue's own."""

    visibility_s: float = 60


class SqsQueue:
    """A queue of Amazon SQS by its URL. Making one connects to nothing."""

    def __init__(self, url: str, limits: SqsLimits, connect: Callable[[], Any]) -> None:
        """Remember the queue; `connect` gives boto3's client when it is first needed."""
        self._url, self._limits, self._connect = url, limits, connect
        self._client: Any = None
        self._dead_url: str | None = None

    @property
    def is_fifo(self) -> bool:
        """Whether the queue keeps an order within groups and refuses repetitions."""
        return self._url.endswith(".fifo")

    def send(self, bodies: Sequence[str]) -> list[str]:
        """Put messages on the queue, ten a call; what a call refuses is sent once more.

        Raises: UsageError where one is too large; QueueError where the queue keeps refusing.
        """
        check_bodies(bodies)
        ids: list[str] = []
        for group in _groups(bodies):
            # Named before the first try: a FIFO queue then knows a repetition of the same send.
            entries = [self._entry(number, body) for number, body in enumerate(group)]
            given: dict[str, str] = {}
            for _ in range(2):
                left = [entry for entry in entries if entry["Id"] not in given]
                if left:
                    with _reduced("send"):
                        answer = self._opened().send_message_batch(QueueUrl=self._url, Entries=left)
                    given |= {one["Id"]: one["MessageId"] for one in answer.get("Successful", ())}
            if len(given) < len(entries):
                raise QueueError(f"the queue refused {len(entries) - len(given)} messages: send them again")
            ids += [given[entry["Id"]] for entry in entries]
        return ids

    def receive(self, limit: int, wait_s: float) -> list[Message]:
        """Take up to ten messages by a long poll."""
        with _reduced("receive"):
            answer = self._opened().receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=min(limit, _ENTRIES),
                WaitTimeSeconds=min(int(wait_s), _LONGEST_POLL_S),
                VisibilityTimeout=int(self._limits.visibility_s),
                MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
            )
        return [_message(one) for one in answer.get("Messages", ())]

    def extend(self, messages: Sequence[Message], visibility_s: float) -> list[Message]:
        """Keep messages for longer; those that are ours no more are given back."""
        more = {"VisibilityTimeout": int(visibility_s)}
        return self._confirm(messages, "change_message_visibility_batch", more)

    def delete(self, messages: Sequence[Message]) -> list[Message]:
        """Delete messages for good; those for which it failed are given back."""
        return self._confirm(messages, "delete_message_batch", {})

    def depth(self) -> Depth:
        """Count the messages, as nearly as SQS does; the age of the oldest is told by CloudWatch only."""
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        counts = self._attributes(self._url, *names)
        visible, in_flight = (int(counts[name]) for name in names)
        dead_url = self._dead_letters()
        dead = int(self._attributes(dead_url, names[0])[names[0]]) if dead_url else 0
        return Depth(visible, in_flight, dead, None)

    def redrive(self) -> int:
        """Put the dead letters back, ten at a time: sent first, deleted there afterwards."""
        dead_url = self._dead_letters()
        if dead_url is None:
            return 0
        dead, moved = SqsQueue(dead_url, self._limits, self._opened), 0
        while messages := dead.receive(_ENTRIES, 0):
            self.send([one.body for one in messages])
            dead.delete(messages)
            moved += len(messages)
        return moved

    def _confirm(self, messages: Sequence[Message], call: str, more: dict[str, int]) -> list[Message]:
        failed: list[Message] = []
        for start in range(0, len(messages), _ENTRIES):
            group = messages[start : start + _ENTRIES]
            entries = [
                {"Id": str(number), "ReceiptHandle": one.receipt, **more} for number, one in enumerate(group)
            ]
            with _reduced("confirm"):
                answer = getattr(self._opened(), call)(QueueUrl=self._url, Entries=entries)
            failed += [group[int(one["Id"])] for one in answer.get("Failed", ())]
        return failed

    def _entry(self, number: int, body: str) -> dict[str, str]:
        entry = {"Id": str(number), "MessageBody": body}
        if self.is_fifo:
            # A group for each message: nobody waits for another, since the lake sorts by time.
            name = str(uuid_utils.uuid4())
            entry |= {"MessageGroupId": name, "MessageDeduplicationId": name}
        return entry

    def _dead_letters(self) -> str | None:
        if self._dead_url is None:
            policy = self._attributes(self._url, "RedrivePolicy").get("RedrivePolicy")
            if policy is None:
                return None
            name = json.loads(policy)["deadLetterTargetArn"].rpartition(":")[2]
            with _reduced("look up its dead letters"):
                self._dead_url = str(self._opened().get_queue_url(QueueName=name)["QueueUrl"])
        return self._dead_url

    def _attributes(self, url: str, *names: str) -> dict[str, str]:
        with _reduced("count"):
            answer = self._opened().get_queue_attributes(QueueUrl=url, AttributeNames=list(names))
        return dict(answer.get("Attributes", {}))

    def _opened(self) -> Any:  # noqa: ANN401 - boto3's clients have no types
        if self._client is None:
            self._client = self._connect()
        return self._client


def sqs_client(settings: Settings) -> Any:  # noqa: ANN401 - boto3's clients have no types
    """Make boto3's client of SQS for the region and address that are set."""
    import boto3
    from botocore.config import Config

    config = Config(
        region_name=settings.aws_region,
        retries={"mode": "standard", "max_attempts": 4},
        connect_timeout=5,
        read_timeout=_LONGEST_POLL_S + 10,
    )
    return boto3.client("sqs", endpoint_url=settings.aws_endpoint_url, config=config)


def _message(one: dict[str, Any]) -> Message:
    attributes = one.get("Attributes", {})
    sent_at = int(attributes.get("SentTimestamp", 0)) / 1000
    receives = int(attributes.get("ApproximateReceiveCount", 1))
    return Message(one["MessageId"], one["Body"], one["ReceiptHandle"], sent_at, receives)


def _groups(bodies: Sequence[str]) -> Iterator[list[str]]:
    """Cut bodies into what one call takes."""
    group: list[str] = []
    size = 0
    for body in bodies:
        length = len(body.encode())
        if group and (len(group) == _ENTRIES or size + length > _CALL_BYTES):
            yield group
            group, size = [], 0
        group.append(body)
        size += length
    if group:
        yield group


@contextmanager
def _reduced(what: str) -> Iterator[None]:
    """Keep a library's text back: it may quote a message. Its kind and SQS's own code are told."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        raise QueueError(f"the queue did not {what}: {code}") from None
    except BotoCoreError as error:
        raise QueueError(f"the queue did not {what}: {type(error).__name__}") from None
