"""What a pcapng file has beside its packets: sealed, in no export, given to whom it belongs, gone with them."""

import base64
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from erasure_lake import GONE, OTHER, Lake
from transforms.capture.packets import Packets
from transforms.capture.reading import read_capture
from transforms.errors import DecryptionError

HOUR = datetime(2026, 11, 21, 7, tzinfo=UTC)
SECRETS = b"CLIENT_RANDOM swordfish-of-the-session"
NAMES, COMMENT = b"printer.attic.example", b"seen from the attic"
FRAME = bytes.fromhex("02005e1000ff 02005e1000fe 0800") + b"of the device" * 4


def block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def packet(at: datetime, comment: bytes = b"") -> bytes:
    micros = int(at.timestamp()) * 1_000_000
    fields = struct.pack("<IIIII", 0, micros >> 32, micros & 0xFFFFFFFF, len(FRAME), len(FRAME))
    options = struct.pack("<HH", 1, len(comment)) + padded(comment) + bytes(4) if comment else b""
    return block(6, fields + padded(FRAME) + options)


def pcapng() -> bytes:
    """Two packets, one with a comment, between secrets of a TLS session and a name of an address."""
    name = bytes([10, 0, 0, 7]) + NAMES + b"\0"
    return (
        block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
        + block(1, struct.pack("<HHI", 1, 0, 262_144))
        + block(10, struct.pack("<II", 0x544C534B, len(SECRETS)) + padded(SECRETS))
        + packet(HOUR + timedelta(seconds=1), COMMENT)
        + block(4, struct.pack("<HH", 1, len(name)) + padded(name) + bytes(4))
        + packet(HOUR + timedelta(seconds=2))
    )


@pytest.fixture
def owned(lake: Lake) -> Lake:
    """The file, of a device that somebody has had since an hour before, and somebody else an hour after."""
    devices = lake.platform.devices("default")
    devices.own("printer-1", GONE, HOUR - timedelta(hours=1))
    devices.own("printer-1", OTHER, HOUR + timedelta(hours=1))
    lake.deliver(pcapng(), "captures", "printer-1")
    return lake


def exported(lake: Lake, wanted: str) -> bytes:
    exports = lake.platform.capture_exports("default")
    device = lake.platform.devices("default").find("printer-1")
    with exports.planned(device, HOUR, HOUR + timedelta(hours=1), wanted) as plan:
        return b"".join(exports.stream(plan))


def packets_in(content: bytes) -> list[bytes]:
    parts = [part for part in read_capture(content) if isinstance(part, Packets)]
    return [
        part.records[begin + 16 : end].tobytes()
        for part in parts
        for begin, end in zip(part.starts, part.starts[1:], strict=False)
    ]


def beside(lake: Lake, person: str) -> list[dict[str, Any]]:
    access = lake.platform.subject_access("default")
    return access.gather(lake.find(person), lambda text: text)["beside packets"]


def test_what_is_beside_packets_is_sealed_and_in_no_export(owned: Lake):
    (file,) = owned.rows("raw.capture_files").iter_rows(named=True)
    assert (file["packets"], file["sides"], file["status"]) == (2, 5, "complete")
    whole = b"".join(path.read_bytes() for path in (owned.home / "lake").rglob("*") if path.is_file())
    for wanted in ("pcap", "pcapng"):
        content = exported(owned, wanted)
        assert packets_in(content) == [FRAME, FRAME]
        for secret in (SECRETS, NAMES, COMMENT):
            assert secret not in content
            assert secret not in whole and secret not in file["side_blocks"]


def test_it_is_given_to_who_had_the_device_then_but_for_secrets(owned: Lake):
    given = {one["kind"]: one for one in beside(owned, GONE)}
    assert set(given) == {"section", "interface", "secrets", "packet options", "names"}
    assert NAMES in base64.b64decode(given["names"]["content"])
    assert COMMENT in base64.b64decode(given["packet options"]["content"])
    assert given["secrets"]["content"] is None
    assert given["secrets"]["bytes"] == 12 + 8 + len(SECRETS) + -len(SECRETS) % 4
    assert pcapng()[given["names"]["offset"] :].startswith(base64.b64decode(given["names"]["content"]))
    assert beside(owned, OTHER) == []


def test_packets_of_a_person_are_of_the_time_in_which_the_device_was_theirs(owned: Lake):
    owned.deliver(pcapng().replace(b"attic", b"cella"), "captures", "printer-1")
    access = owned.platform.subject_access("default")
    # Each is to be taken before the next.
    taken = [(one, b"".join(one.content)) for one in access.packets(owned.find(GONE))]
    [(mine, content)] = taken
    assert (mine.device, mine.packets) == ("printer-1", 4)
    assert (mine.since, mine.until) == (HOUR, HOUR + timedelta(hours=1))
    assert packets_in(content) == [FRAME] * 4
    assert list(access.packets(owned.find(OTHER))) == []


def test_it_is_gone_with_who_had_the_device(owned: Lake):
    (sealed,) = owned.rows("raw.capture_files")["side_blocks"]
    ref = owned.find(GONE).stretches[0].ref
    key = owned.platform.subject_keys("default").key(ref)
    owned.erase(GONE)
    assert beside(owned, OTHER) == []
    assert owned.rows("raw.capture_files")["side_blocks"].drop_nulls().is_empty()
    assert owned.platform.subject_keys("default").existing([ref]) == {}
    with pytest.raises(DecryptionError):
        sealer = owned.platform.intake.sealer("default")
        sealer.open_for_subjects("raw.capture_files", "side_blocks", [sealed], [bytes(len(key))], [bytes(16)])
