"""A small server that speaks SQS's JSON protocol, and can misbehave as SQS may: for tests and benchmarks.

It doubles deliveries, hands messages out in any order, lets their visibility end early, throttles,
fails, refuses single confirmations, and delivers what was deleted once more; each with a chance of
its own. As a program it prints its port and serves until its standard input ends.
"""

import asyncio
import hashlib
import heapq
import json
import random
import subprocess
import sys
import time
import uuid
from collections import deque
from contextlib import contextmanager
from pathlib import Path

NO_FAULTS = dict.fromkeys(("duplicate", "reorder", "expire", "throttle", "fail", "refuse", "haunt"), 0.0)


class Messages:
    """One queue: bodies by number, those that wait, those in flight by the end of their visibility."""

    def __init__(self, faults, max_receives, dice, dead=None):
        self.faults, self.max_receives, self.dice, self.dead = faults, max_receives, dice, dead
        self.all, self.waiting, self.flying, self.receipts = {}, deque(), [], {}
        self.numbers = 0

    def put(self, body):
        self.numbers += 1
        one = {
            "number": self.numbers,
            "id": str(uuid.UUID(int=self.dice.getrandbits(128), version=4)),
            "body": body,
            "md5": hashlib.md5(body.encode(), usedforsecurity=False).hexdigest(),
            "sent": str(int(time.time() * 1000)),
            "receives": 0,
        }
        self.all[self.numbers] = one
        self.waiting.append(self.numbers)
        return one

    def wake(self):
        now = time.monotonic()
        while self.flying and self.flying[0][0] <= now:
            until, number, receipt = heapq.heappop(self.flying)
            one = self.all.get(number)
            # An entry that was prolonged, or is of an earlier delivery, means nothing any more.
            if one is not None and one.get("receipt") == receipt and one.get("until") == until:
                self.waiting.append(number)
                one["receipt"] = None

    def hide(self, one, seconds):
        one["until"] = time.monotonic() + seconds
        heapq.heappush(self.flying, (one["until"], one["number"], one["receipt"]))

    def receive(self, limit, visibility):
        self.wake()
        if self.waiting and self.dice.random() < self.faults["reorder"]:
            self.waiting.rotate(self.dice.randrange(len(self.waiting)))
        given = []
        while self.waiting and len(given) < limit:
            one = self.all.get(self.waiting.popleft())
            if one is None:
                continue
            if self.dead is not None and one["receives"] >= self.max_receives:
                del self.all[one["number"]]
                self.dead.put(one["body"])
                continue
            one["receives"] += 1
            receipt = f"{one['number']}-{self.dice.getrandbits(64):x}"
            self.receipts[receipt] = one["number"]
            one["receipt"] = receipt
            self.hide(one, 0.05 if self.dice.random() < self.faults["expire"] else visibility)
            given.append(one)
            if self.dice.random() < self.faults["duplicate"]:
                self.waiting.append(one["number"])
        return [
            {
                "MessageId": one["id"],
                "ReceiptHandle": one["receipt"],
                "MD5OfBody": one["md5"],
                "Body": one["body"],
                "Attributes": {"SentTimestamp": one["sent"], "ApproximateReceiveCount": str(one["receives"])},
            }
            for one in given
        ]

    def delete(self, receipt):
        number = self.receipts.pop(receipt, None)
        one = self.all.get(number)
        if one is None:
            return
        if self.dice.random() < self.faults["haunt"]:
            one["receipt"] = None
            one["receives"] = 0
            self.waiting.append(number)
        else:
            del self.all[number]

    def keep(self, receipt, seconds):
        one = self.all.get(self.receipts.get(receipt))
        if one is not None and one.get("receipt") == receipt:
            self.hide(one, seconds)

    def counts(self):
        self.wake()
        waiting = len({number for number in self.waiting if number in self.all})
        return waiting, len(self.all) - waiting


class Server:
    """Answers calls; `Messages` of the queue and of its dead letters are all its state."""

    def __init__(self, faults=None, max_receives=5, seed=1):
        self.faults = {**NO_FAULTS, **(faults or {})}
        self.dice = random.Random(seed)  # noqa: S311 - faults for tests
        self.dead = Messages(NO_FAULTS, 10**9, self.dice)
        self.queue = Messages(self.faults, max_receives, self.dice, self.dead)

    def of(self, call):
        return self.dead if call.get("QueueUrl", "").endswith("-dead") else self.queue

    async def answer(self, action, call):
        # A sender has faults of its own to fear only where nothing else is asked.
        chance = 1.0 if action == "SendMessageBatch" and self.faults["fail"] < 1 else self.dice.random()
        if chance < self.faults["throttle"]:
            return 400, {"__type": "com.amazonaws.sqs#RequestThrottled", "message": "slower"}
        if chance < self.faults["throttle"] + self.faults["fail"]:
            return 500, {"__type": "InternalError", "message": "not now"}
        return 200, await getattr(self, action)(call)

    async def ReceiveMessage(self, call):
        until = time.monotonic() + call.get("WaitTimeSeconds", 0)
        while True:
            found = self.of(call).receive(call.get("MaxNumberOfMessages", 1), call.get("VisibilityTimeout", 30))
            if found or time.monotonic() >= until:
                return {"Messages": found} if found else {}
            await asyncio.sleep(0.02)

    async def SendMessageBatch(self, call):
        put = [(one["Id"], self.of(call).put(one["MessageBody"])) for one in call["Entries"]]
        return {
            "Successful": [{"Id": i, "MessageId": one["id"], "MD5OfMessageBody": one["md5"]} for i, one in put]
        }

    async def DeleteMessageBatch(self, call):
        return self.each(call, lambda one: self.of(call).delete(one["ReceiptHandle"]))

    async def ChangeMessageVisibilityBatch(self, call):
        return self.each(call, lambda one: self.of(call).keep(one["ReceiptHandle"], one["VisibilityTimeout"]))

    def each(self, call, act):
        done, failed = [], []
        for one in call["Entries"]:
            if self.dice.random() < self.faults["refuse"]:
                failed.append({"Id": one["Id"], "Code": "InternalError", "SenderFault": False})
            else:
                act(one)
                done.append({"Id": one["Id"]})
        return {"Successful": done, "Failed": failed}

    async def GetQueueUrl(self, call):
        return {"QueueUrl": f"http://sqs.invalid/1/{call['QueueName']}"}

    async def GetQueueAttributes(self, call):
        waiting, flying = self.of(call).counts()
        known = {
            "ApproximateNumberOfMessages": str(waiting),
            "ApproximateNumberOfMessagesNotVisible": str(flying),
            "RedrivePolicy": json.dumps({"deadLetterTargetArn": "arn:aws:sqs:x:1:logins-dead"}),
        }
        return {"Attributes": {name: known[name] for name in call["AttributeNames"]}}

    async def serve(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = {
                    name.strip().lower(): value.strip()
                    for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
                }
                body = await reader.readexactly(int(fields.get(b"content-length", 0)))
                action = fields[b"x-amz-target"].decode().rpartition(".")[2]
                status, answer = await self.answer(action, json.loads(body))
                text = json.dumps(answer).encode()
                writer.write(
                    b"HTTP/1.1 %d X\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n%s"
                    % (status, len(text), text)
                )
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()


async def serve_until_closed(settings):
    server = Server(**settings)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=1 << 24)
    print(listening.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextmanager
def sqs_server(**settings):
    """Run the server as a process of its own; give its address."""
    command = [sys.executable, str(Path(__file__).resolve()), json.dumps(settings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.stdin.close()
            process.kill()


if __name__ == "__main__":
    import os

    asyncio.run(serve_until_closed(json.loads(sys.argv[1])))
    os._exit(0)
