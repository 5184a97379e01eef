"""A file takes its name once it is whole; what a failure or a killed process leaves is no file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from stores.home import written_whole


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
