"""The live feed with real sockets and certificates: who may send, and that every packet becomes a file's."""

import contextlib
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from authority import Authority
from lockhouse.feed import plan_listening
from orchestration.resources import Platform
from stores.settings import Settings, load_settings
from transforms.audit import Entry
from transforms.capture.packets import Packets
from transforms.capture.reading import read_capture
from transforms.errors import UsageError
from waiting import LONGEST_S, wait_for

HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)


def record(number: int, size: int = 400) -> bytes:
    content = struct.pack(">I", number) + bytes(size)
    return struct.pack("<IIII", 1_790_000_000 + number, 0, len(content), len(content)) + content


def capture(count: int, first: int = 0) -> bytes:
    return HEADER + b"".join(record(number) for number in range(first, first + count))


@dataclass
class Feeding:
    """A running feed."""

    home: Path
    authority: Authority
    process: subprocess.Popen[str] | None = None
    port: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def platform(self) -> Platform:
        return Platform(load_settings(self.home))

    def start(self, *options: str, **settings: object) -> "Feeding":
        given = {f"LOCKHOUSE_FEED_{name.upper()}": str(value) for name, value in settings.items()}
        # What imports Dagster here would fail.
        guard = "import sys; sys.modules['dagster'] = None; from lockhouse.feed import feed; feed()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", guard, "--home", str(self.home), "--listen", "127.0.0.1:0", *options],
            env={**os.environ, **given},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert line.startswith("feed: listening on 127.0.0.1 port "), line
        self.port = int(line.split()[-1])
        return self

    def start_tls(self, **settings: object) -> "Feeding":
        own = self.authority.issue("lockhouse.test", None)
        return self.start(certificate_file=own, key_file=own, ca_file=self.authority.file, **settings)

    def stop(self, signum: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signum)
        if self.process is not None:
            _, said = self.process.communicate(timeout=LONGEST_S)
            self.said += said.splitlines()
            self.process = None

    @contextlib.contextmanager
    def connected(self, certificate: Path | None = None, *, plain: bool = False) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=LONGEST_S) as raw:
            if plain:
                yield raw
                return
            context = ssl.create_default_context(cafile=str(self.authority.file))
            context.check_hostname = False
            if certificate is not None:
                context.load_cert_chain(certificate)
            with context.wrap_socket(raw) as wrapped:
                yield wrapped

    def send(self, content: bytes, certificate: Path | None = None, *, plain: bool = False) -> None:
        with self.connected(certificate, plain=plain) as connection:
            connection.sendall(content)
            if not plain:
                connection.unwrap()

    def files(self, pattern: str = "*.pcap") -> list[Path]:
        return sorted((self.home / "landing" / "captures").glob(f"*/*/{pattern}"))

    def contents(self) -> list[bytes]:
        return [path.read_bytes() for path in self.files()]

    def audited(self, outcome: str, tenant: str = "default") -> list[Entry]:
        entries = self.platform.audit.entries(tenant)
        return [one for one in entries if one.action.startswith("captures:feed:") and one.outcome == outcome]


@pytest.fixture
def feeding(tmp_path: Path) -> Iterator[Feeding]:
    platform = Platform(load_settings(tmp_path / "home"))
    platform.create_home("me")
    platform.add_tenant("other", "me")
    platform.devices("default").register("phone-1")
    running = Feeding(tmp_path / "home", Authority(tmp_path, "ours"))
    yield running
    running.stop()


def packets_of(contents: list[bytes]) -> list[bytes]:
    found = []
    for content in contents:
        for part in read_capture(content):
            assert type(part).__name__ != "Damage", part
            if isinstance(part, Packets):
                bounds = zip(part.starts, part.starts[1:], strict=False)
                found += [part.records[a:b].tobytes() for a, b in bounds]
    return found


def test_a_device_s_stream_becomes_whole_captures(feeding: Feeding):
    feeding.start_tls(segment_bytes=300_000)
    content = capture(4_000)
    feeding.send(content, feeding.authority.issue("phone-1", "default"))
    wait_for(lambda: feeding.audited("done"))
    assert len(feeding.files()) > 3
    assert {path.parent.relative_to(feeding.home).parts for path in feeding.files()} == {
        ("landing", "captures", "default", "phone-1")
    }
    assert packets_of(feeding.contents()) == packets_of([content])
    assert {path.stat().st_mode & 0o777 for path in feeding.files()} == {0o600}
    assert feeding.files("*.part") == []
    (closed,) = feeding.audited("done")
    assert '"packets":4000' in closed.parameters
    assert f'"files":{len(feeding.files())}' in closed.parameters
    assert "phone-1" not in str(feeding.platform.audit.entries("default"))
    platform = feeding.platform
    settled = platform.landing.settled(["captures"]) or platform.landing.settled(["captures"])
    batches = platform.landing.claim("captures", "default", settled["captures", "default"])
    assert sum(platform.captures.seal_batch(batch.id).accepted for batch in batches) == 4_000


def test_files_are_closed_by_time_and_in_the_middle_of_a_record(feeding: Feeding):
    feeding.start("--feed-device", "phone-1", segment_seconds=0.3)
    content = capture(6)
    with feeding.connected(plain=True) as connection:
        connection.sendall(content[:-10])
        wait_for(lambda: len(feeding.files()) == 1)
        assert packets_of(feeding.contents()) == packets_of([capture(5)])
        connection.sendall(content[-10:] + record(6))
        wait_for(lambda: len(feeding.files()) == 2)
    wait_for(lambda: feeding.audited("done"))
    assert packets_of(feeding.contents()) == packets_of([capture(7)])


def test_two_connections_of_a_device_do_not_mix(feeding: Feeding):
    feeding.start("--feed-device", "phone-1")
    with feeding.connected(plain=True) as one, feeding.connected(plain=True) as two:
        for number in range(20):
            one.sendall(capture(1, number) if not number else record(number))
            two.sendall(capture(1, 100) if not number else record(100 + number))
    wait_for(lambda: len(feeding.audited("done")) == 2)
    assert sorted(feeding.contents()) == sorted([capture(20), capture(20, 100)])


@pytest.mark.parametrize(
    ("device", "tenant", "reason"),
    [
        ("phone-2", "default", "a device that is not registered"),
        ("phone-1", "other", "a device that is not registered"),
        ("phone-1", "nobody", "a certificate of an unknown tenant"),
        ("../../keys", "default", "a device that is not registered"),
        ("phone-1", None, "names one tenant"),
        (None, "default", "names one tenant"),
    ],
)
def test_who_is_not_known_is_refused_and_audited(
    feeding: Feeding, device: str | None, tenant: str | None, reason: str
):
    feeding.start_tls()
    certificate = feeding.authority.issue(device, tenant)
    with contextlib.suppress(OSError):
        feeding.send(capture(5), certificate)
    trail = "other" if tenant == "other" else "default"
    wait_for(lambda: feeding.audited("refused", trail))
    (refused,) = feeding.audited("refused", trail)
    assert reason in refused.parameters
    assert feeding.files("*") == []


@pytest.mark.parametrize("kind", ["another authority", "no certificate", "no TLS"])
def test_without_a_certificate_of_ours_nothing_comes_in(feeding: Feeding, tmp_path: Path, kind: str):
    feeding.start_tls()
    certificate = None
    if kind == "another authority":
        certificate = Authority(tmp_path, "theirs").issue("phone-1", "default")
    with contextlib.suppress(OSError):
        feeding.send(capture(5), certificate, plain=kind == "no TLS")
    feeding.send(capture(3), feeding.authority.issue("phone-1", "default"))
    wait_for(lambda: feeding.audited("done"))
    feeding.stop()
    assert feeding.contents() == [capture(3)]
    assert [line for line in feeding.said if "no certificate that holds" in line]
    assert [one for one in feeding.audited("refused") if "no certificate that holds" in one.parameters]


@pytest.mark.parametrize(
    ("content", "reason", "count"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "no capture", 0),
        (capture(7) + b"\xff" * 100, "a record of 4294967295 bytes", 7),
    ],
)
def test_garbage_ends_the_connection_and_is_kept(feeding: Feeding, content: bytes, reason: str, count: int):
    feeding.start("--feed-device", "phone-1")
    with feeding.connected(plain=True) as connection:
        connection.sendall(content)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    wait_for(lambda: feeding.audited("failed"))
    (failed,) = feeding.audited("failed")
    assert reason in failed.parameters
    assert f'"packets":{count}' in failed.parameters
    assert feeding.contents() == [content]


def test_a_stop_closes_files(feeding: Feeding):
    feeding.start("--feed-device", "phone-1")
    with feeding.connected(plain=True) as connection:
        connection.sendall(capture(9))
        wait_for(lambda: feeding.files("*.part"))
        feeding.stop()
    assert packets_of(feeding.contents()) == packets_of([capture(9)])
    assert '"reason":"stopped"' in feeding.audited("done")[0].parameters


def test_what_a_killed_feed_left_gets_its_name(feeding: Feeding):
    feeding.start("--feed-device", "phone-1", segment_seconds=0.2)
    part = feeding.home / "landing" / "captures" / "default" / "phone-1" / "live-1-000000.part"
    feeding.stop()
    part.parent.mkdir(parents=True)
    part.write_bytes(capture(4)[:-3])
    feeding.start("--feed-device", "phone-1")
    assert feeding.contents() == [capture(4)[:-3]]


def test_one_home_has_one_feed(feeding: Feeding):
    feeding.start("--feed-device", "phone-1")
    command = [sys.executable, "-m", "lockhouse.feed", "--home", str(feeding.home), "--listen", "0"]
    second = subprocess.run([*command, "--feed-device", "x"], capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert "another process holds feed.lock" in second.stderr


@pytest.mark.parametrize("kind", ["all", "device"])
def test_connections_are_limited(feeding: Feeding, kind: str):
    feeding.start("--feed-device", "phone-1")
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(feeding.connected(plain=True)) for _ in range(4)]
        wait_for(lambda: len(feeding.audited("allowed")) == 4)
        if kind == "device":
            with contextlib.suppress(ConnectionResetError):
                assert stack.enter_context(feeding.connected(plain=True)).recv(1) == b""
            assert "too many connections" in feeding.audited("refused")[0].parameters
        else:
            held[0].close()
            wait_for(lambda: feeding.audited("done"))
            stack.enter_context(feeding.connected(plain=True))
            wait_for(lambda: len(feeding.audited("allowed")) == 5)


@pytest.mark.parametrize(
    ("address", "device", "files", "said"),
    [
        ("0.0.0.0:5000", "d", (), "can be reached by others"),
        ("example.org:5000", "d", (), "can be reached by others"),
        ("[::]:5000", "d", (), "can be reached by others"),
        ("127.0.0.1:5000", None, (), "give --feed-device"),
        ("5000", "../x", (), "a device id"),
        ("5000", None, ("certificate",), "all three or none"),
        ("5000", None, ("certificate", "key", "ca"), "cannot be used"),
        ("5000", "d", ("certificate", "key", "ca"), "leave --feed-device out"),
        ("localhost", "d", (), r"\[HOST:\]PORT"),
        ("127.0.0.1:70000", "d", (), r"\[HOST:\]PORT"),
    ],
)
def test_what_would_not_be_safe_does_not_start(
    tmp_path: Path, address: str, device: str | None, files: tuple[str, ...], said: str
):
    for name in files:
        (tmp_path / name).write_text("nothing")
    settings = Settings(home=tmp_path, **{f"feed_{name}_file": tmp_path / name for name in files})
    with pytest.raises(UsageError, match=said):
        plan_listening(settings, address, device, "default")


def test_a_loopback_address_may_be_written_in_any_way(tmp_path: Path):
    addresses = ["5000", "127.0.0.1:5000", "localhost:5000", "[::1]:5000", "127.8.8.8:5000"]
    planned = [plan_listening(Settings(home=tmp_path), one, "d", "default").address for one in addresses]
    assert planned == ["127.0.0.1:5000", *addresses[1:]]
