"""The receiver: segments by count and age, confirmed only when they are on disk, waiting for the lake."""

import json
import os
import threading
import time
from types import SimpleNamespace

import pytest

from stores.embedded_queue import EmbeddedQueue, QueueLimits
from stores.home import Home
from stores.receiver import Receiver, ReceiverLimits, measure_staging, receiving, segment_sent_at
from transforms.errors import BusyError, QueueError


@pytest.fixture
def place(tmp_path):
    home = Home(tmp_path / "home")
    home.make()
    queue = EmbeddedQueue(home.queue("logins", "default"), QueueLimits(600, 5), time.time)
    yield SimpleNamespace(home=home, queue=queue, folder=home.landing / "logins" / "default")
    queue.close()


def receiver(place, said=None, queue=None, **limits):
    tell = (said if said is not None else []).append
    return Receiver(place.home, queue or place.queue, "logins", "default", ReceiverLimits(**limits), tell)


def segments(place):
    return [path.read_bytes().splitlines() for path in sorted(place.folder.glob("queue-*.ndjson"))]


def depth(queue):
    found = queue.depth()
    return found.visible, found.in_flight, found.dead


def test_a_segment_is_closed_by_count(place):
    place.queue.send([str(number) for number in range(250)])
    done = receiver(place, messages=100).run(lambda: False, 0.2)
    assert (done.messages, done.segments, done.unconfirmed) == (250, 3, 0)
    assert [len(one) for one in segments(place)] == [100, 100, 50]
    met = [json.loads(line)["Body"] for one in segments(place) for line in one]
    assert met == [str(number) for number in range(250)]
    assert depth(place.queue) == (0, 0, 0)


def test_a_segment_is_closed_by_age_while_messages_keep_coming(place):
    stop = threading.Event()

    def send():
        sender = EmbeddedQueue(place.home.queue("logins", "default"), QueueLimits(30, 5), time.time)
        while not stop.is_set():
            sender.send(["a"])
            time.sleep(0.02)
        sender.close()

    thread = threading.Thread(target=send)
    thread.start()
    receiver(place, seconds=0.5).run(lambda: len(segments(place)) >= 3 or not thread.is_alive())
    stop.set()
    thread.join()
    assert len(segments(place)) >= 3
    assert all(len(one) < 1000 for one in segments(place))


def test_what_is_held_is_kept_when_told_to_stop(place):
    place.queue.send(["a", "b"])
    looks = iter([False, True])
    assert receiver(place, seconds=60).run(lambda: next(looks)).messages == 2
    assert len(segments(place)[0]) == 2
    assert depth(place.queue) == (0, 0, 0)


def test_a_segment_tells_when_its_oldest_message_was_sent_and_only_its_owner_reads_it(place):
    before = time.time()
    place.queue.send(["a"])
    receiver(place).run(lambda: False, 0)
    [path] = place.folder.glob("queue-*.ndjson")
    assert before - 0.01 <= segment_sent_at(path.name) <= time.time()
    assert path.stat().st_mode & 0o077 == 0


class Watched:
    """A queue that fails where it is told to, and looks at the disk when it is asked to delete."""

    def __init__(self, place, failing=""):
        self.place, self.failing, self.calls, self.on_disk = place, failing, 0, []

    def __getattr__(self, name):
        real = getattr(self.place.queue, name)

        def call(*arguments):
            if name == "delete":
                self.on_disk.append(sum(map(len, segments(self.place))))
            if name == self.failing:
                self.calls += 1
                if self.calls <= 1:
                    raise QueueError(f"the queue did not {name}: nothing answers")
            return real(*arguments)

        return call


def test_messages_are_confirmed_only_when_they_are_on_disk(place):
    place.queue.send(["a", "b", "c"])
    watched = Watched(place)
    receiver(place, queue=watched, messages=2).run(lambda: False, 0.1)
    assert watched.on_disk == [2, 3]


@pytest.mark.parametrize("failing", ["receive", "delete"])
def test_a_queue_that_fails_is_tried_again_and_nothing_is_lost(place, failing):
    place.queue.send(["alice@example.com"])
    said = []
    receiver(place, said, Watched(place, failing), seconds=0.2).run(lambda: bool(said and segments(place)))
    assert len(segments(place)) == 1
    assert said == [f"receiver: the queue did not {failing}: nothing answers; trying again"]


def test_a_segment_that_cannot_be_written_confirms_nothing(place, monkeypatch):
    place.queue.send(["a"])
    monkeypatch.setattr("stores.home.sync", lambda _path: (_ for _ in ()).throw(OSError(28, "full")))
    said = []
    receiver(place, said, seconds=0.1).run(lambda: bool(said))
    assert depth(place.queue) == (0, 1, 0)
    assert any("OSError" in one for one in said)


def test_the_receiver_waits_while_too_much_is_staged(place):
    place.queue.send([str(number) for number in range(30)])
    place.folder.mkdir(parents=True)
    large = place.folder / "dropped.json"
    large.write_bytes(b"x" * 2000)
    said = []
    first = receiver(place, said, staging_bytes=1000)
    looks = iter([False, False, False, True])
    assert first.run(lambda: next(looks)).messages == 0
    assert depth(place.queue) == (30, 0, 0)
    assert len(said) == 1
    large.unlink()
    assert receiver(place, staging_bytes=1000).run(lambda: False, 0.2).messages == 30


def test_the_receiver_waits_while_something_is_staged_for_too_long(place):
    place.queue.send(["a"])
    place.folder.mkdir(parents=True)
    old = place.folder / "dropped.json"
    old.write_bytes(b"x")
    os.utime(old, (time.time() - 100, time.time() - 100))
    looks = iter([False, False, False, True])
    assert receiver(place, staging_seconds=60).run(lambda: next(looks)).messages == 0
    assert measure_staging(place.home, "logins").oldest_s >= 100
    assert receiver(place, staging_seconds=200).run(lambda: False, 0.1).messages == 1


def test_there_is_one_receiver_and_it_removes_what_a_killed_one_left(place):
    place.folder.mkdir(parents=True)
    left = place.folder / ".queue-1-x.part"
    left.write_bytes(b"half")
    kept = place.folder / "queue-1-x.ndjson"
    kept.write_bytes(b"whole")
    with receiving(place.home, "logins", "default") as removed:
        assert removed == 1
        with pytest.raises(BusyError), receiving(place.home, "logins", "default"):
            pass
    assert (left.exists(), kept.exists()) == (False, True)


def test_staging_counts_what_is_dropped_and_claimed_but_no_half_written_file(place):
    batch = place.home.landing / ".batches" / "b1"
    batch.mkdir(parents=True)
    (batch / "0").write_bytes(b"12345")
    (batch / "manifest.json").write_bytes(b"{}")
    place.folder.mkdir(parents=True)
    (place.folder / "a.json").write_bytes(b"123")
    (place.folder / ".queue-1-x.part").write_bytes(b"1234567")
    staged = measure_staging(place.home, "logins")
    assert (staged.files, staged.size_bytes) == (2, 8)
