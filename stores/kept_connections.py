"""Connections to one server that stay open, one for each thread, and carry one POST after another.

The libraries for HTTP take 0.2 to 0.4 ms of processor for a small call: pools, redirects, parsed URLs,
headers as e-mail. A receiver that takes thousands of messages a second, ten a call, has not that much.
"""

from __future__ import annotations

import socket
import ssl
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from transforms.errors import QueueError

_LINE_BYTES, _MOST_HEADERS = 1 << 16, 200


@dataclass(frozen=True)
class Address:
    """Where a server is. `context` is None where it speaks without TLS. Units: seconds."""

    host: str
    port: int
    context: ssl.SSLContext | None
    connect_timeout_s: float
    read_timeout_s: float


class _Connection:
    """One open connection."""

    def __init__(self, address: Address) -> None:
        plain = socket.create_connection((address.host, address.port), address.connect_timeout_s)
        # A call is one packet and waits for its answer: nothing is gained by collecting more.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(address.read_timeout_s)
        context = address.context
        self._socket = plain if context is None else context.wrap_socket(plain, server_hostname=address.host)
        self.answers: BinaryIO = self._socket.makefile("rb")

    def send(self, content: bytes) -> None:
        self._socket.sendall(content)

    def close(self) -> None:
        self.answers.close()
        self._socket.close()


class KeptConnections:
    """Connections to one address. Making it connects to nothing."""

    def __init__(self, address: Address) -> None:
        """Remember the address."""
        self._address, self._of_thread = address, threading.local()
        self._opened: set[_Connection] = set()
        weakref.finalize(self, _close_all, self._opened)

    def post(self, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """Send a POST to `/`; give the status and content of its answer.

        A call may reach the server twice, where a connection breaks while its answer is awaited.
        Raises: OSError where the server cannot be reached, is silent or breaks off; QueueError for an
        answer that is not HTTP.
        """
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST / HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n"
        content = head.encode("latin-1") + body
        kept: _Connection | None = getattr(self._of_thread, "connection", None)
        if kept is not None:
            try:
                return self._ask(kept, content)
            except (ConnectionError, ssl.SSLError):
                # Servers close what was idle for a while, and say nothing.
                pass
        fresh = self._of_thread.connection = _Connection(self._address)
        self._opened.add(fresh)
        return self._ask(fresh, content)

    def _ask(self, connection: _Connection, content: bytes) -> tuple[int, bytes]:
        with self._dropping(connection):
            connection.send(content)
            status, body, stays = read_answer(connection.answers)
        if not stays:
            self._drop(connection)
        return status, body

    @contextmanager
    def _dropping(self, connection: _Connection) -> Iterator[None]:
        """Let no connection live on in the middle of an answer."""
        try:
            yield
        except BaseException:
            self._drop(connection)
            raise

    def _drop(self, connection: _Connection) -> None:
        self._of_thread.connection = None
        self._opened.discard(connection)
        connection.close()


def _close_all(opened: set[_Connection]) -> None:
    for connection in opened:
        connection.close()


def read_answer(stream: BinaryIO) -> tuple[int, bytes, bool]:
    """Read one answer: its status, its content, and whether the connection stays open.

    Source: HTTP/1.1 (RFC 9112).
    Raises: ConnectionError where it breaks off; QueueError where it is not HTTP.
    """
    status = 100
    while 100 <= status < 200:
        status, version = _read_status(stream)
        fields = _read_fields(stream)
    stays = version != b"HTTP/1.0" and fields.get(b"connection", b"").lower() != b"close"
    if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
        return status, b"".join(_chunks(stream)), stays
    if b"content-length" in fields:
        return status, _exactly(stream, _number(fields[b"content-length"], 10)), stays
    # Without a length, the end of the connection is the end of the answer.
    return status, stream.read(), False


def _read_status(stream: BinaryIO) -> tuple[int, bytes]:
    version, _, rest = _line(stream).partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise QueueError("the queue's server answered something that is not HTTP")
    return _number(rest[:3], 10), version


def _read_fields(stream: BinaryIO) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for _ in range(_MOST_HEADERS):
        line = _line(stream)
        if not line:
            return fields
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip()
    raise QueueError("the queue's server answered with too many headers")


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while size := _number(_line(stream).partition(b";")[0], 16):
        yield _exactly(stream, size)
        _line(stream)
    _read_fields(stream)


def _line(stream: BinaryIO) -> bytes:
    line = stream.readline(_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the queue's server broke off")
    return line.rstrip(b"\r\n")


def _exactly(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise ConnectionResetError("the queue's server broke off")
    return content


def _number(text: bytes, base: int) -> int:
    try:
        return int(text, base)
    except ValueError:
        raise QueueError("the queue's server answered something that is not HTTP") from None
