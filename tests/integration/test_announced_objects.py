"""Objects that a bucket announces, with moto's S3 and SQS: fetched once, landed, taken into the lake."""

import json
import time
import uuid
from types import SimpleNamespace

import pytest

from amazon import serving_amazon
from orchestration.resources import Platform
from stores.aws import s3_client, sqs_client
from stores.contracts import load_contract
from stores.quarantine import Quarantine
from stores.receiver import receive_from_all, segment_sent_at
from stores.settings import QueueSettings, load_settings
from transforms.errors import UsageError
from transforms.tables import quarantine_table

LOGINS = load_contract("logins")


@pytest.fixture(scope="module")
def amazon():
    with serving_amazon() as address:
        yield address


@pytest.fixture
def visibility_s():
    return 600


@pytest.fixture
def place(tmp_path, amazon, monkeypatch, visibility_s):
    """A bucket that announces its objects on a queue, and a home that receives from it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    home, name = tmp_path / "home", f"drop-{uuid.uuid4().hex}"
    home.mkdir()
    (home / "settings.toml").write_text(f'aws_endpoint_url = "{amazon}"\nqueue_visibility_s = {visibility_s}\n')
    settings = load_settings(home)
    s3, sqs = s3_client(settings), sqs_client(settings)
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": settings.aws_region})
    announced = [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]
    s3.put_bucket_notification_configuration(
        Bucket=name, NotificationConfiguration={"QueueConfigurations": announced}
    )
    with (home / "settings.toml").open("a") as file:
        file.write(f'[[queues]]\nurl = "{url}"\ncarries = "objects"\nbuckets = ["{name}"]\n')
    platform = Platform(load_settings(home))
    platform.create_home("tester")
    folder = platform.landing.drop_folder("logins", "default")
    yield SimpleNamespace(platform=platform, s3=s3, sqs=sqs, url=url, bucket=name, folder=folder)


def login(number):
    return {
        "user_id": str(uuid.UUID(int=number, version=4)),
        "app_version": "2.3.0",
        "device_type": "ios",
        "ip": "192.0.2.7",
        "locale": None,
        "device_id": f"593-47-{number:04d}",
    }


def lines(*numbers):
    return "".join(json.dumps(login(number)) + "\n" for number in numbers).encode()


def receive(place, said=None):
    receivers = place.platform.receivers("logins", "default", (said if said is not None else []).append)
    return receive_from_all(receivers, lambda: False, 0.1)


def take(place):
    counts = []
    files = sorted(place.folder.glob("[!.]*"))
    for batch in place.platform.landing.claim("logins", "default", files):
        counts.append(place.platform.intake.seal_batch(batch.id, LOGINS))
        place.platform.intake.mask_batch(batch.id, LOGINS)
        place.platform.intake.finish_batch(batch.id)
    return sum(counts[1:], counts[0])


def waiting(place):
    depth = place.platform.queue("logins", "default").depth()
    return depth.visible + depth.in_flight


def announce(place, body):
    place.sqs.send_message(QueueUrl=place.url, MessageBody=body)


def test_an_object_is_fetched_landed_and_taken_and_its_message_is_gone(place):
    place.s3.put_object(Bucket=place.bucket, Key="2026/one file+é.json", Body=lines(1, 2, 3))
    assert receive(place).messages >= 1  # the bucket's own test message may be among them
    [landed] = place.folder.iterdir()
    assert landed.stat().st_mode & 0o077 == 0
    assert segment_sent_at(landed.name) is not None
    assert "file" not in landed.name
    assert waiting(place) == 0
    counts = take(place)
    assert (counts.rows, counts.accepted, counts.quarantined) == (3, 3, 0)


def test_a_second_delivery_of_a_message_fetches_nothing(place):
    place.s3.put_object(Bucket=place.bucket, Key="a", Body=lines(1))
    found = []
    while messages := place.platform.queue("logins", "default").receive(10, 0):
        found += messages
    for one in found * 2:
        announce(place, one.body)
    receive(place)
    assert len(list(place.folder.iterdir())) == 1


def test_each_version_under_a_key_is_an_object_of_its_own(place):
    """S3 tells the version where a bucket keeps versions; moto does not, so the message is made here."""
    place.s3.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"})
    records = []
    for number in (1, 2):
        made = place.s3.put_object(Bucket=place.bucket, Key="a", Body=lines(number))
        one = {"key": "a", "versionId": made["VersionId"]}
        told = {"bucket": {"name": place.bucket}, "object": one}
        records.append({"eventName": "ObjectCreated:Put", "s3": told})
    place.sqs.purge_queue(QueueUrl=place.url)
    announce(place, json.dumps({"Records": records}))
    receive(place)
    assert sorted(one.read_bytes() for one in place.folder.iterdir()) == sorted([lines(1), lines(2)])


def test_what_cannot_be_taken_goes_to_quarantine_with_the_reason(place):
    place.s3.put_object(Bucket=place.bucket, Key="gone", Body=lines(1))
    place.s3.delete_object(Bucket=place.bucket, Key="gone")
    announce(place, json.dumps({"Event": "s3:TestEvent"}))
    announce(place, json.dumps(login(7)))  # a record, on a queue that carries none
    foreign = {"bucket": {"name": "else"}, "object": {"key": "secret"}}
    announce(place, json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": foreign}]}))
    receive(place)
    assert waiting(place) == 0
    counts = take(place)
    assert (counts.accepted, counts.quarantined) == (0, 3)
    sealer = place.platform.intake.sealer("default")
    kept = Quarantine("default", place.platform.tables, sealer, quarantine_table(LOGINS))
    assert {one.reason for one in kept.entries()} == {
        "the object is not there any more",
        "not a notification of a bucket",
        "an object of a bucket that the setting does not name",
    }


def test_an_object_that_is_too_large_is_not_fetched(place):
    place.platform.settings = place.platform.settings.model_copy(update={"staging_limit_bytes": 100})
    place.s3.put_object(Bucket=place.bucket, Key="large", Body=b"x" * 101)
    receive(place)
    [segment] = place.folder.iterdir()
    assert [json.loads(line)["Fault"] for line in segment.read_bytes().splitlines()] == ["too-large"]


def test_a_bucket_that_refuses_leaves_the_message_on_the_queue(place):
    said = []
    place.s3.put_object(Bucket=place.bucket, Key="alice@example.com", Body=lines(1))
    place.s3.delete_object(Bucket=place.bucket, Key="alice@example.com")
    place.s3.delete_bucket(Bucket=place.bucket)
    receive(place, said)
    assert waiting(place) == 1
    assert said == ["receiver: the queue did not give its object: NoSuchBucket; trying again"]
    assert list(place.folder.glob("*")) == []


@pytest.mark.parametrize("visibility_s", [2])
def test_who_is_killed_between_landing_and_noting_brings_nothing_twice(place, monkeypatch):
    place.s3.put_object(Bucket=place.bucket, Key="a", Body=lines(1, 2))
    [receiver] = place.platform.receivers("logins", "default", lambda _said: None)

    class KilledError(BaseException):
        """Nothing of ours catches it."""

    def kill(_digest):
        raise KilledError

    monkeypatch.setattr(receiver._objects, "_write_down", kill)
    with pytest.raises(KilledError):
        receiver.run(lambda: False, 0.1)
    time.sleep(2.1)
    receive(place)
    assert len(list(place.folder.iterdir())) == 2
    counts = take(place)
    assert (counts.rows, counts.accepted, counts.duplicates) == (4, 2, 2)


def test_old_notes_are_forgotten(place):
    from datetime import UTC, datetime

    place.s3.put_object(Bucket=place.bucket, Key="a", Body=lines(1))
    receive(place)
    [receiver] = place.platform.receivers("logins", "default", lambda _said: None)
    query = "select count(*) from objects"
    import sqlalchemy as sa

    def count():
        with place.platform.database.begin() as connection:
            return connection.execute(sa.text(query)).scalar()

    receiver._objects.forget_old()
    assert count() == 1
    receiver._objects._clock = lambda: datetime(2100, 1, 1, tzinfo=UTC)
    receiver._objects.forget_old()
    assert count() == 0


# --- Several queues


def with_queues(tmp_path, *queues):
    return Platform(load_settings(tmp_path / "home").model_copy(update={"queues": queues}))


def test_each_queue_fills_segments_of_its_own(tmp_path):
    platform = with_queues(tmp_path, QueueSettings(), QueueSettings(tenant="acme"))
    platform.home.make()
    for tenant in ("default", "acme"):
        platform.queue("logins", tenant).send([tenant] * 3)
    receivers = [platform.receiver(one, lambda _said: None) for one in platform.queues]
    done = receive_from_all(receivers, lambda: False, 0.1)
    assert (done.messages, done.segments) == (6, 2)
    for tenant in ("default", "acme"):
        [segment] = platform.landing.drop_folder("logins", tenant).iterdir()
        assert {json.loads(line)["Body"] for line in segment.read_bytes().splitlines()} == {tenant}


def test_a_queue_of_sqs_is_its_tenants_alone(tmp_path):
    platform = Platform(
        load_settings(tmp_path / "home").model_copy(update={"queue_url": "http://sqs/1/logins"})
    )
    assert type(platform.queue("logins", "default")).__name__ == "SqsQueue"
    assert type(platform.queue("logins", "acme")).__name__ == "EmbeddedQueue"


@pytest.mark.parametrize(
    ("queues", "message"),
    [
        ((QueueSettings(), QueueSettings(url="http://sqs/1/other")), "one queue of records"),
        ((QueueSettings(carries="objects", url="http://sqs/1/objects"),), "needs its `url`"),
        ((QueueSettings(carries="objects", buckets=("drop",)),), "needs its `url`"),
        ((QueueSettings(tenant="../x"),), "tenant"),
        ((QueueSettings(source="nothing"),), "nothing"),
    ],
)
def test_a_list_of_queues_that_cannot_be_is_refused(tmp_path, queues, message):
    with pytest.raises(UsageError, match=message):
        _ = with_queues(tmp_path, *queues).queues


def test_queues_can_be_listed_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCKHOUSE_QUEUES", '[{"tenant": "acme", "url": "http://sqs/1/acme"}]')
    [one] = Platform(load_settings(tmp_path / "home")).queues
    assert (one.source, one.tenant, one.url, one.carries) == ("logins", "acme", "http://sqs/1/acme", "records")


def test_one_receiver_that_breaks_stops_the_others(tmp_path):
    platform = with_queues(tmp_path, QueueSettings(), QueueSettings(tenant="acme"))
    platform.home.make()
    receivers = [platform.receiver(one, lambda _said: None) for one in platform.queues]
    receivers[1].run = lambda *_: (_ for _ in ()).throw(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        receive_from_all(receivers, lambda: False)


def test_the_queues_of_tenants_that_nobody_registered_are_left_alone(tmp_path, capfd):
    from lockhouse.receiver import _of_registered

    platform = with_queues(tmp_path, QueueSettings(), QueueSettings(tenant="acme"))
    platform.create_home("tester")
    assert [one.tenant for one in _of_registered(platform)] == ["default"]
    assert "the queue of acme is left alone" in capfd.readouterr().err
    with pytest.raises(UsageError, match="none is of a registered tenant"):
        _of_registered(with_queues(tmp_path, QueueSettings(tenant="acme")))
