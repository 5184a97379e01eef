"""Signed calls on real sockets: the signature against botocore's, TLS, proxies, and who does not answer."""

from __future__ import annotations

import base64
import contextlib
import json
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from authority import Authority
from stores import aws
from stores.aws import SignedCalls, sqs_client
from stores.settings import Settings
from stores.sqs import SqsLimits, SqsQueue
from transforms.errors import QueueError
from waiting import wait_for

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "AWS_SESSION_TOKEN": "of a role/+==",
}


@dataclass
class Service:
    """What listens, and what it was asked."""

    address: str
    asked: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0
    hangs_up: bool = False
    is_silent: threading.Event = field(default_factory=threading.Event)


class Quiet(ThreadingHTTPServer):
    """Tells nobody of a client that hung up."""

    def handle_error(self, *_args: object) -> None:
        pass


@contextlib.contextmanager
def service(certificate: Path | None = None) -> Iterator[Service]:
    """Answer every call with no messages, over TLS where there is a certificate."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            found.connections += 1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.asked.append((dict(self.headers.items()), body))
            if found.is_silent.is_set():
                over.wait(60)
                return
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
            self.close_connection = found.hangs_up

        def log_message(self, *_args: object) -> None:
            pass

    server, over = Quiet(("127.0.0.1", 0), Handler), threading.Event()
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket, scheme = (
            context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False),
            "https",
        )
    found = Service(f"{scheme}://localhost:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        over.set()
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def proxy() -> Iterator[SimpleNamespace]:
    """Tunnel to wherever one is asked to, and remember who asked."""

    class Tunnel(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lines = list(iter(lambda: self.rfile.readline().strip(), b""))
            found.asked.append([line.decode() for line in lines])
            host, _, port = lines[0].split()[1].decode().rpartition(":")
            with socket.create_connection((host, int(port))) as far:
                self.wfile.write(b"HTTP/1.1 200 Go\r\n\r\n")
                ends = {self.connection: far, far: self.connection}
                while ready := select.select(list(ends), [], [], 60)[0]:
                    for one in ready:
                        if not (content := one.recv(1 << 16)):
                            return
                        ends[one].sendall(content)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as server:
        server.daemon_threads = True
        found = SimpleNamespace(port=server.server_address[1], asked=[])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a role, which has a token of its own, and go by no proxy."""
    for name, value in {**KEYS, "NO_PROXY": ""}.items():
        monkeypatch.setenv(name, value)


def calls_to(service: Service, tmp_path: Path) -> SignedCalls:
    return SignedCalls(sqs_client(Settings(home=tmp_path, aws_endpoint_url=service.address)))


def queue_at(service: Service, tmp_path: Path) -> SqsQueue:
    chosen = Settings(home=tmp_path, aws_endpoint_url=service.address)
    return SqsQueue(f"{service.address}/1/logins", SqsLimits(60), lambda: sqs_client(chosen))


def signature_of(headers: dict[str, str], body: bytes, url: str, region: str) -> str:
    """Let botocore sign what was sent, at the time at which it was."""
    named = {name: headers[name] for name in ("Content-Type", "X-Amz-Target")}
    request: Any = AWSRequest("POST", url, headers=named, data=body)
    at = datetime.strptime(headers["X-Amz-Date"] + "+0000", "%Y%m%dT%H%M%SZ%z")
    signer = SigV4Auth(Credentials(*KEYS.values()), "sqs", region)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.auth.get_current_datetime", lambda *_args, **_more: at)
        signer.add_auth(request)
    return str(request.headers["Authorization"])


def test_a_call_is_signed_as_botocore_signs_it(tmp_path: Path):
    with service() as found:
        calls = calls_to(found, tmp_path)
        assert calls.call("ReceiveMessage", {"QueueUrl": "q", "Body": "Zoë"}) == {}
    [(headers, body)] = found.asked
    assert json.loads(body) == {"QueueUrl": "q", "Body": "Zoë"}
    assert headers["X-Amz-Security-Token"] == KEYS["AWS_SESSION_TOKEN"]
    assert headers["Authorization"] == signature_of(headers, body, f"{found.address}/", calls._region)


def test_who_has_no_credentials_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in KEYS:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with service() as found, pytest.raises(QueueError, match="did not receive: NoCredentialsError"):
        queue_at(found, tmp_path).receive(10, 0)
    assert not found.asked


def test_a_connection_is_kept_and_made_anew_where_the_other_side_hung_up(tmp_path: Path):
    with service() as found:
        calls = calls_to(found, tmp_path)
        for _ in range(3):
            calls.call("ReceiveMessage", {})
        assert found.connections == 1
        found.hangs_up = True
        for _ in range(3):
            calls.call("ReceiveMessage", {})
        assert len(found.asked) >= 6
        assert found.connections >= 3


def test_an_authority_that_is_named_is_trusted_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ours, other = (Authority(tmp_path, name) for name in ("ours", "other"))
    with service(ours.issue("queue")) as found:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(ours.file))
        assert queue_at(found, tmp_path).receive(10, 0) == []
        monkeypatch.setenv("AWS_CA_BUNDLE", str(other.file))
        with pytest.raises(QueueError, match="did not receive: AWS_IO_TLS_"):
            queue_at(found, tmp_path).receive(10, 0)
    assert len(found.asked) == 1


def test_a_certificate_of_another_host_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ours = Authority(tmp_path, "ours")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ours.file))
    with service(ours.issue("queue")) as found:
        found.address = found.address.replace("localhost", "127.0.0.1")
        with pytest.raises(QueueError, match="did not receive: AWS_IO_TLS_"):
            queue_at(found, tmp_path).receive(10, 0)
    assert not found.asked


def test_the_proxy_of_the_environment_is_used_with_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ours = Authority(tmp_path, "ours")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ours.file))
    with service(ours.issue("queue")) as found, proxy() as between:
        monkeypatch.setenv("HTTPS_PROXY", f"http://some%40one:se%2Fcret@127.0.0.1:{between.port}")
        assert queue_at(found, tmp_path).receive(10, 0) == []
        port = found.address.rpartition(":")[2]
        assert between.asked[0][0] == f"CONNECT localhost:{port} HTTP/1.1"
        given = base64.b64encode(b"some@one:se/cret").decode()
        assert any(line.lower() == f"proxy-authorization: basic {given}".lower() for line in between.asked[0])
        monkeypatch.setenv("NO_PROXY", "localhost")
        queue_at(found, tmp_path).receive(10, 0)
        assert (len(between.asked), len(found.asked)) == (1, 2)


def test_who_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(aws, "ANSWER_S", 0.5)
    with service() as found:
        queue = queue_at(found, tmp_path)
        found.is_silent.set()
        with pytest.raises(QueueError, match="did not receive: NoAnswer"):
            queue.receive(10, 0)
        # Each on a connection of its own: a late answer is nobody's.
        wait_for(lambda: found.connections == len(found.asked) == 1 + len(aws._PATIENCE_S))
        found.is_silent.clear()
        assert queue.receive(10, 0) == []
