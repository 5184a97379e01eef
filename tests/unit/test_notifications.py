"""Notifications of buckets, in each form; anything else is refused without quoting it."""

import json

import pytest

from transforms.notifications import AnnouncedObject, read_notification

PLAIN = {"bucket": {"name": "drop"}, "object": {"key": "a+b%2F%C3%A9.json", "eTag": "e", "sequencer": "0A"}}
MADE = AnnouncedObject("drop", "a b/é.json", "", "0A", "e")


def of_s3(s3=PLAIN, name="ObjectCreated:Put"):
    return {"Records": [{"eventName": name, "s3": s3}]}


def of_event_bridge(**changes):
    one = {"key": "a b/é.json", "etag": "e", "sequencer": "0A"}
    detail = {"bucket": {"name": "drop"}, "object": one}
    return {"source": "aws.s3", "detail-type": "Object Created", "detail": detail, **changes}


@pytest.mark.parametrize(
    "content",
    [of_s3(), {"Type": "Notification", "Message": json.dumps(of_s3())}, of_event_bridge()],
    ids=["s3", "sns", "event bridge"],
)
def test_each_form_announces_the_same_object(content):
    assert read_notification(json.dumps(content)) == [MADE]


def test_a_version_is_part_of_what_an_object_is_and_null_is_none():
    versioned = {**PLAIN, "object": {**PLAIN["object"], "versionId": "v1"}}
    [one] = read_notification(json.dumps(of_s3(versioned)))
    assert (one.version, one.parts) == ("v1", ("drop", "a b/é.json", "v1", "0A", "e"))
    [none] = read_notification(json.dumps(of_s3({**PLAIN, "object": {**PLAIN["object"], "versionId": "null"}})))
    assert none == MADE


@pytest.mark.parametrize(
    "content",
    [
        {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "drop"},
        {"Type": "Notification", "Message": json.dumps({"Event": "s3:TestEvent"})},
        of_s3(name="ObjectRemoved:Delete"),
        of_event_bridge(**{"detail-type": "Object Deleted"}),
    ],
)
def test_what_is_no_new_object_announces_none(content):
    assert read_notification(json.dumps(content)) == []


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no JSON",
        "[]",
        "{}",
        "[" * 100_000,
        json.dumps({"Records": []}),
        json.dumps({"Records": [7]}),
        json.dumps({"Records": [of_s3()["Records"][0]] * 1001}),
        json.dumps(of_s3({"bucket": {"name": "drop"}, "object": {}})),
        json.dumps(of_s3({"bucket": {"name": ""}, "object": {"key": "k"}})),
        json.dumps(of_s3({"bucket": {"name": "drop"}, "object": {"key": "%FF"}})),
        json.dumps(of_s3({"bucket": {"name": "drop"}, "object": {"key": 7}})),
        json.dumps(of_s3({"bucket": {"name": "drop"}, "object": {"key": "k" * 1025}})),
        json.dumps(of_event_bridge(detail={})),
        json.dumps({"Type": "Notification", "Message": "alice@example.com"}),
    ],
)
def test_what_is_no_notification_is_refused_and_not_quoted(body):
    with pytest.raises(ValueError, match=r"^not a notification of a bucket$") as raised:
        read_notification(body)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
