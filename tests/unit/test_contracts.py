"""Contracts: what compiles, and what is refused with file, line, what was met, what is allowed."""

from pathlib import Path

import pytest
import yaml

from stores.contracts import FOLDER, load_contract, sources
from transforms.errors import ContractError, UsageError
from transforms.pii.contracts import EVENT_TIME, RESERVED, Output, compile_contract
from transforms.tables import masked_table

GOOD = (FOLDER / "logins.yaml").read_text()


def refused(text: str) -> ContractError:
    with pytest.raises(ContractError) as caught:
        compile_contract("contracts/x.yaml", text)
    return caught.value


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def test_every_contract_of_the_deployment_compiles():
    assert "logins" in sources()
    for source in sources():
        assert load_contract(source).source == source


def test_logins_says_what_becomes_of_each_field():
    contract = load_contract("logins")
    assert contract.subject.name == "user_id"
    assert contract.domains == ("device", "ip", "user")
    assert contract.field("ip").outputs == (
        Output("token"),
        Output("truncate", "net24"),
        Output("truncate", "net48"),
    )
    assert contract.field("locale").outputs == (Output("keep"),)
    assert contract.retention_days == {"raw.logins": 30, "masked.logins": 365}


def test_logins_is_a_valid_document_of_the_standard():
    from open_data_contract_standard.model import OpenDataContractStandard

    document = OpenDataContractStandard.from_string(GOOD)
    assert document.kind == "DataContract"


def test_malformed_yaml_names_the_line():
    error = refused(GOOD + "\n  - : [broken\n")
    assert error.line is not None
    assert error.line >= len(GOOD.splitlines())
    assert "YAML" in error.allowed


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text\n"])
def test_what_is_no_mapping_is_refused(text):
    assert "ODCS" in refused(text).allowed


def test_unknown_strategy_names_line_met_and_allowed():
    text = changed("domain: device, outputs: [token]", "domain: device, outputs: [encrypt]")
    error = refused(text)
    assert error.met == "strategy `encrypt`"
    assert "token" in error.allowed
    field = line_of(text, "name: device_id")
    assert field < error.line <= field + 8
    assert str(error).startswith(f"contracts/x.yaml:{error.line}: met")


@pytest.mark.parametrize(
    ("old", "new", "met"),
    [
        ("{truncate: net24}", "{truncate: net9}", "`net9`"),
        ("category: user.device.ip_address", "category: user.shoe.size", "category `user.shoe.size`"),
        (
            "classification: internal\n        description: The device's platform.",
            "description: The device's platform.",
            "unclassified field `device_type`",
        ),
        ("subject: true, ", "", "data subject missing"),
        ("subjectKey, value: user_id", "subjectKey, value: ip", "data subject ['user_id']"),
        ("name: locale", "name: Locale!", "field name `Locale!`"),
        ("name: locale", "name: ip", "field name `ip`"),
        ("name: locale", "name: event_id", "field name `event_id`"),
        ("logicalType: timestamp", "logicalType: moment", "`moment`"),
        ("eventTime, value: occurred_at", "eventTime, value: locale", "eventTime `locale`"),
        (
            "value: occurred_at}",
            "value: occurred_at}\n      - {property: eventId, value: user_id}",
            "eventId `user_id`",
        ),
        ("      - {property: eventTime, value: occurred_at}\n", "", "the column `occurred_at` of every table"),
        ("name: locale", "name: batch_id", "field name `batch_id`"),
        ("name: locale", "name: app_version_major", "`app_version_major`, of which the column"),
        ("unknownFields, value: seal", "unknownFields, value: keep", "`keep`"),
        ("derive, value: version", "derive, value: poem", "`poem`"),
        ("{format: ip}", "{format: face}", "`face`"),
        ("pattern: '^(android|", "pattern: '^((android|", "pattern that does not compile"),
        ("pattern: '^(android|", "pattern: '(?=a)(android|", "pattern that does not compile"),
        ("pattern: '^(android|", "pattern: 'a)|(?:(android|", "pattern that does not compile"),
        ("{truncate: net24}", "{truncate: domain}", "`domain` of `ip` (ip)"),
        (
            "domain: device, outputs: [token]",
            "domain: device, outputs: [{generalise: year}]",
            "`year` of `device_id` (string)",
        ),
        ("domain: device, ", "domian: device, ", "key `domian` in the pii"),
        ("domain: device, ", "domain: [device], ", "a list as `domain`"),
        ("{maxLength: 128}", "{maxLength: many}", "a text as `maxLength`"),
        ("{maxLength: 128}", "{maxLength: 0}", "another number as `maxLength`"),
        (
            "logicalType: timestamp",
            "logicalType: timestamp\n        logicalTypeOptions: {maxLength: 9}",
            "maxLength of a",
        ),
        ("value: 30, unit: d", "value: 1, unit: y", "`y`"),
        ("element: raw.logins", "element: raw.login", "`raw.login`"),
        ("value: 30, unit: d", "value: soon, unit: d", "a text as `value`"),
        ("{category: user.device.device_id, domain: device, outputs: [token]}", "token", "a text as the pii"),
        ("category: user.device.device_id, ", "", "no `category` in the pii"),
        ("- {property: derive, value", "- {property: '', value", "a custom property without a name"),
        ("{0,2}$'", "{0,3}$'", "pattern that takes an IPv4 address"),
        ("pattern: '^(android|", "pattern: '.*|(android|", "an e-mail address and a phone number"),
        ("description: The device's platform.", "description: ''", "field `device_type` without a description"),
        ("apiVersion: v3.1.0", "apiVersion: v2.2.2", "apiVersion v2.2.2"),
        ("kind: DataContract", "kindly: DataContract", "Extra inputs are not permitted"),
    ],
)
def test_bad_contracts_are_refused(old, new, met):
    error = refused(changed(old, new))
    assert met in error.met
    assert error.line is not None
    assert error.file == "contracts/x.yaml"


def test_a_misspelt_key_is_named_with_its_line_and_those_that_there_are():
    text = changed("domain: device, ", "domian: device, ")
    error = refused(text)
    assert error.met == "key `domian` in the pii"
    assert error.allowed == "category, domain, subject, strategy, outputs"
    assert error.line == line_of(text, "domian: device")


def test_a_time_that_is_personal_is_no_time_of_the_event():
    """It would stand in every row, readable."""
    document = yaml.safe_load(GOOD)
    happened = next(one for one in document["schema"][0]["properties"] if one["name"] == "occurred_at")
    pii = {"category": "user.demographic", "outputs": [{"generalise": "year"}]}
    happened["customProperties"] = [{"property": "pii", "value": pii}]
    assert refused(yaml.safe_dump(document)).met == "eventTime `occurred_at`"


def test_every_column_that_tables_have_of_themselves_is_reserved():
    contract = compile_contract("contracts/x.yaml", GOOD)
    own = {one.name for one in masked_table(contract).columns if not one.of_contract}
    assert own <= {*RESERVED, EVENT_TIME}
    made = [name for one in contract.fields if one.name != contract.event_time for name in one.columns]
    assert made == [one.name for one in masked_table(contract).columns if one.of_contract]


def test_a_subject_is_a_text_or_a_whole_number():
    document = yaml.safe_load(GOOD)
    user = next(one for one in document["schema"][0]["properties"] if one["name"] == "user_id")
    user["logicalType"] = "number"
    del user["logicalTypeOptions"]
    assert refused(yaml.safe_dump(document)).met == "data subject `user_id` of type number"


def test_a_derivation_is_of_a_text():
    document = yaml.safe_load(GOOD)
    version = next(one for one in document["schema"][0]["properties"] if one["name"] == "app_version")
    version["logicalType"] = "integer"
    del version["logicalTypeOptions"]
    assert refused(yaml.safe_dump(document)).met == "a version of a integer"


def test_a_team_is_one_team():
    document = yaml.safe_load(GOOD)
    document["team"] = [{"username": "x"}]
    assert refused(yaml.safe_dump(document)).met == "a team that is a list"


def test_a_readable_text_field_needs_a_pattern():
    document = yaml.safe_load(GOOD)
    fields = document["schema"][0]["properties"]
    next(one for one in fields if one["name"] == "device_type").pop("logicalTypeOptions")
    assert "readable text field `device_type`" in refused(yaml.safe_dump(document)).met


def test_the_subject_has_to_be_required():
    document = yaml.safe_load(GOOD)
    next(one for one in document["schema"][0]["properties"] if one["name"] == "user_id")["required"] = False
    assert "not required" in refused(yaml.safe_dump(document)).met


def test_two_schemas_are_refused():
    document = yaml.safe_load(GOOD)
    document["schema"] *= 2
    assert refused(yaml.safe_dump(document)).met == "2 schema objects"


def test_an_unknown_source_is_told_which_there_are(tmp_path: Path):
    with pytest.raises(UsageError, match="logins"):
        load_contract("shoes")
