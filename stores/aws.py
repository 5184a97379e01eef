"""The way to Amazon's services by boto3: clients, and signed calls for where boto3's own cost too much."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from stores.aws_wire import Signing, Wire
from transforms.errors import QueueError

if TYPE_CHECKING:
    from stores.settings import Settings

# The longest that SQS waits for a first message.
LONGEST_POLL_S = 20
# Calls that are under way at once; each has a connection of its own, which is kept.
MOST_CALLS = 8
CONNECT_S, ANSWER_S = 5, LONGEST_POLL_S + 10
_PATIENCE_S = (0.05, 0.2, 0.8)


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


class SignedCalls:
    """Calls by the credentials and to the address of one of boto3's clients."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - boto3's clients have no types
        """Take boto3's client; nothing is sent yet."""
        service = client.meta.service_model
        self._headers = {"Content-Type": f"application/x-amz-json-{service.metadata['jsonVersion']}"}
        self._prefix, self._name = service.metadata["targetPrefix"], service.signing_name
        self._region = client.meta.region_name
        # Both are private to botocore, and have stood there for ten years; the lock file holds its version.
        self._credentials, verify = client._request_signer._credentials, client._endpoint.http_session._verify
        url = client.meta.endpoint_url
        authorities = _authorities(verify) if url.startswith("https:") else None
        self._wire = Wire(url, _proxy(url), authorities, CONNECT_S, ANSWER_S)

    def call(self, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Make a call that may be repeated; what throttles or fails is asked again, three times.

        Raises: botocore's ClientError for what the service refuses, its other errors for the network.
        """
        body = msgspec.json.encode(parameters)
        for pause_s in _PATIENCE_S:
            status, answer = self._try_call(action, body)
            if not _is_passing(status, answer):
                break
            time.sleep(pause_s)
        else:
            status, answer = self._try_call(action, body)
        if status != 200:
            from botocore.exceptions import ClientError

            raise ClientError({"Error": {"Code": _code(status, answer)}}, action)
        return answer

    def _try_call(self, action: str, body: bytes) -> tuple[int, dict[str, Any]]:
        headers = {**self._headers, "X-Amz-Target": f"{self._prefix}.{action}"}
        try:
            status, content = self._wire.post(headers, body, self._signing())
        except QueueError as error:
            return 0, {"__type": str(error)}
        try:
            return status, msgspec.json.decode(content, type=dict[str, Any])
        except msgspec.DecodeError:
            # A proxy's page, say: a 200 without JSON is no answer either.
            return status if status != 200 else 0, {}

    def _signing(self) -> Signing:
        from botocore.exceptions import NoCredentialsError

        if self._credentials is None:
            raise NoCredentialsError
        # Taken anew for each call: credentials of a role are renewed by being asked for.
        now = self._credentials.get_frozen_credentials()
        return Signing(now.access_key, now.secret_key, now.token, self._region, self._name)


def _authorities(verify: bool | str) -> bytes | None:
    """Give the authorities that boto3 trusts: its own list, or the file that is named; None for anybody."""
    from botocore.httpsession import get_cert_path

    return Path(get_cert_path(verify)).read_bytes() if verify else None


def _proxy(url: str) -> str | None:
    """Give the proxy that the environment names for an address, as boto3 and most others take it."""
    from botocore.utils import get_environ_proxies

    found: str | None = get_environ_proxies(url).get(url.partition(":")[0])
    return found


def _is_passing(status: int, answer: Mapping[str, Any]) -> bool:
    code = _code(status, answer)
    if status == 0:
        # Whoever is not trusted now is not trusted in a second.
        return "_TLS_" not in code
    return status == 429 or status >= 500 or "hrottl" in code


def _code(status: int, answer: Mapping[str, Any]) -> str:
    # `com.amazonaws.sqs#QueueDoesNotExist`; what comes from elsewhere is told by its number.
    return str(answer.get("__type", status)).rpartition("#")[2]


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
