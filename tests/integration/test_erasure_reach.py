"""No place that could hold a data subject's data is beyond an erasure.

A new folder of the home, a new application table or a new database elsewhere fails here until somebody
has said what an erasure does about it: add it to the plan or to `Platform.copies`, then to these lists.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestration.resources import Platform
from stores.database import METADATA
from stores.home import Home
from stores.settings import Settings, load_settings

PLAN = "the erasure plan"
SCANNED = "the scan at the end: nothing of a subject may be there"
OURS = "holds nothing that comes from a subject"
READABLE = "deliveries on their way, left out: a batch is waited for, and what comes late is refused"

# Every entry directly below the home.
FOLDERS = {
    "lake": PLAN,
    "exports": "the copy `kept exports`",
    "packages": "the copy `access packages`",
    "parts": "the copy `upload parts`",
    "landing": READABLE,
    "keys": "keys are destroyed first",
    "lockhouse.db": "the application tables below",
    "audit": SCANNED,
    "certificates": SCANNED,
    "dagster": SCANNED,
    "dbt": SCANNED,
    "tmp": SCANNED,
    "locks": OURS,
    "settings.toml": OURS,
    "validations": "the copy `validations`",
}
# What lies beside the zones of a tenant's lake.
BESIDE_ZONES = {"seen": "the copy `seen events`"}

DIGESTS = "keyed digests and counts, which stay and are scanned"
TABLES = {
    "tenants": OURS,
    "principals": OURS,
    "role_assignments": OURS,
    "users": OURS,
    "sessions": OURS,
    "clients": OURS,
    "client_secrets": OURS,
    "grants": OURS,
    "epochs": OURS,
    "batches": DIGESTS,
    "chunks": DIGESTS,
    "deliveries": DIGESTS,
    "idempotency": DIGESTS,
    "approvals": DIGESTS,
    "audit": DIGESTS,
    "audit_checkpoints": DIGESTS,
    "erasures": "whom it is about is sealed, and forgotten with the certificate",
    "access_requests": "the copy `access packages`",
    "upload_policies": OURS,
    "objects": DIGESTS,
    "outbox": "pseudonyms of devices; asks Dagster to forget",
    "devices": "the copy `device registry`",
    "ownerships": "the copy `device registry`",
    "device_addresses": "the copy `device registry`",
    "validation_requests": "the copy `validations`",
    "validation_keys": DIGESTS,
    "validation_events": "the copy `validations`",
    "validation_completions": "the copy `validations`",
    "device_groups": "pseudonyms of devices, which others may have had",
}

# Addresses of what lies outside the home.
ADDRESSES = {
    "postgres_url": "the copy `served.user_logins`",
    "database_url": "the application tables above, elsewhere",
    "queue_url": READABLE,
    "low_store_url": "the copy `validations`",
    "high_store_url": "the copy `validations`",
    "validation_queue_url": "sealed under the key that is destroyed first; what comes of it late is refused",
    "service_url": OURS,
    "service_spans_url": "five facts of a request, none of them of a person",
    "aws_endpoint_url": OURS,
}

MARTS = Path(__file__).parents[2] / "dbt_project/models/marts"


def test_every_folder_of_a_home_is_known(made_home: Any):
    found = {path.name.split("-shm")[0].split("-wal")[0] for path in made_home.home.iterdir()}
    assert found <= FOLDERS.keys(), "say what an erasure does about it"
    zones = {path.name for path in (made_home.home / "lake" / "default").iterdir() if path.is_dir()}
    assert zones <= {"raw", "masked", "curated", "vault", "quarantine", *BESIDE_ZONES}


def test_every_place_that_a_home_names_is_known():
    home = Home(Path("/home"))
    named = {name for name, one in vars(Home).items() if isinstance(one, property)}
    places = {getattr(home, name).relative_to("/home").parts[0] for name in named}
    assert places <= FOLDERS.keys(), "say what an erasure does about it"


def test_every_application_table_is_known():
    assert {table.name for table in METADATA.sorted_tables} == TABLES.keys(), (
        "say what an erasure does about it"
    )


def test_every_address_of_something_outside_is_known():
    found = {name for name in Settings.model_fields if name.endswith("_url")}
    assert found == ADDRESSES.keys(), "say what an erasure does about it"


def test_what_the_lists_call_a_copy_is_one(made_home: Any):
    settings = load_settings(made_home.home).model_copy(update={"postgres_url": "postgresql://nowhere/none"})
    names = {copy.name for copy in Platform(settings).copies("default")}
    said = {text for one in (FOLDERS, BESIDE_ZONES, TABLES, ADDRESSES) for text in one.values()}
    assert {text.split("`")[1] for text in said if text.startswith("the copy")} == names


@pytest.mark.parametrize("path", sorted(MARTS.rglob("*.yml")), ids=lambda path: path.stem)
def test_a_mart_names_its_subjects_or_counts_enough_of_them(path: Path):
    """A mart without a row for each subject is an aggregate, and its groups are checked against k."""
    (model,) = yaml.safe_load(path.read_text())["models"]
    columns = {one["name"]: one for one in model["columns"]}
    is_aggregate = "aggregate" in model["config"].get("tags", [])
    assert is_aggregate != any(name.endswith("_token") for name in columns)
    if is_aggregate:
        tested = [name for name, one in columns.items() if "reaches_k_threshold" in one.get("data_tests", [])]
        assert tested, "an aggregate needs a count of people with the test reaches_k_threshold"
