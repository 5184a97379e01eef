"""Adding a field is one edit: the contract. A home with data goes on with the new column."""

from pathlib import Path

import polars as pl
import pytest
import yaml

from orchestration.resources import Platform
from stores.contracts import FOLDER
from stores.settings import load_settings
from transforms.errors import TableError
from transforms.pii.contracts import Contract, compile_contract
from transforms.tables import masked_table

TEXT = (FOLDER / "logins.yaml").read_text()
RECORD = (
    '{"user_id":"424cdd21-063a-43a7-b91b-7ca1a833afae","ip":"1.2.3.4","device_id":"d","device_type":"ios",'
    '"app_version":"1.2","email":"jo@example.org","attempts":%d}'
)


def contract(*fields: dict[str, object], without: str = "") -> Contract:
    document = yaml.safe_load(TEXT)
    table = document["schema"][0]
    table["properties"] = [one for one in table["properties"] if one["name"] != without] + list(fields)
    return compile_contract("contracts/logins.yaml", yaml.safe_dump(document))


EMAIL = {
    "name": "email",
    "logicalType": "string",
    "logicalTypeOptions": {"format": "email"},
    "required": True,
    "description": "How to reach the person.",
    "customProperties": [
        {
            "property": "pii",
            "value": {
                "category": "user.contact.email",
                "domain": "email",
                "outputs": ["token", {"truncate": "domain"}],
            },
        }
    ],
}
ATTEMPTS = {
    "name": "attempts",
    "logicalType": "integer",
    "classification": "internal",
    "description": "How often.",
}


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    platform = Platform(load_settings(tmp_path / "home"))
    platform.create_home("tester")
    return platform


def take(platform: Platform, number: int, declared: Contract) -> None:
    content = (RECORD % number).encode()
    for batch in platform.landing.land("logins", "default", "x", content):
        platform.intake.seal_batch(batch.id, declared)
        platform.intake.mask_batch(batch.id, declared)
        platform.intake.finish_batch(batch.id)


def masked(platform: Platform) -> pl.DataFrame:
    with platform.tables.reading("default", "masked.logins") as table:
        return table.sort("received_at").collect()


def test_a_new_field_becomes_a_column_of_the_same_table(platform: Platform):
    take(platform, 1, contract())
    take(platform, 2, contract(EMAIL, ATTEMPTS))
    rows = masked(platform)
    assert rows["attempts"].to_list() == [None, 2]
    assert rows["email_domain"].to_list() == [None, "example.org"]
    assert rows["email_token"].is_not_null().to_list() == [False, True]
    # The old contract had sealed the fields as undeclared ones.
    assert rows["unknown_count"].to_list() == [1, 0]


def test_a_field_that_is_gone_leaves_null_behind(platform: Platform):
    take(platform, 1, contract(EMAIL, ATTEMPTS))
    take(platform, 2, contract(EMAIL))
    assert masked(platform)["attempts"].to_list() == [1, None]


def test_a_new_column_is_made_for_old_rows_by_masking_the_hour_again(platform: Platform):
    take(platform, 1, contract())
    declared = contract(EMAIL, ATTEMPTS)
    start = masked(platform)["received_hour"][0]
    from stores.tables import Commit

    assert platform.intake.remask("default", declared, start, Commit("again", 1, {})) == 1
    assert masked(platform)["attempts"].to_list() == [1]


def test_another_type_is_refused_by_name(platform: Platform):
    take(platform, 1, contract(EMAIL, ATTEMPTS))
    with pytest.raises(TableError, match=r"masked.logins: columns \['attempts'\] have another type"):
        take(platform, 2, contract(EMAIL, {**ATTEMPTS, "logicalType": "number"}))


def test_statistics_never_learn_of_a_new_personal_column(platform: Platform):
    take(platform, 1, contract())
    take(platform, 2, contract(EMAIL, ATTEMPTS))
    log = platform.tables.path("default", "masked.logins") / "_delta_log"
    text = "".join(path.read_text() for path in log.glob("*.json"))
    assert '"minValues":{' in text.replace("\\", "")
    assert "example.org" not in text
    assert masked_table(contract(EMAIL)).statistics == masked_table(contract()).statistics
