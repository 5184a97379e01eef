"""Kept connections: answers of every form, connections that end in between, servers that talk nonsense."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stores.kept_connections import Address, KeptConnections, read_answer
from transforms.errors import QueueError

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.mark.parametrize(
    ("answer", "met"),
    [
        (PLAIN, (200, b"hello", True)),
        (b"HTTP/1.1 204 No Content\r\ncontent-length:0\r\n\r\n", (204, b"", True)),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN, (200, b"hello", True)),
        (b"HTTP/1.1 503 Slow\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nno", (503, b"no", False)),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", (200, b"ok", False)),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", (200, b"to the end", False)),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
            (200, b"abc0123456789", True),
        ),
    ],
    ids=["length", "empty", "continue", "close", "old", "no length", "chunked"],
)
def test_answers_of_every_form_are_read(answer: bytes, met: tuple[int, bytes, bool]):
    stream = io.BytesIO(answer)
    assert read_answer(stream) == met
    assert stream.read() == b""


@pytest.mark.parametrize("cut", range(len(PLAIN)))
def test_an_answer_that_breaks_off_is_no_answer(cut: int):
    with pytest.raises((ConnectionError, QueueError)):
        read_answer(io.BytesIO(PLAIN[:cut]))


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300 + b"\r\n",
    ],
)
def test_what_is_not_http_is_refused(answer: bytes):
    with pytest.raises(QueueError):
        read_answer(io.BytesIO(answer))


@contextmanager
def serving(*connections: list[bytes]) -> Iterator[tuple[Address, list[bytes]]]:
    """A server that gives each connection its answers, one a request, and then closes it."""
    met: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answers in connections:
                with listening.accept()[0] as one, one.makefile("rb") as stream:
                    for answer in answers:
                        head = b"".join(iter(stream.readline, b"\r\n"))
                        size = int(head.lower().partition(b"content-length: ")[2].split()[0])
                        met.append(head + stream.read(size))
                        one.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield Address("127.0.0.1", listening.getsockname()[1], None, 5, 5), met
        thread.join(10)
        assert not thread.is_alive()


def test_calls_share_a_connection_and_a_closed_one_is_made_anew():
    with serving([PLAIN, PLAIN], [PLAIN]) as (address, met):
        kept = KeptConnections(address)
        for body in (b"1", b"22", b"333"):
            assert kept.post({"host": "x", "x-one": "two"}, body) == (200, b"hello")
        kept._drop(kept._of_thread.connection)
    assert [one[-3:] for one in met] == [b"\r\n1", b"\n22", b"333"]
    assert all(one.startswith(b"POST / HTTP/1.1\r\nhost: x\r\nx-one: two\r\n") for one in met)


def test_a_new_connection_that_breaks_off_is_told():
    with serving([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"]) as (address, _):
        kept = KeptConnections(address)
        with pytest.raises(ConnectionError):
            kept.post({}, b"")
        assert kept._opened == set()


def test_a_server_that_is_not_there_is_told():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        KeptConnections(Address("127.0.0.1", port, None, 5, 5)).post({}, b"")


def test_every_thread_has_a_connection_of_its_own():
    with serving([PLAIN], [PLAIN]) as (address, met):
        kept = KeptConnections(address)
        assert kept.post({}, b"1")[0] == 200
        thread = threading.Thread(target=kept.post, args=({}, b"2"))
        thread.start()
        thread.join()
        assert len(kept._opened) == 2
        for connection in kept._opened:
            connection.close()
    assert len(met) == 2
