"""The way to Amazon's services by boto3: clients, and its errors told without what they quote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transforms.errors import QueueError

if TYPE_CHECKING:
    from stores.settings import Settings

# The longest that SQS waits for a first message.
LONGEST_POLL_S = 20
# Calls that are under way at once; each has a connection of its own, which is kept.
MOST_CALLS = 8
CONNECT_S, ANSWER_S = 5, LONGEST_POLL_S + 10


def sqs_client(settings: Settings) -> Any:  # noqa: ANN401 - boto3's clients have no types
    """Make boto3's client of SQS for the region and address that are set."""
    return _client("sqs", settings)


def s3_client(settings: Settings) -> Any:  # noqa: ANN401 - boto3's clients have no types
    """Make boto3's client of S3 for the region and address that are set."""
    return _client("s3", settings)


def _client(service: str, settings: Settings) -> Any:  # noqa: ANN401 - boto3's clients have no types
    import boto3
    from botocore.config import Config

    config = Config(
        region_name=settings.aws_region,
        retries={"mode": "standard", "max_attempts": 4},
        connect_timeout=CONNECT_S,
        read_timeout=ANSWER_S,
        max_pool_connections=MOST_CALLS,
        # An address of one's own rarely knows a bucket as a host's name.
        s3={"addressing_style": "path"} if settings.aws_endpoint_url else None,
    )
    # A session of its own: boto3's shared one may not be used by two threads at once.
    return boto3.Session().client(service, endpoint_url=settings.aws_endpoint_url, config=config)


def open_object(client: Any, bucket: str, key: str, version: str) -> dict[str, Any] | None:  # noqa: ANN401
    """Begin to read an object of S3, of a version where one is named; None where it is not there.

    Raises: botocore's errors where the bucket is absent, refuses or does not answer.
    """
    from botocore.exceptions import ClientError

    named = {"VersionId": version} if version else {}
    try:
        return dict(client.get_object(Bucket=bucket, Key=key, **named))
    except ClientError as error:
        # A version that marks a deletion is refused as a method.
        if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "NoSuchVersion", "MethodNotAllowed"):
            return None
        raise


@contextmanager
def reduced(what: str) -> Iterator[None]:
    """Keep a library's text back: it may quote a message. Its kind and the service's own code are told.

    Raises: QueueError in its place.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        raise QueueError(f"the queue did not {what}: {code}") from None
    except BotoCoreError as error:
        raise QueueError(f"the queue did not {what}: {type(error).__name__}") from None
