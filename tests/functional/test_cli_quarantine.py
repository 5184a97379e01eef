# ruff: noqa: S608 - queries of our own, against a home made for the test
"""Quarantine by command line: listed, shown, retried and dropped."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from command_line import QUARANTINED, UUID, WRONG_USAGE, Call, accepted, sql

# --- Quarantine


def test_quarantine_lists_reasons_without_content(call: Call, made_home: Any):
    called = call("quarantine", "list", "--json", home=made_home.home)
    (entry,) = called.json["entries"]
    assert {"id", "source", "reason", "received_at"} <= set(entry)
    assert entry["reason"] == "column user_id: required, but absent"
    assert (entry["source"], entry["record_number"]) == ("logins", 12)
    assert "oops" not in called.out
    shown = call("quarantine", "list", "--source", "logins", home=made_home.home)
    assert entry["id"] in shown.out


def test_quarantine_shows_an_entry_byte_for_byte(call: Call, copied_home: Any, tmp_path: Path):
    home = copied_home.home
    entry = call("quarantine", "list", "--json", home=home).json["entries"][0]["id"]
    shown = call("quarantine", "show", entry, "--json", home=home).json
    assert json.loads(shown["content"]) == copied_home.records[12]
    assert shown["file_name"] == "sample_data.json.gz"
    assert len(shown["content"].encode()) == shown["size_bytes"]
    out = tmp_path / "entry"
    called = call("quarantine", "show", entry, "-o", out, home=home)
    assert "in clear" in called.err
    assert out.read_text() == shown["content"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "oops_wrong_msg_type" in call("quarantine", "show", entry, home=home).out


def mended(record: dict[str, Any]) -> bool:
    return "user_id" in record


def test_quarantine_retries_what_fits_now_under_the_same_id(
    call: Call, copied_home: Any, monkeypatch: pytest.MonkeyPatch
):
    """The contract is mended between: here, what it was held against was wrong."""
    import lockhouse.retry

    home = copied_home.home
    entry = call("quarantine", "list", "--json", home=home).json["entries"][0]["id"]
    record = {**accepted(copied_home)[0], "ip": "198.51.100.99"}
    original = lockhouse.retry._message

    def repaired(store: Any, one: Any) -> bytes | None:
        assert original(store, one) is not None
        return json.dumps({"MessageId": one.id, "Body": json.dumps(record)}).encode()

    monkeypatch.setattr(lockhouse.retry, "_message", repaired)
    called = call("quarantine", "retry", entry, "--json", home=home)
    assert called.json == {"retried": 1, "accepted": 1, "quarantined": 0}
    assert call("quarantine", "list", "--json", home=home).json == {"entries": []}
    assert sql(call, home, f"select count(*) as n from masked.logins where event_id = '{entry}'") == [{"n": 1}]


def test_quarantine_retries_what_still_does_not_fit(call: Call, copied_home: Any):
    home = copied_home.home
    called = call("quarantine", "retry", "--all", "--json", home=home)
    assert called.json == {"retried": 1, "accepted": 0, "quarantined": 1}
    (entry,) = call("quarantine", "list", "--json", home=home).json["entries"]
    shown = call("quarantine", "show", entry["id"], "--json", home=home).json
    assert json.loads(shown["content"]) == copied_home.records[12]


def test_what_cannot_be_retried_stays(call: Call, copied_home: Any, tmp_path: Path):
    home = copied_home.home
    damaged = tmp_path / "damaged.gz"
    damaged.write_bytes(b"\x1f\x8b\x08\x00" + bytes(range(128, 255)))
    assert call("ingest", "logins", damaged, home=home).code == QUARANTINED
    assert call("quarantine", "retry", "--all", "--json", home=home).json["retried"] == 1
    entries = call("quarantine", "list", "--json", home=home).json["entries"]
    (kept,) = [one["id"] for one in entries if "gzip" in one["reason"]]
    out = tmp_path / "again.gz"
    call("quarantine", "show", kept, "-o", out, home=home)
    assert out.read_bytes() == damaged.read_bytes()


def test_a_file_whose_name_is_no_text_can_be_quarantined(call: Call, copied_home: Any, tmp_path: Path):
    home = copied_home.home
    path = Path(str(tmp_path)) / b"caf\xe9.json".decode(errors="surrogateescape")
    path.write_text('{"nothing": "right"}\n')
    called = call("ingest", "logins", path, "--json", home=home)
    assert called.code == QUARANTINED, called.err
    entry = call("quarantine", "list", "--json", home=home).json["entries"][0]["id"]
    assert call("quarantine", "show", entry, "--json", home=home).json["file_name"] == "caf\\xe9.json"


def test_quarantine_drops_entries_for_good(call: Call, copied_home: Any):
    home = copied_home.home
    entry = call("quarantine", "list", "--json", home=home).json["entries"][0]["id"]
    assert call("quarantine", "drop", UUID, "--json", home=home).json == {"dropped": 0}
    assert call("quarantine", "drop", entry, "--json", home=home).json == {"dropped": 1}
    assert call("quarantine", "list", "--json", home=home).json == {"entries": []}
    assert call("quarantine", "show", entry, home=home).code == WRONG_USAGE
    assert "Nothing is in quarantine" in call("quarantine", "list", home=home).err
