"""Signed requests over HTTP by AWS's own runtime in C, for where Python's libraries cost too much.

Whose request it is, by which way it goes and whom to trust are told by boto3's settings, in `aws.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from transforms.errors import QueueError

if TYPE_CHECKING:
    from awscrt.http import HttpClientConnection, HttpProxyOptions, HttpRequest
    from awscrt.io import ClientTlsContext, TlsConnectionOptions


@dataclass(frozen=True)
class Signing:
    """Who signs, and for what. `token` is that of a role."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)
    region: str
    service: str


class Wire:
    """Connections to one address, one for each thread, kept while the other side keeps them."""

    def __init__(
        self, url: str, proxy: str | None, authorities: bytes | None, connect_s: float, answer_s: float
    ) -> None:
        """Take the address, the way to it, and whom to trust there: authorities in PEM, None for anybody."""
        self._url, self._proxy, self._authorities = urlsplit(url), proxy, authorities
        self._connect_s, self._answer_s = connect_s, answer_s
        self._own = threading.local()

    def post(self, headers: Mapping[str, str], body: bytes, signing: Signing) -> tuple[int, bytes]:
        """Send a signed request; gives status and content of the answer.

        Raises: QueueError where nobody answers; its text is awscrt's name for why, or `NoAnswer`.
        """
        from awscrt.exceptions import AwsCrtError

        request = self._request(headers, body)
        try:
            _sign(request, signing)
            # Behind the signature, as boto3 has it: a proxy may say the length in another way.
            request.headers.set("Content-Length", str(len(body)))
            return self._sent(request)
        except AwsCrtError as error:
            raise QueueError(error.name) from None
        except TimeoutError:
            raise QueueError("NoAnswer") from None

    def _request(self, headers: Mapping[str, str], body: bytes) -> HttpRequest:
        from awscrt.http import HttpHeaders, HttpRequest

        named = HttpHeaders([("Host", self._url.netloc.rpartition("@")[2]), *headers.items()])
        return HttpRequest("POST", self._url.path or "/", named, BytesIO(body))

    def _sent(self, request: HttpRequest) -> tuple[int, bytes]:
        parts: list[bytes] = []
        connection = self._connection()

        def take(http_stream: object, chunk: bytes, **_more: object) -> None:
            parts.append(chunk)

        stream = connection.request(request, on_body=take)
        stream.activate()
        try:
            status = stream.completion_future.result(self._answer_s)
        except TimeoutError:
            # What still comes must not be taken for the answer to another call.
            connection.close()
            self._own.connection = None
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
        options.connect_timeout_ms = round(self._connect_s * 1000)
        opened = http.HttpClientConnection.new(
            self._host,
            self._url.port or (443 if self._is_tls else 80),
            socket_options=options,
            tls_connection_options=self._trusting(self._host) if self._is_tls else None,
            proxy_options=self._proxying(),
        )
        # Longer than awscrt waits for socket and TLS, which then says what it was.
        connection: HttpClientConnection = opened.result(self._answer_s)
        return connection

    @property
    def _host(self) -> str:
        return self._url.hostname or ""

    @property
    def _is_tls(self) -> bool:
        return self._url.scheme == "https"

    @cached_property
    def _context(self) -> ClientTlsContext:
        from awscrt import io

        options = io.TlsContextOptions()
        options.verify_peer = self._authorities is not None
        if self._authorities is not None:
            options.override_default_trust_store(self._authorities)
        return io.ClientTlsContext(options)

    def _trusting(self, host: str) -> TlsConnectionOptions:
        options: TlsConnectionOptions = self._context.new_connection_options()
        options.set_server_name(host)
        return options

    def _proxying(self) -> HttpProxyOptions | None:
        from awscrt import http

        if not self._proxy:
            return None
        proxy = urlsplit(self._proxy if "//" in self._proxy else f"http://{self._proxy}")
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


def _sign(request: HttpRequest, signing: Signing) -> None:
    from awscrt import auth

    given = auth.AwsCredentialsProvider.new_static(signing.access_key, signing.secret_key, signing.token)
    config = auth.AwsSigningConfig(credentials_provider=given, region=signing.region, service=signing.service)
    auth.aws_sign_request(request, config).result()
