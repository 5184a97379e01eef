"""Amazon SQS behind the queue's interface: standard and FIFO, long polling, partial failures, redrive."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import uuid_utils

from stores.aws import LONGEST_POLL_S, MOST_CALLS, SignedCalls, reduced
from stores.queue import Depth, Message, check_bodies
from transforms.errors import QueueError

# What SQS takes in one call: so many entries, and so many bytes over all of them.
_ENTRIES = 10
_CALL_BYTES = 1 << 20


@dataclass(frozen=True)
class SqsLimits:
    """How long a received message is kept from others. The dead letters' limit is the queue's own."""

    visibility_s: float = 60


class SqsQueue:
    """A queue of Amazon SQS by its URL. Making one connects to nothing."""

    def __init__(self, url: str, limits: SqsLimits, connect: Callable[[], Any]) -> None:
        """Remember the queue; `connect` gives boto3's client when it is first needed."""
        self._url, self._limits, self._connect = url, limits, connect
        self._dead_url: str | None = None
        self._polls = 1

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
                    with reduced("send"):
                        answer = self._client.send_message_batch(QueueUrl=self._url, Entries=left)
                    given |= {one["Id"]: one["MessageId"] for one in answer.get("Successful", ())}
            if len(given) < len(entries):
                raise QueueError(f"the queue refused {len(entries) - len(given)} messages: send them again")
            ids += [given[entry["Id"]] for entry in entries]
        return ids

    def receive(self, limit: int, wait_s: float) -> list[Message]:
        """Take messages: up to ten by one long poll, more by many at once while the queue is full.

        A call is mostly waiting for its answer, and so one after the other takes little from a queue
        that has much; an empty one is asked by a single poll.
        """
        polls = min(self._polls, -(-limit // _ENTRIES))
        if polls == 1:
            groups = [self._poll(limit, wait_s)]
        else:
            groups = list(self._threads.map(lambda _: self._poll(_ENTRIES, 0), range(polls)))
        is_full = all(len(group) == min(limit, _ENTRIES) for group in groups)
        self._polls = min(2 * self._polls, MOST_CALLS) if is_full else 1
        return [one for group in groups for one in group]

    def _poll(self, limit: int, wait_s: float) -> list[Message]:
        request = {
            "QueueUrl": self._url,
            "MaxNumberOfMessages": min(limit, _ENTRIES),
            "WaitTimeSeconds": min(int(wait_s), LONGEST_POLL_S),
            "VisibilityTimeout": int(self._limits.visibility_s),
            "MessageSystemAttributeNames": ["SentTimestamp", "ApproximateReceiveCount"],
        }
        with reduced("receive"):
            answer = self._calls.call("ReceiveMessage", request)
        received_at = time.time()
        return [_message(one, received_at) for one in answer.get("Messages", ())]

    def extend(self, messages: Sequence[Message], visibility_s: float) -> list[Message]:
        """Keep messages for longer; those that are ours no more are given back."""
        more = {"VisibilityTimeout": int(visibility_s)}
        return self._confirm(messages, "ChangeMessageVisibilityBatch", more)

    def delete(self, messages: Sequence[Message]) -> list[Message]:
        """Delete messages for good; those for which it failed are given back."""
        return self._confirm(messages, "DeleteMessageBatch", {})

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
        dead, moved = SqsQueue(dead_url, self._limits, lambda: self._client), 0
        while messages := dead.receive(_ENTRIES, 0):
            self.send([one.body for one in messages])
            dead.delete(messages)
            moved += len(messages)
        return moved

    def _confirm(self, messages: Sequence[Message], action: str, more: dict[str, int]) -> list[Message]:
        groups = [messages[start : start + _ENTRIES] for start in range(0, len(messages), _ENTRIES)]
        failed = self._threads.map(lambda group: self._confirm_group(group, action, more), groups)
        return [one for group in failed for one in group]

    def _confirm_group(self, group: Sequence[Message], action: str, more: dict[str, int]) -> list[Message]:
        entries = [
            {"Id": str(number), "ReceiptHandle": one.receipt, **more} for number, one in enumerate(group)
        ]
        with reduced("confirm"):
            answer = self._calls.call(action, {"QueueUrl": self._url, "Entries": entries})
        return [group[int(one["Id"])] for one in answer.get("Failed", ())]

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
            with reduced("look up its dead letters"):
                self._dead_url = str(self._client.get_queue_url(QueueName=name)["QueueUrl"])
        return self._dead_url

    def _attributes(self, url: str, *names: str) -> dict[str, str]:
        with reduced("count"):
            answer = self._client.get_queue_attributes(QueueUrl=url, AttributeNames=list(names))
        return dict(answer.get("Attributes", {}))

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401 - boto3's clients have no types
        return self._connect()

    @cached_property
    def _calls(self) -> SignedCalls:
        return SignedCalls(self._client)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(MOST_CALLS, "sqs")


def _message(one: dict[str, Any], received_at: float) -> Message:
    attributes = one.get("Attributes", {})
    sent_at = int(attributes.get("SentTimestamp", 0)) / 1000
    receives = int(attributes.get("ApproximateReceiveCount", 1))
    return Message(one["MessageId"], one["Body"], one["ReceiptHandle"], sent_at, receives, received_at)


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
