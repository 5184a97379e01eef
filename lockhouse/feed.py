"""The live feed: a port to which devices send their capture as it is made (pcap over IP).

A connection is a classic pcap or a pcapng, from its first byte. With TLS, the client's certificate
says whose it is: the tenant is its O, the device its CN. Without TLS only this machine can send, and
the device is named where the feed is started.
"""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import ssl
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lockhouse.output import note
from orchestration.resources import DEFAULT_TENANT, Platform
from stores.devices import checked_device
from stores.feed import Peer, SegmentLimits, Segments, feeding, peer_of
from stores.settings import Settings, load_settings
from transforms.audit import Action, Outcome
from transforms.errors import LockhouseError, RefusedError, UsageError

if TYPE_CHECKING:
    from stores.audit import AuditTrail

PRINCIPAL = "feed"
MOST_CONNECTIONS = 64
MOST_OF_A_DEVICE = 4
_HANDSHAKE_S = 10
_READ_BYTES = 256 << 10


@dataclass(frozen=True)
class Listening:
    """Where to listen, and how: by TLS, or plainly for one device."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    plain: Peer | None

    @property
    def address(self) -> str:
        """The address as people write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def plan_listening(settings: Settings, address: str, device: str | None, tenant: str) -> Listening:
    """Check where and how to listen; `device` and `tenant` are those of plain connections.

    Raises: UsageError where it would be neither TLS nor a connection of this machine alone, or the
    certificates cannot be read.
    """
    host, port = _parse_address(address)
    files = settings.feed_certificate_file, settings.feed_key_file, settings.feed_ca_file
    if all(files):
        if device is not None:
            raise UsageError("with TLS the certificate names the device: leave --feed-device out")
        return Listening(host, port, _tls_context(*(path for path in files if path is not None)), None)
    if any(files):
        raise UsageError(
            "TLS needs feed_certificate_file, feed_key_file and feed_ca_file: set all three or none"
        )
    if not _is_loopback(host):
        raise UsageError(
            f"{host} can be reached by others: the live feed needs TLS there (set feed_certificate_file, "
            "feed_key_file and feed_ca_file), or listens on 127.0.0.1"
        )
    if device is None:
        raise UsageError("without TLS nobody says which device sends: give --feed-device")
    return Listening(host, port, None, Peer(tenant, checked_device(device)))


def _parse_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise UsageError("an address to listen on is [HOST:]PORT, such as 0.0.0.0:57012")
    return host.strip("[]") or "127.0.0.1", int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls_context(certificate: Path, key: Path, authorities: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authorities)
    except OSError as error:
        raise UsageError(f"the live feed's certificates cannot be used: {type(error).__name__}") from None
    return context


class Feed:
    """Takes connections, and writes what they bring into landing."""

    def __init__(self, platform: Platform, listening: Listening) -> None:
        """Remember the stores; nothing is opened yet."""
        self._platform, self._listening = platform, listening
        settings = platform.settings
        self._limits = SegmentLimits(settings.feed_segment_bytes, settings.feed_segment_seconds)
        self._connections: set[asyncio.Task[None]] = set()
        self._devices: Counter[Peer] = Counter()

    async def run(self, stop: asyncio.Event, tell: Callable[[str, int], None]) -> None:
        """Listen until `stop` is set; `tell` is given the address once there is one to connect to.

        Every file is closed and named before this ends. Raises: OSError where the address is taken.
        """
        family = socket.AF_INET6 if ":" in self._listening.host else socket.AF_INET
        with socket.create_server((self._listening.host, self._listening.port), family=family) as listener:
            listener.setblocking(False)
            tell(*listener.getsockname()[:2])
            accepting = asyncio.create_task(self._accept(listener))
            await stop.wait()
            running = [accepting, *self._connections]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listener)
            except OSError:
                # No descriptors left, most likely: those that are in use will be given back.
                await asyncio.sleep(0.5)
                continue
            if len(self._connections) >= MOST_CONNECTIONS:
                note("feed: a connection was refused: too many are open")
                accepted.close()
                continue
            task = asyncio.create_task(self._serve(accepted))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, accepted: socket.socket) -> None:
        """Take one connection from its handshake to its end."""
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        reader = asyncio.StreamReader(limit=_READ_BYTES)
        try:
            transport = await self._shake_hands(reader, accepted)
        except OSError as error:
            note(f"feed: a connection was refused: no certificate that holds ({type(error).__name__})")
            self._refuse("no certificate that holds")
            accepted.close()
            return
        try:
            peer = self._listening.plain or peer_of(transport.get_extra_info("peercert") or {})
            await self._take(reader, peer)
        except RefusedError as error:
            self._refuse(str(error))
        finally:
            transport.abort()

    def _refuse(self, reason: str) -> None:
        """Write down a refusal of which nobody knows the tenant: in the trail of the home's own."""
        self._platform.audit.record(
            DEFAULT_TENANT, PRINCIPAL, Action.FEED_OPENED, Outcome.REFUSED, reason=reason
        )

    async def _shake_hands(self, reader: asyncio.StreamReader, accepted: socket.socket) -> asyncio.Transport:
        loop, tls = asyncio.get_running_loop(), self._listening.tls
        transport, _ = await loop.connect_accepted_socket(
            lambda: asyncio.StreamReaderProtocol(reader),
            accepted,
            ssl=tls,
            ssl_handshake_timeout=_HANDSHAKE_S if tls else None,
        )
        return transport

    async def _take(self, reader: asyncio.StreamReader, peer: Peer) -> None:
        """Admit a peer, and take what it sends; audited from its opening to its end."""
        ref = self._admit(peer)
        if ref is None:
            return
        connection = uuid.uuid4().hex[:12]
        marks = {"device": ref, "connection": connection}
        audit = self._platform.audit
        audit.record(peer.tenant, PRINCIPAL, Action.FEED_OPENED, Outcome.ALLOWED, **marks)
        stamp = f"{int(time.time()):x}-{connection}"
        segments = Segments(self._platform.home, peer, stamp, self._limits, time.monotonic)
        self._devices[peer] += 1
        reason = "stopped"
        try:
            reason = await _receive(reader, segments)
        finally:
            self._devices[peer] -= 1
            _close(audit, peer, segments, reason, marks)

    def _admit(self, peer: Peer) -> str | None:
        """Give a registered device's pseudonym; None where it was refused, which is audited.

        Raises: RefusedError where there is no such tenant, and so no trail of its own.
        """
        if peer.tenant not in self._platform.access.tenants():
            raise RefusedError("a certificate of an unknown tenant")
        devices = self._platform.devices(peer.tenant)
        ref = devices.ref(peer.device)
        reason = None if devices.listing([ref]) else "a device that is not registered"
        if self._devices[peer] >= MOST_OF_A_DEVICE:
            reason = "too many connections of the device"
        if reason is not None:
            marks = {"device": ref, "reason": reason}
            self._platform.audit.record(peer.tenant, PRINCIPAL, Action.FEED_OPENED, Outcome.REFUSED, **marks)
            return None
        return ref


async def _receive(reader: asyncio.StreamReader, segments: Segments) -> str:
    """Take what comes until it ends; give why it ended.

    Silence is no reason to end: a quiet device sends nothing for hours. Only its open file is closed.
    """
    try:
        while True:
            try:
                async with asyncio.timeout(segments.seconds_left()):
                    content = await reader.read(_READ_BYTES)
            except TimeoutError:
                segments.close_file()
                continue
            if not content:
                return "ended"
            segments.take(content)
            if segments.capture.failure is not None:
                return segments.capture.failure
    except (ConnectionError, ssl.SSLError):
        return "connection lost"
    except OSError as error:
        return f"files could not be written: {type(error).__name__}"


def _close(audit: AuditTrail, peer: Peer, segments: Segments, reason: str, marks: dict[str, str]) -> None:
    """Close a connection's last file, and write down what came."""
    counts = {"packets": segments.capture.packets, "bytes": segments.bytes, "files": segments.count}
    try:
        segments.finish()
        counts.update(bytes=segments.bytes, files=segments.count)
    except OSError as error:
        reason = f"files could not be written: {type(error).__name__}"
    outcome = Outcome.DONE if reason in ("ended", "stopped") else Outcome.FAILED
    audit.record(peer.tenant, PRINCIPAL, Action.FEED_CLOSED, outcome, reason=reason, **counts, **marks)


@click.command()
@click.option("--home", type=click.Path(path_type=Path), help="The home; LOCKHOUSE_HOME without it.")
@click.option("--listen", required=True, help="[HOST:]PORT.")
@click.option("--feed-device", help="Whose plain connections are.")
@click.option("--feed-tenant", default=DEFAULT_TENANT, help="Whose device that is.")
def feed(home: Path | None, listen: str, feed_device: str | None, feed_tenant: str) -> None:
    """Run the live feed by itself; `lockhouse up --listen-pcap` starts it with everything else."""
    platform = Platform(load_settings(home))
    try:
        planned = plan_listening(platform.settings, listen, feed_device, feed_tenant)
        with feeding(platform.home):
            asyncio.run(_run_until_signal(Feed(platform, planned)))
    except LockhouseError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.UsageError(f"{planned.address}: {error.strerror}") from None


async def _run_until_signal(served: Feed) -> None:
    stop = asyncio.Event()
    for one in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(one, stop.set)
    await served.run(stop, lambda host, port: note(f"feed: listening on {host} port {port}"))


if __name__ == "__main__":
    feed()
