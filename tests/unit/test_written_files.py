"""A file takes its name once it is whole; what a failure or a killed process leaves is no file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from blake3 import blake3

from stores.home import _READ_BYTES, blake3_of, written_whole


def test_a_file_is_there_once_it_is_whole_and_its_owners_alone(tmp_path: Path):
    path = tmp_path / "new folder" / "file.json"
    with written_whole(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "file.json"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match="halfway"), written_whole(path) as file:
        file.write(b"half")
        raise ValueError("halfway")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_makes_room(tmp_path: Path):
    path = tmp_path / "file.json"
    (tmp_path / ".file.json.part").write_bytes(b"left by somebody who was killed, and longer")
    with written_whole(path) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        (0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
        (1, "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"),
        (1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"),
        (102_400, "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085"),
    ],
)
def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path, size: int, digest: str):
    """Source: test_vectors.json of BLAKE3's authors."""
    path = tmp_path / "file"
    path.write_bytes(bytes(at % 251 for at in range(size)))
    assert blake3_of(path).hex() == digest


@pytest.mark.parametrize("size", [_READ_BYTES - 1, _READ_BYTES, _READ_BYTES + 1, 3 * _READ_BYTES])
def test_a_digest_is_that_of_the_whole_file(tmp_path: Path, size: int):
    path = tmp_path / "file"
    path.write_bytes(content := bytes(at % 251 for at in range(size)))
    assert blake3_of(path) == blake3(content).digest()
