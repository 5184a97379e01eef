"""Signed calls of a service's JSON protocol, for where boto3's own cost too much.

boto3 spends most of a small call on everything around it: rules for the address, events, validation, a
model of the answer, HTTP in Python. Nothing of that differs from one call of a queue to the next. AWS's
own runtime, awscrt, signs and sends them in C, a third of the processor time; whose call it is, and what
it trusts, boto3 still says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import msgspec

from stores.aws import ANSWER_S, CONNECT_S

if TYPE_CHECKING:
    from awscrt.http import HttpClientConnection, HttpProxyOptions, HttpRequest
    from awscrt.io import TlsConnectionOptions

_PATIENCE_S = (0.05, 0.2, 0.8)


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
        self._wire = Wire(client.meta.endpoint_url, verify)

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
        from awscrt.exceptions import AwsCrtError

        request = self._wire.request({**self._headers, "X-Amz-Target": f"{self._prefix}.{action}"}, body)
        self._sign(request)
        try:
            status, content = self._wire.send(request, len(body))
        except AwsCrtError as error:
            return 0, {"__type": error.name}
        except TimeoutError:
            return 0, {"__type": "NoAnswer"}
        try:
            return status, msgspec.json.decode(content, type=dict[str, Any])
        except msgspec.DecodeError:
            # A proxy's page, say: a 200 without JSON is no answer either.
            return status if status != 200 else 0, {}

    def _sign(self, request: HttpRequest) -> None:
        from awscrt import auth

        # Taken anew for each call: credentials of a role are renewed by being asked for.
        now = self._credentials.get_frozen_credentials()
        given = auth.AwsCredentialsProvider.new_static(now.access_key, now.secret_key, now.token)
        config = auth.AwsSigningConfig(credentials_provider=given, region=self._region, service=self._name)
        auth.aws_sign_request(request, config).result(CONNECT_S)


class Wire:
    """Connections to one address, one for each thread, kept while the other side keeps them."""

    def __init__(self, url: str, verify: bool | str) -> None:
        """Take the address, and what botocore trusts: its own list of authorities, a file, or anybody."""
        self._url, self._verify = urlsplit(url), verify
        self._own = threading.local()

    def request(self, headers: Mapping[str, str], body: bytes) -> HttpRequest:
        """Make a POST, to be signed before its length is added."""
        from awscrt.http import HttpHeaders, HttpRequest

        named = HttpHeaders([("Host", self._url.netloc.rpartition("@")[2]), *headers.items()])
        return HttpRequest("POST", self._url.path or "/", named, BytesIO(body))

    def send(self, request: HttpRequest, length: int) -> tuple[int, bytes]:
        """Give status and content of the answer.

        Raises: AwsCrtError where the other side cannot be reached or hangs up; TimeoutError.
        """
        request.headers.set("Content-Length", str(length))
        parts: list[bytes] = []
        connection = self._connection()

        def take(http_stream: object, chunk: bytes, **_more: object) -> None:
            parts.append(chunk)

        stream = connection.request(request, on_body=take)
        stream.activate()
        try:
            status = stream.completion_future.result(ANSWER_S)
        except TimeoutError:
            # What still comes must not be taken for the answer to another call.
            connection.close()
            raise
        return int(status), b"".join(parts)

    def _connection(self) -> HttpClientConnection:
        kept: HttpClientConnection | None = getattr(self._own, "connection", None)
        if kept is None or not kept.is_open():
            self._own.connection = kept = self._connected()
        return kept

    def _connected(self) -> HttpClientConnection:
        from awscrt import http, io

        options = io.SocketOptions()
        options.connect_timeout_ms = CONNECT_S * 1000
        opened = http.HttpClientConnection.new(
            self._host,
            self._url.port or (443 if self._is_tls else 80),
            socket_options=options,
            tls_connection_options=self._trusting(self._host) if self._is_tls else None,
            proxy_options=self._proxy(),
        )
        # Longer than awscrt waits for socket and TLS, which then says what it was.
        connection: HttpClientConnection = opened.result(ANSWER_S)
        return connection

    @property
    def _host(self) -> str:
        return self._url.hostname or ""

    @property
    def _is_tls(self) -> bool:
        return self._url.scheme == "https"

    @cached_property
    def _context(self) -> Any:  # noqa: ANN401 - awscrt's, whose import is put off
        from awscrt import io
        from botocore.httpsession import get_cert_path

        options = io.TlsContextOptions()
        options.verify_peer = bool(self._verify)
        if self._verify:
            options.override_default_trust_store(Path(get_cert_path(self._verify)).read_bytes())
        return io.ClientTlsContext(options)

    def _trusting(self, host: str) -> TlsConnectionOptions:
        options: TlsConnectionOptions = self._context.new_connection_options()
        options.set_server_name(host)
        return options

    def _proxy(self) -> HttpProxyOptions | None:
        """Give the proxy that the environment names, as boto3 and most others take it."""
        from awscrt import http
        from botocore.utils import get_environ_proxies

        named = get_environ_proxies(self._url.geturl()).get(self._url.scheme)
        if not named:
            return None
        proxy = urlsplit(named if "//" in named else f"http://{named}")
        host, is_tls = proxy.hostname or "", proxy.scheme == "https"
        kinds = http.HttpProxyAuthenticationType
        return http.HttpProxyOptions(
            host,
            proxy.port or (443 if is_tls else 80),
            self._trusting(host) if is_tls else None,
            kinds.Basic if proxy.username else kinds.Nothing,
            unquote(proxy.username or "") or None,
            unquote(proxy.password or "") or None,
        )


def _is_passing(status: int, answer: Mapping[str, Any]) -> bool:
    code = _code(status, answer)
    if status == 0:
        # Whoever is not trusted now is not trusted in a second.
        return "_TLS_" not in code
    return status == 429 or status >= 500 or "hrottl" in code


def _code(status: int, answer: Mapping[str, Any]) -> str:
    # `com.amazonaws.sqs#QueueDoesNotExist`; what comes from elsewhere is told by its number.
    return str(answer.get("__type", status)).rpartition("#")[2]
