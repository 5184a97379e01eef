"""What a bucket says on a queue when an object was made in it: S3's own form, through SNS, or EventBridge's.

Source: Amazon S3 User Guide, "Event message structure" and "Using EventBridge"; SNS Developer Guide,
"Amazon SNS message and JSON formats".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import unquote_plus

import msgspec

# A message of 1 MiB holds fewer; who sends more means harm.
_MOST_OBJECTS = 1000


class Fault(StrEnum):
    """Why a message about objects is put into quarantine."""

    UNREADABLE = "unreadable"
    OTHER_BUCKET = "other-bucket"
    GONE = "gone"
    TOO_LARGE = "too-large"


FAULT_REASONS: dict[str, str] = {
    Fault.UNREADABLE: "not a notification of a bucket",
    Fault.OTHER_BUCKET: "an object of a bucket that the setting does not name",
    Fault.GONE: "the object is not there any more",
    Fault.TOO_LARGE: "the object is larger than is taken",
}


@dataclass(frozen=True)
class AnnouncedObject:
    """An object that was made. `version`, `sequencer` and `etag` are empty where the bucket tells none."""

    bucket: str
    key: str
    version: str
    sequencer: str
    etag: str

    @property
    def parts(self) -> tuple[str, ...]:
        """What tells this object from any other, and from what had its key before."""
        return self.bucket, self.key, self.version, self.sequencer, self.etag


def read_notification(body: str) -> list[AnnouncedObject]:
    """Give the objects that a message announces; none for a test, and for what is not about a new object.

    Raises: ValueError where it is no notification; its text holds nothing of the message.

    >>> read_notification('{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}')
    []
    """
    content = _decoded(body)
    if content.get("Type") == "Notification" and isinstance(content.get("Message"), str):
        # SNS without raw delivery; it wraps once.
        content = _decoded(content["Message"])
    if content.get("Event") == "s3:TestEvent":
        return []
    try:
        if content.get("source") == "aws.s3":
            return _of_event_bridge(content)
        records = content["Records"]
        if not isinstance(records, list) or not 0 < len(records) <= _MOST_OBJECTS:
            raise ValueError
        return [_of_record(one) for one in records if str(one["eventName"]).startswith("ObjectCreated:")]
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ValueError("not a notification of a bucket") from None


def _decoded(body: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise ValueError("not a notification of a bucket") from None


def _of_record(record: dict[str, Any]) -> AnnouncedObject:
    told = record["s3"]
    one = told["object"]
    # Keys stand here as in a form of a web page: a blank is a plus.
    key = unquote_plus(one["key"], errors="strict")
    more = (one.get("versionId"), one.get("sequencer"), one.get("eTag"))
    return _checked(told["bucket"]["name"], key, *more)


def _of_event_bridge(event: dict[str, Any]) -> list[AnnouncedObject]:
    if event["detail-type"] != "Object Created":
        return []
    told = event["detail"]
    one = told["object"]
    more = (one.get("version-id"), one.get("sequencer"), one.get("etag"))
    return [_checked(told["bucket"]["name"], one["key"], *more)]


def _checked(bucket: object, key: object, version: object, *more: object) -> AnnouncedObject:
    # `null` is the version of what was made before a bucket kept versions.
    parts = (bucket, key, "" if version in (None, "null") else version, *(one or "" for one in more))
    texts = [one for one in parts if isinstance(one, str) and len(one) <= 1024]
    if len(texts) < len(parts) or not texts[0] or not texts[1]:
        raise ValueError
    return AnnouncedObject(*texts)
