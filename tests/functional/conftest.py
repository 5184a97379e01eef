"""What the tests of the command line share."""

from pathlib import Path

import pytest

from command_line import Call


@pytest.fixture(scope="session")
def call(lockhouse: Call) -> Call:
    """The command line in this process."""
    return lockhouse


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small file of logins, in a folder of its own."""
    path = tmp_path / "in" / "events.json"
    path.parent.mkdir()
    path.write_text('{"user_id": "nobody"}\n')
    return path
