"""The trail as others read it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from transforms.audit import Action, Entry
from transforms.ocsf import describe_entry

Call = Callable[..., Any]


def test_the_trail_is_written_as_ocsf_and_as_delta(home: Path, lockhouse: Call, tmp_path: Path):
    assert lockhouse("init", home=home).code == 0
    for _ in range(2):
        told = lockhouse("audit", "export", "-o", tmp_path / "trail.jsonl", "--json", home=home).json
        events = [json.loads(line) for line in (tmp_path / "trail.jsonl").read_text().splitlines()]
        assert told["rows"] == len(events) > 3
    assert [one["metadata"]["sequence"] for one in events] == list(range(1, len(events) + 1))
    assert {one["type_uid"] - one["activity_id"] for one in events} == {600300}
    assert (tmp_path / "trail.jsonl").stat().st_mode & 0o077 == 0
    for _ in range(2):
        told = lockhouse(
            "audit", "export", "--format", "delta", "-o", tmp_path / "trail", "--json", home=home
        ).json
        table = DeltaTable(tmp_path / "trail").to_pyarrow_table()
        assert told["rows"] == table.num_rows
    # What was exported last is the chain of what was exported first, with more behind it.
    assert table["hash"].to_pylist()[: len(events)] == [one["unmapped"]["hash"] for one in events]


def test_whoever_may_not_read_the_trail_exports_none_of_it(
    home: Path, lockhouse: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lockhouse("init", home=home)
    monkeypatch.setattr("stores.settings.local_user", lambda: "eve")
    assert lockhouse("audit", "export", "-o", tmp_path / "trail.jsonl", home=home).code == 3
    assert not (tmp_path / "trail.jsonl").exists()


def test_every_action_is_some_activity():
    for action in Action:
        entry = Entry("default", 1, "2026-11-21T07:00:00+00:00", "iris", str(action), "done", "{}", "0", "1")
        event = describe_entry(entry)
        assert event["type_uid"] == 600300 + event["activity_id"]
        assert event["time"] == 1795244400000
