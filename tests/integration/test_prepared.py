"""Between sealing and masking: what is ready is committed as it is, and once, whatever comes between."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from erasure_lake import CONTRACT, HOUR, PEOPLE, Lake, login, packets
from stores.captures import CaptureIntake
from stores.intake import Intake
from stores.tables import Commit

LOGINS = "".join(json.dumps(login(one, at)) + "\n" for at, one in enumerate(PEOPLE)).encode()
CASES = [("logins", LOGINS, "masked.logins", 8), ("captures", packets(HOUR, 30), "masked.packets", 30)]

pytestmark = pytest.mark.parametrize(("source", "content", "table", "rows"), CASES, ids=["logins", "captures"])


def seal(lake: Lake, source: str, content: bytes) -> str:
    """Give the batch of a delivery that is sealed and not masked."""
    file = lake.folder / "late"
    file.write_bytes(content)
    (batch,) = lake.platform.landing.copy_in(source, "default", [file], "d-1" if source == "captures" else None)
    lake.seal(source, batch.id)
    return batch.id


def test_who_sealed_them_does_not_open_them_again(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, source: str, content: bytes, table: str, rows: int
):
    batch = seal(lake, source, content)
    monkeypatch.delattr(Intake, "_open_raw")
    monkeypatch.delattr(CaptureIntake, "_masked_again")
    lake.mask(source, batch)
    assert lake.rows(table).height == rows
    for intake in (lake.platform.intake, lake.platform.captures):
        assert intake._prepared._rows == {}


def test_files_that_are_gone_are_made_again(lake: Lake, source: str, content: bytes, table: str, rows: int):
    batch = seal(lake, source, content)
    (file,) = lake.platform.tables.path("default", table).rglob("part-*.parquet")
    file.unlink()
    lake.mask(source, batch)
    assert lake.rows(table).height == rows


def test_another_process_may_take_over(lake: Lake, source: str, content: bytes, table: str, rows: int):
    batch = seal(lake, source, content)
    for name in ("intake", "captures"):
        lake.platform.__dict__.pop(name, None)
    lake.mask(source, batch)
    assert lake.rows(table).height == rows


@pytest.mark.parametrize("is_same_process", [True, False])
def test_an_hour_that_is_masked_again_in_between_has_each_row_once(
    lake: Lake, is_same_process: bool, source: str, content: bytes, table: str, rows: int
):
    batch = seal(lake, source, content)
    received_at = datetime.fromisoformat(lake.platform.ledger.named([batch])[0]["received_at"])
    again, hour = Commit("again", 1, {}), received_at.replace(minute=0, second=0, microsecond=0)
    if source == "captures":
        assert lake.platform.captures.remask("default", hour, again) == rows
    else:
        assert lake.platform.intake.remask("default", CONTRACT, hour, again) == rows
    if not is_same_process:
        lake.platform.__dict__.pop(source if source == "captures" else "intake")
    lake.mask(source, batch)
    assert lake.rows(table).height == rows
