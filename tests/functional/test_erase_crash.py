"""Kill -9 while an erasure runs: whoever comes next completes it, and the result is the same.

A child imports everything, says that it is ready, and erases when it is told to; it is killed some
milliseconds later. ERASE_ROUNDS sets how often.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from homes import copy_home
from orchestration.resources import Platform
from stores.contracts import load_contract
from stores.erasure_requests import ErasureState
from stores.settings import load_settings, local_user
from stores.verification import verify_certificate

ROUNDS = int(os.environ.get("ERASE_ROUNDS", "2"))
SEED = 20261121
PEOPLE = [f"5082b1ae-6523-4e3b-a1d8-9750b4407e{number:02x}" for number in range(20)]
GONE = PEOPLE[3]

CHILD = """
import sys
from pathlib import Path
from orchestration.resources import Platform
from stores.settings import load_settings
import deltalake, pyarrow.parquet, stores.dbt_delta, stores.leaks
platform = Platform(load_settings(Path(sys.argv[1])))
subject = platform.data_subjects("default").find(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
request = platform.erasure_requests("default").add([subject], ["a digest"], "tester", "a test")
print(request.id, flush=True)
platform.erasing("default").complete(request)
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with several deliveries of logins."""
    folder = tmp_path_factory.mktemp("erase")
    platform = Platform(load_settings(folder / "home"))
    platform.create_home(local_user())
    contract = load_contract("logins")
    for part in range(6):
        file = folder / "in.ndjson"
        records = [
            {
                "user_id": person,
                "ip": f"192.0.2.{part + 1}",
                "device_id": f"d-{at}",
                "device_type": "ios",
                "app_version": "1.2.3",
            }
            for at, person in enumerate(PEOPLE * 10)
        ]
        file.write_text("".join(json.dumps({**one, "n": part}) + "\n" for one in records))
        for batch in platform.landing.copy_in("logins", "default", [file]):
            platform.intake.seal_batch(batch.id, contract)
            platform.intake.mask_batch(batch.id, contract)
            platform.intake.finish_batch(batch.id)
    return folder / "home"


def run_child(home: Path, seconds: float | None) -> tuple[bool, float]:
    """Let a child erase, killed after some seconds; give whether it got to its end, and how long it ran."""
    command = [sys.executable, "-c", CHILD, str(home), GONE]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.stdin.write("go\n")
    child.stdin.flush()
    # Before the request is on disk there is nothing to be completed.
    assert child.stdout.readline()
    began = time.monotonic()
    if seconds is not None:
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
    rest = child.stdout.read()
    ran = time.monotonic() - began
    child.wait()
    child.stdin.close()
    child.stdout.close()
    return "done" in rest, ran


def state_of(home: Path) -> dict[str, Any]:
    """What an erasure leaves: the rows of each table, the certificate's counts, the scan."""
    platform = Platform(load_settings(home))
    (request,) = platform.erasure_requests("default").listing()
    assert request.state is ErasureState.CERTIFIED
    verdict = verify_certificate(platform.home, home / str(request.certificate))
    assert verdict.problems == []
    tables = {info.key: info.rows for info in platform.tables.listing("default")}
    with platform.tables.reading("default", "masked.logins") as table:
        people = table.group_by("user_id_token").agg(pl.len()).collect()["len"].to_list()
    removed = {one["table"]: one["rows"] for one in request.progress["tables"]}
    return {"tables": tables, "people": people, "removed": removed, "scan": request.progress["scan"]["hits"]}


def test_an_erasure_that_was_killed_is_completed_with_the_same_result(
    pristine: Path, tmp_path: Path, lockhouse: Callable[..., Any]
):
    whole = copy_home(pristine, tmp_path / "whole")
    is_done, longest = run_child(whole, None)
    assert is_done
    wanted = state_of(whole)
    assert wanted["tables"]["masked.logins"] == 60 * (len(PEOPLE) - 1)
    assert wanted["people"] == [60] * (len(PEOPLE) - 1)
    dice = random.Random(SEED)  # noqa: S311 - moments in a test
    killed = 0
    for number in range(ROUNDS):
        home = copy_home(pristine, tmp_path / f"round-{number}")
        killed += not run_child(home, dice.uniform(0, longest))[0]
        done = lockhouse("subject", "status", "--json", home=home)
        assert done.code == 0, done.err
        assert [one["state"] for one in done.json["requests"]] == ["certified"]
        assert state_of(home) == wanted
    assert killed > 0
