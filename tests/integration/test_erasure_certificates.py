"""What an erasure proves: a copy gives nothing back, and a certificate that holds finds every change."""

import json
import os
import random
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from erasure_lake import GONE, OTHER, PEOPLE, Lake, login
from homes import copy_home
from stores.erasure_requests import ErasureState
from stores.verification import verify_certificate
from transforms.errors import DecryptionError, ErasedSubjectError

# --- What a copy can still do


def test_a_backup_without_keys_gives_nothing_back(full: Lake):
    subject = full.find(GONE)
    raw = full.rows("raw.logins").filter(pl.col("subject_ref") == subject.ref)
    blocks = full.rows("raw.capture_blocks").filter(pl.col("subject_ref") == subject.stretches[0].ref)
    assert (raw.height, blocks.height) == (4, 2)
    full.erase(GONE)
    keys = full.platform.subject_keys("default")
    assert keys.existing(list(subject.refs)) == {}
    other = full.find(OTHER)
    sealer = full.platform.intake.sealer("default")
    for envelope in [*raw["record"], *blocks["records"]]:
        with pytest.raises(DecryptionError):
            sealer.open_for_subjects("raw.logins", "record", [envelope], [keys.key(other.ref)], [bytes(16)])
    # No byte of the key is left where it lay, in the table's pages or its log.
    with pytest.raises(ErasedSubjectError):
        keys.key(subject.ref)


def test_the_key_is_destroyed_before_anything_else(full: Lake):
    steps = full.erase(GONE).progress["at"]
    began, destroyed = (datetime.fromisoformat(steps[name]) for name in ("requested", "key_destroyed"))
    assert began <= destroyed
    assert list(steps) == [str(one) for one in ErasureState]


def test_a_finished_request_holds_nobody(full: Lake):
    request = full.erase(GONE)
    kept = full.platform.erasure_requests("default").find(request.id)
    assert kept.work is None
    assert full.hits(full.find(GONE)) == []


# --- The certificate


@pytest.fixture
def certified(full: Lake) -> tuple[Lake, Path]:
    return full, full.certificate(full.erase(GONE))


def copied(lake: Lake, certificate: Path, folder: Path) -> tuple[Any, Path]:
    from stores.home import Home

    home = Home(copy_home(lake.home, folder))
    return home, home.root / certificate.relative_to(lake.home)


def test_the_certificate_holds_on_a_copy_without_keys(certified: tuple[Lake, Path], tmp_path: Path):
    lake, certificate = certified
    home, path = copied(lake, certificate, tmp_path / "copy")
    assert verify_certificate(home, path).keys == "2 tombstones"
    shutil.rmtree(home.keys)
    verdict = verify_certificate(home, path)
    assert (verdict.problems, verdict.keys) == ([], "not in this copy")
    assert verdict.files > 20


def test_any_changed_byte_of_the_certificate_is_found(certified: tuple[Lake, Path], tmp_path: Path):
    lake, certificate = certified
    content = certificate.read_bytes()
    dice = random.Random(3)  # noqa: S311 - places in a test
    for at in [0, len(content) - 1, *(dice.randrange(len(content)) for _ in range(20))]:
        changed = tmp_path / "changed.json"
        changed.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert not verify_certificate(lake.platform.home, changed).ok, at
    for other in (content + b"\n", content.replace(b'"rows": 4', b'"rows": 5'), b"{}"):
        changed.write_bytes(other)
        assert not verify_certificate(lake.platform.home, changed).ok


def test_any_changed_file_of_the_tables_is_found(certified: tuple[Lake, Path], tmp_path: Path):
    lake, certificate = certified
    home, path = copied(lake, certificate, tmp_path / "copy")
    files = [
        one for one in sorted(home.lake.rglob("*")) if one.is_file() and one.suffix in (".parquet", ".json")
    ]
    assert len(files) > 15
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[:-3] + bytes([content[-3] ^ 4]) + content[-2:])
        assert not verify_certificate(home, path).ok, file
        file.write_bytes(content)
        assert len(content) == file.stat().st_size
    assert verify_certificate(home, path).ok
    next(home.lake.rglob("part-*.parquet")).unlink()
    assert not verify_certificate(home, path).ok


def test_a_pseudonym_that_comes_back_is_found(certified: tuple[Lake, Path]):
    lake, certificate = certified
    subject, home = lake.find(GONE), lake.platform.home
    stray = home.dbt / "stray"
    for content in (subject.tokens[0], f"x{subject.heads[0]}y", subject.ref.hex()):
        stray.write_text(content)
        verdict = verify_certificate(home, certificate)
        assert "stray" in verdict.problems[0]
    stray.unlink()
    frame = pl.DataFrame({"subject_ref": [subject.ref]})
    frame.write_parquet(home.lake / "default" / "raw" / "stray.parquet")
    assert any("stray.parquet" in one for one in verify_certificate(home, certificate).problems)


def test_a_changed_trail_another_key_and_another_home_are_found(certified: tuple[Lake, Path], tmp_path: Path):
    lake, certificate = certified
    home, path = copied(lake, certificate, tmp_path / "copy")
    assert not verify_certificate(home, path, "00" * 32).ok
    assert not verify_certificate(home, path, "no key").ok
    other = Lake(tmp_path / "other")
    other.log_in(login(OTHER, 1))
    other.erase(OTHER)
    assert not verify_certificate(other.platform.home, path).ok
    (home.checkpoints / "default.jsonl").unlink()
    assert not verify_certificate(home, path).ok
    os.remove(home.database)  # noqa: PTH107 - one call for one file
    assert any("trail" in one for one in verify_certificate(home, path).problems)


def test_the_certificate_still_holds_after_later_work(certified: tuple[Lake, Path]):
    lake, certificate = certified
    for at in range(7):
        lake.log_in(login(OTHER, at), login(PEOPLE[3], at))
    second = lake.erase(PEOPLE[3])
    for path in (certificate, lake.certificate(second)):
        assert verify_certificate(lake.platform.home, path).problems == []


def test_certificates_name_nobody(certified: tuple[Lake, Path]):
    lake, certificate = certified
    text = certificate.read_text()
    subject = lake.find(GONE)
    for secret in (GONE, subject.heads[0], subject.ref.hex(), "phone-1"):
        assert secret not in text
    body = json.loads(text)["body"]
    assert {one["table"] for one in body["tables"]} >= {"raw.logins", "masked.logins", "raw.capture_blocks"}
    assert body["scan"]["hits"] == 0
    assert datetime.fromisoformat(body["horizon"]) > datetime.fromisoformat(body["issued_at"])
    assert body["epochs"] == [1]
