"""One suite for every queue: embedded, SQS as moto has it, and SQS as our own server has it.

Few messages, since moto looks at all of them in each call.
"""

import contextlib
import json
import sqlite3
import threading
import time
import uuid

import pytest

import sqs_server
from amazon import serving_amazon
from stores.aws import sqs_client
from stores.embedded_queue import EmbeddedQueue, QueueLimits
from stores.queue import MAX_BODY_BYTES, envelope
from stores.settings import Settings
from stores.sqs import SqsLimits, SqsQueue
from transforms.errors import QueueError, UsageError
from transforms.records import open_message

# Long enough that nothing comes again on a busy machine, and short where it shall come again.
VISIBILITY_S = 600
SHORT_S = 2
LONGER_S = 5  # what is extended may not show again before
MOST = 2


@pytest.fixture
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


@contextlib.contextmanager
def moto_queue(tmp_path, visibility_s=VISIBILITY_S, end=""):
    name = f"{uuid.uuid4().hex}{end}"
    more = {"FifoQueue": "true"} if end else {}
    with serving_amazon() as address:
        client = sqs_client(Settings(home=tmp_path, aws_endpoint_url=address))
        dead = client.create_queue(QueueName=f"dead{name}", Attributes=more)["QueueUrl"]
        arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": MOST})
        made = client.create_queue(QueueName=name, Attributes={"RedrivePolicy": policy, **more})
        yield SqsQueue(made["QueueUrl"], SqsLimits(visibility_s), lambda: client)


@contextlib.contextmanager
def own_queue(tmp_path, visibility_s=VISIBILITY_S, **settings):
    with sqs_server.sqs_server(max_receives=MOST, **settings) as address:
        chosen = Settings(home=tmp_path, aws_endpoint_url=address)
        yield SqsQueue(f"{address}/1/logins", SqsLimits(visibility_s), lambda: sqs_client(chosen))


@contextlib.contextmanager
def embedded_queue(tmp_path, visibility_s=VISIBILITY_S):
    queue = EmbeddedQueue(tmp_path / "queue.db", QueueLimits(visibility_s, MOST), time.time)
    yield queue
    queue.close()


MAKERS = {"embedded": embedded_queue, "moto": moto_queue, "server": own_queue}


@pytest.fixture
def visibility_s():
    return VISIBILITY_S


@pytest.fixture(params=MAKERS)
def queue(request, tmp_path, credentials, visibility_s):
    with MAKERS[request.param](tmp_path, visibility_s) as made:
        yield made


def bodies(count):
    return [json.dumps({"number": number}) for number in range(count)]


def drain(queue, wait_s=0):
    """Receive until nothing comes."""
    found = []
    while messages := queue.receive(10, wait_s):
        found += messages
    return found


def counts(queue):
    depth = queue.depth()
    return depth.visible, depth.in_flight, depth.dead


def test_what_is_sent_is_received_once_and_hidden_until_deleted(queue):
    ids = queue.send(bodies(23))
    assert len(set(ids)) == 23
    assert counts(queue) == (23, 0, 0)
    before = time.time()
    messages = drain(queue)
    assert {one.id: one.body for one in messages} == dict(zip(ids, bodies(23), strict=True))
    assert {one.receives for one in messages} == {1}
    assert all(abs(one.sent_at - before) < 60 for one in messages)
    assert counts(queue) == (0, 23, 0)
    assert queue.delete(messages) == []
    assert counts(queue) == (0, 0, 0)


def test_an_empty_queue_is_waited_for_as_long_as_asked(queue):
    start = time.monotonic()
    assert queue.receive(10, 1) == []
    assert time.monotonic() - start > 0.9


@pytest.mark.parametrize("visibility_s", [SHORT_S])
def test_what_is_not_confirmed_comes_again_and_then_is_a_dead_letter(queue):
    queue.send(["a"])
    [first] = queue.receive(10, 0)
    time.sleep(SHORT_S + 0.2)
    [second] = queue.receive(10, 1)
    assert (second.id, second.body, second.receives) == (first.id, "a", 2)
    assert second.receipt != first.receipt
    time.sleep(SHORT_S + 0.2)
    assert drain(queue) == []
    assert counts(queue) == (0, 0, 1)
    assert queue.redrive() == 1
    assert counts(queue)[2] == 0
    [again] = queue.receive(10, 1)
    assert again.body == "a"
    assert again.receives == 1


@pytest.mark.parametrize("visibility_s", [LONGER_S])
def test_what_is_extended_stays_hidden(queue):
    queue.send(["a"])
    messages = queue.receive(10, 0)
    assert queue.extend(messages, VISIBILITY_S) == []
    time.sleep(LONGER_S + 0.2)
    assert drain(queue) == []
    assert queue.delete(messages) == []
    assert counts(queue) == (0, 0, 0)


def test_what_no_queue_takes_is_refused_before_anything_is_sent(queue):
    with pytest.raises(UsageError, match="message 2 has 0 bytes"):
        queue.send(["a", ""])
    with pytest.raises(UsageError, match="message 1 has"):
        queue.send(["a" * (MAX_BODY_BYTES + 1)])
    assert counts(queue) == (0, 0, 0)


def test_large_bodies_of_any_text_come_through(queue):
    texts = ["ä" * 200_000, "\u2028 \U0001f600 \\ \" '", "b" * 900_000, "c" * 900_000]
    queue.send(texts)
    messages = drain(queue)
    assert sorted(one.body for one in messages) == sorted(texts)
    for one in messages:
        assert open_message(envelope(one))[:2] == (one.id, one.body.encode())


def test_a_fifo_queue_takes_and_gives_messages(tmp_path, credentials):
    with moto_queue(tmp_path, end=".fifo") as queue:
        assert queue.is_fifo
        queue.send(["same", "same"])
        messages = drain(queue)
        assert [one.body for one in messages] == ["same", "same"]
        assert queue.delete(messages) == []
        assert counts(queue) == (0, 0, 0)


def test_single_refusals_are_given_back(tmp_path, credentials):
    with own_queue(tmp_path, faults={"refuse": 0.3}) as queue:
        queue.send(bodies(40))
        left = messages = drain(queue)
        rounds = 0
        while left:
            before, left = left, queue.delete(left)
            assert {one.id for one in left} <= {one.id for one in before}
            rounds += 1
        assert rounds > 1
        assert len(messages) == 40
        assert counts(queue) == (0, 0, 0)


def test_a_queue_that_always_fails_is_named_without_a_message(tmp_path, credentials):
    with own_queue(tmp_path, faults={"fail": 1.0}) as queue, pytest.raises(QueueError) as raised:
        queue.send(["alice@example.com"])
    assert "did not send" in str(raised.value)
    assert "alice" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_full_queue_is_asked_by_many_polls_at_once_and_an_empty_one_by_one(tmp_path, credentials):
    with own_queue(tmp_path) as queue:
        ids = queue.send(bodies(300))
        sizes, found = [], []
        while messages := queue.receive(1000, 0):
            sizes.append(len(messages))
            found += messages
        assert sizes[:4] == [10, 20, 40, 80]
        assert sorted(one.id for one in found) == sorted(ids)
        assert len(queue.receive(7, 0)) == 0
        assert queue.delete(found) == []
        assert counts(queue) == (0, 0, 0)


def test_no_more_is_taken_than_was_asked_for(tmp_path, credentials):
    with own_queue(tmp_path) as queue:
        queue.send(bodies(100))
        assert [len(queue.receive(limit, 0)) for limit in (10, 10, 10, 3)] == [10, 10, 10, 3]


def test_what_throttles_and_fails_now_and_then_is_asked_again(tmp_path, credentials):
    with own_queue(tmp_path, faults={"throttle": 0.2, "fail": 0.1}) as queue:
        sent = []
        for _ in range(5):
            with contextlib.suppress(QueueError):
                sent += queue.send(bodies(10))
        found = []
        for _ in range(20):
            with contextlib.suppress(QueueError):
                found += queue.receive(10, 0)
        assert {one.id for one in found} >= set(sent)


@pytest.mark.parametrize(
    ("faults", "code"), [({"fail": 1.0}, "InternalError"), ({"throttle": 1.0}, "RequestThrottled")]
)
def test_a_queue_that_never_answers_well_is_named_by_its_code(tmp_path, credentials, faults, code):
    with (
        own_queue(tmp_path, faults=faults) as queue,
        pytest.raises(QueueError, match=f"did not receive: {code}$"),
    ):
        queue.receive(10, 0)


def test_a_queue_that_nobody_serves_is_told(tmp_path, credentials):
    chosen = Settings(home=tmp_path, aws_endpoint_url="http://127.0.0.1:1")
    queue = SqsQueue("http://127.0.0.1:1/1/logins", SqsLimits(2), lambda: sqs_client(chosen))
    with pytest.raises(QueueError, match="did not receive: AWS_IO_SOCKET_CONNECTION_REFUSED"):
        queue.receive(10, 0)


def test_a_queue_that_is_not_there_is_named_by_its_code(tmp_path, credentials):
    with moto_queue(tmp_path) as queue:
        queue._url += "-none"
        with pytest.raises(QueueError, match="did not receive: QueueDoesNotExist"):
            queue.receive(10, 0)


def test_the_server_does_misbehave(tmp_path, credentials):
    """What the crash test relies on: each fault happens."""
    with own_queue(tmp_path, faults={"duplicate": 0.3, "reorder": 1.0, "expire": 0.2}) as queue:
        sent = queue.send(bodies(100))
        first = queue.receive(10, 0)
        assert [one.id for one in first] != sent[:10]
        seen = [one.id for one in [*first, *drain(queue)]]
        assert len(seen) > len(set(seen))


def test_the_embedded_queue_keeps_nothing_of_what_was_deleted(tmp_path):
    with embedded_queue(tmp_path) as queue:
        queue.send(["alice@example.com " * 20] * 300)
        queue.delete(drain(queue))
        files = [path.read_bytes() for path in tmp_path.glob("queue.db*")]
        assert files
        assert not any(b"alice" in content for content in files)


def test_the_embedded_queue_is_durable_and_only_its_owner_reads_it(tmp_path):
    with embedded_queue(tmp_path) as queue:
        queue.send(["a"])
        assert (tmp_path / "queue.db").stat().st_mode & 0o077 == 0
    with embedded_queue(tmp_path) as queue:
        assert [one.body for one in drain(queue)] == ["a"]


def test_a_late_confirmation_deletes_nothing_of_somebody_else(tmp_path):
    now = [1000.0]
    queue = EmbeddedQueue(tmp_path / "queue.db", QueueLimits(10, 5), lambda: now[0])
    queue.send(["a"])
    late = queue.receive(1, 0)
    now[0] += 11
    [current] = queue.receive(1, 0)
    assert queue.delete(late) == late
    assert queue.extend(late, 60) == late
    assert counts(queue) == (0, 1, 0)
    assert queue.delete([current]) == []
    assert queue.depth().oldest_s == 0.0
    queue.close()


def test_two_receivers_of_an_embedded_queue_share_its_messages(tmp_path):
    with embedded_queue(tmp_path) as one, embedded_queue(tmp_path) as other:
        one.send(bodies(50))
        taken = [*one.receive(25, 0), *other.receive(25, 0)]
        assert len({message.id for message in taken}) == 50


def test_a_failed_change_leaves_the_queue_as_it_was(tmp_path):
    with embedded_queue(tmp_path) as queue:
        queue.send(["a"])
        with sqlite3.connect(tmp_path / "queue.db") as other:
            other.execute("create trigger no before delete on messages begin select raise(abort, 'no'); end")
        messages = drain(queue)
        with pytest.raises(sqlite3.IntegrityError):
            queue.delete(messages)
        assert counts(queue) == (0, 1, 0)


def test_a_new_queue_is_opened_by_several_at_once(tmp_path):
    """SQLite does not wait for who else is making the file ready, so that we have to."""
    for number in range(40):
        path, together, failed = tmp_path / str(number) / "q.db", threading.Barrier(4), []

        def send(path=path, together=together, failed=failed):
            queue = EmbeddedQueue(path, QueueLimits(30, 5), time.time)
            together.wait()
            try:
                queue.send(["a"])
            except sqlite3.OperationalError as error:
                failed.append(str(error))
            finally:
                queue.close()

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []


def test_calls_go_through_a_proxy_where_one_is_set(credentials, monkeypatch):
    with sqs_server.sqs_server(max_receives=MOST) as address:
        # The server does not look at where a request was to go: it stands for the proxy itself.
        monkeypatch.setenv("HTTP_PROXY", address)
        settings = Settings(home="unused", aws_endpoint_url="http://queue.invalid", aws_region="eu-central-1")
        queue = SqsQueue("http://queue.invalid/1/logins", SqsLimits(), lambda: sqs_client(settings))
        (sent,) = queue.send(["{}"])
        (met,) = queue.receive(10, 0)
        assert (met.id, queue.delete([met])) == (sent, [])
