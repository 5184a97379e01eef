"""When a dropped file is taken: its size held, its name is not that of a part."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stores.home import Home
from stores.landing import Landing

HOLD_S = 0.3


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    return Landing(Home(tmp_path), 1 << 20, lambda: datetime.now(UTC))


def drop(landing: Landing, name: str, content: bytes = b"{}\n") -> Path:
    path = landing.drop_folder("logins", "acme") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_one_look_takes_nothing_and_the_second_takes_it(landing: Landing):
    path = drop(landing, "a.json")
    assert landing.settled(["logins"]) == {}
    assert landing.settled(["logins"]) == {("logins", "acme"): [path]}


def test_a_second_look_in_the_same_tick_takes_what_held_its_size(landing: Landing):
    path = drop(landing, "a.json")
    assert landing.settled(["logins"], HOLD_S) == {("logins", "acme"): [path]}


def test_a_file_that_grows_is_left(landing: Landing, monkeypatch: pytest.MonkeyPatch):
    path = drop(landing, "a.json")
    with monkeypatch.context() as patch:
        patch.setattr("stores.landing.time.sleep", lambda _: path.write_bytes(b"{}\n" * 2))
        assert landing.settled(["logins"], HOLD_S) == {}
    assert landing.settled(["logins"], HOLD_S) == {("logins", "acme"): [path]}


def test_parts_hidden_files_and_links_are_left(landing: Landing, tmp_path: Path):
    drop(landing, "a.json.part")
    drop(landing, ".hidden")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"{}\n")
    (landing.drop_folder("logins", "acme") / "link").symlink_to(elsewhere)
    assert landing.settled(["logins"], HOLD_S) == {}


@pytest.mark.parametrize("is_large", [False, True])
def test_discarded_files_are_gone_and_held_by_nobody(landing: Landing, monkeypatch, is_large: bool):
    monkeypatch.setattr("stores.landing._LARGE_BYTES", 1 if is_large else 1 << 20)
    (batch,) = landing.land("logins", "acme", "a.ndjson", b"{}" * 1000)
    ((_, path, _),) = batch.files()
    before = set(threading.enumerate())
    landing.discard_files(batch)
    assert not path.exists() and batch.files() == []
    assert batch.folder.exists()
    for thread in set(threading.enumerate()) - before:
        thread.join()
    held = [str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    assert not [name for name in held if name.startswith(str(path))]
    landing.discard_files(batch)


def test_a_batch_whose_folder_was_half_removed_is_recovered(landing: Landing, monkeypatch: pytest.MonkeyPatch):
    """A process may be killed while it removes the folder: the manifest gone, the lock's file still there."""
    path = drop(landing, "one")
    (batch,) = landing.claim("logins", "default", [path])
    landing.discard_files(batch)

    def killed(folder: Path, **_: bool) -> None:
        (folder / "manifest.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("stores.landing.shutil.rmtree", killed)
        landing.close(batch)
    assert landing.open_batches() == []
    assert landing.recover() == 1
    assert list(batch.folder.parent.iterdir()) == []
    landing.close(batch)  # done with, however often
