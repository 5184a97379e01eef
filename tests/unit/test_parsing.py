"""Parsing: typed columns, canonical forms, and a verdict for every record that shows no value."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import polars as pl
import pytest
import yaml

from stores.contracts import FOLDER, load_contract
from transforms import parsing
from transforms.parsing import ROW, UNKNOWN, parse_records
from transforms.pii.contracts import Contract, compile_contract

LOGINS = load_contract("logins")
GOOD: dict[str, object] = {
    "user_id": "424cdd21-063a-43a7-b91b-7ca1a833afae",
    "app_version": "2.3.0",
    "device_type": "android",
    "ip": "199.172.111.135",
    "locale": "RU",
    "device_id": "593-47-5928",
}
SECRET = "s3cret-value"  # noqa: S105 - what must not be shown


def contract(*fields: dict[str, object], unknown: str = "seal") -> Contract:
    document = yaml.safe_load((FOLDER / "logins.yaml").read_text())
    table = document["schema"][0]
    table["properties"] += fields
    (mode,) = (one for one in table["customProperties"] if one["property"] == "unknownFields")
    mode["value"] = unknown
    return compile_contract("contracts/logins.yaml", yaml.safe_dump(document))


def login(**changes: object) -> bytes:
    record = {**GOOD, **changes}
    return json.dumps({name: value for name, value in record.items() if value is not ...}).encode()


def reason(payload: bytes, declared: Contract = LOGINS) -> str:
    parsed = parse_records([login(), payload, login()], declared)
    assert parsed.to_frame()[ROW].to_list() == [0, 2]
    assert list(parsed.rejected) == [1]
    return parsed.rejected[1]


def accepted(payload: bytes, declared: Contract = LOGINS) -> dict[str, object]:
    parsed = parse_records([payload], declared)
    assert parsed.rejected == {}
    return parsed.to_frame().row(0, named=True)


def test_fields_become_typed_columns_whatever_their_order():
    shuffled = json.dumps(dict(reversed(GOOD.items()))).encode()
    frame = parse_records([login(), shuffled], LOGINS).to_frame()
    assert frame.columns == [ROW, *(one.name for one in LOGINS.fields), UNKNOWN]
    assert frame.drop(ROW).row(0) == frame.drop(ROW).row(1)
    assert frame["user_id"].to_list() == [GOOD["user_id"]] * 2
    assert frame.schema["occurred_at"] == pl.Datetime("us", "UTC")


def test_nothing_gives_an_empty_frame_of_the_same_columns():
    assert parse_records([], LOGINS).to_frame().schema == parse_records([login()], LOGINS).to_frame().schema


def test_the_last_of_a_repeated_field_counts():
    repeated = login()[:-1] + b', "locale": "PL"}'
    assert accepted(repeated)["locale"] == "PL"


@pytest.mark.parametrize(
    ("field", "sent", "kept"),
    [
        ("user_id", "{424CDD21-063A-43A7-B91B-7CA1A833AFAE}", "424cdd21-063a-43a7-b91b-7ca1a833afae"),
        ("user_id", "424cdd21063a43a7b91b7ca1a833afae", "424cdd21-063a-43a7-b91b-7ca1a833afae"),
        ("ip", "2001:DB8:0::1", "2001:db8::1"),
        ("ip", "::ffff:1.2.3.4", "1.2.3.4"),
        ("device_id", "Cafe\u0301", "Caf\u00e9"),
        ("locale", None, None),
        ("locale", "zh-Hant_TW", "zh-Hant_TW"),
        ("app_version", "10.0", "10.0"),
        ("occurred_at", None, None),
        ("occurred_at", "2026-02-03T04:05:06Z", datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("occurred_at", "2026-02-03 04:05:06.5+02:00", datetime(2026, 2, 3, 2, 5, 6, 500_000, tzinfo=UTC)),
        ("occurred_at", "0001-01-01T01:00:00+01:00", datetime(1, 1, 1, tzinfo=UTC)),
        ("occurred_at", "9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("occurred_at", "2026-02-03t04:05:06.123456z", datetime(2026, 2, 3, 4, 5, 6, 123_456, tzinfo=UTC)),
    ],
)
def test_values_are_brought_to_their_canonical_form(field: str, sent: object, kept: object):
    assert accepted(login(**{field: sent}))[field] == kept


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"user_id": ...}, "column user_id: required, but absent"),
        ({"user_id": None}, "column user_id: expected str, met null"),
        ({"ip": 7}, "column ip: expected str, met int"),
        ({"locale": [SECRET]}, "column locale: expected str | null, met array"),
        ({"user_id": SECRET}, "column user_id: expected a UUID"),
        ({"ip": SECRET}, "column ip: expected an IP address"),
        ({"ip": ""}, "column ip: expected an IP address"),
        ({"device_id": ""}, "column device_id: expected 1 to 128 characters"),
        ({"device_id": "x" * 129}, "column device_id: expected 1 to 128 characters"),
        ({"device_id": "é" * 129}, "column device_id: expected 1 to 128 characters"),
        ({"device_type": SECRET}, "column device_type: expected text that matches"),
        ({"device_type": "ios\n"}, "column device_type: expected text that matches"),
        ({"locale": "deutsch"}, "column locale: expected text that matches"),
        ({"occurred_at": SECRET}, "column occurred_at: expected an RFC 3339 time with an offset"),
        ({"occurred_at": "2026-02-03T04:05:06"}, "column occurred_at: expected an RFC 3339 time"),
        ({"occurred_at": "2026-02-30T04:05:06Z"}, "column occurred_at: expected an RFC 3339 time"),
        ({"occurred_at": "0000-12-31T23:59:59Z"}, "column occurred_at: expected an RFC 3339 time"),
        ({"occurred_at": "0001-01-01T00:00:00+01:00"}, "column occurred_at: expected an RFC 3339 time"),
        ({"occurred_at": "9999-12-31T23:59:59.5Z"}, "column occurred_at: expected an RFC 3339 time"),
        ({"occurred_at": "9999-12-31T23:59:59-01:00"}, "column occurred_at: expected an RFC 3339 time"),
        ({"occurred_at": "-001-01-01T00:00:00Z"}, "column occurred_at: expected an RFC 3339 time"),
    ],
)
def test_what_does_not_fit_is_refused_by_column(changes: dict[str, object], expected: str):
    found = reason(login(**changes))
    assert found.startswith(expected)
    assert SECRET not in found


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", "not well-formed JSON"),
        (b"{", "not well-formed JSON"),
        (b'{"user_id": "' + SECRET.encode(), "not well-formed JSON"),
        (login() + b" x", "not well-formed JSON"),
        (login() + login(), "not well-formed JSON"),
        (b"\xff\xfe", "not well-formed JSON"),
        (b'{"user_id": "\xff"}', "not well-formed JSON"),
        (b"[1]", "expected a JSON object, met array"),
        (b"null", "expected a JSON object, met null"),
        (b'{"more": ' + b"[" * 100_000, "not well-formed JSON"),
    ],
)
def test_what_is_no_object_is_refused(payload: bytes, expected: str):
    assert reason(payload) == expected


def test_a_wrong_message_type_is_refused():
    found = reason(b'{"foo": "oops_wrong_msg_type", "bar": "123"}')
    assert found == "column user_id: required, but absent"


def test_128_characters_of_many_bytes_are_128_characters():
    assert accepted(login(device_id="語" * 128))["device_id"] == "語" * 128


def test_undeclared_fields_come_along_as_json_of_their_own():
    row = accepted(login(zeta={"a": [1, 2.50]}, alpha=SECRET))
    assert isinstance(row[UNKNOWN], bytes)
    assert json.loads(row[UNKNOWN]) == {"zeta": {"a": [1, 2.5]}, "alpha": SECRET}
    assert accepted(login())[UNKNOWN] is None


def test_a_contract_may_refuse_undeclared_fields_without_naming_them():
    found = reason(login(**{SECRET: 1, "b": 2}), contract(unknown="reject"))
    assert found == "2 undeclared field(s), which this contract rejects"


@pytest.mark.parametrize(
    ("kind", "sent", "kept"),
    [("integer", 7, 7), ("number", 7, 7.0), ("number", 1e-3, 0.001), ("boolean", True, True)],
)
def test_other_types_stay_as_they_are(kind: str, sent: object, kept: object):
    extra = {"name": "class", "logicalType": kind, "classification": "internal", "description": "More."}
    declared = contract(extra)
    assert accepted(login(**{"class": sent}), declared)["class"] == kept
    assert accepted(login(), declared)["class"] is None
    assert reason(login(**{"class": SECRET}), declared).startswith("column class: expected")


@pytest.mark.parametrize("sent", [2**63, -(2**63) - 1, 10**30])
def test_an_integer_of_more_than_64_bits_is_refused(sent: int):
    extra = {"name": "class", "logicalType": "integer", "classification": "internal", "description": "More."}
    declared = contract(extra)
    assert reason(login(**{"class": sent}), declared) == "column class: expected an integer of 64 bits"
    for most in (2**63 - 1, -(2**63)):
        assert accepted(login(**{"class": most}), declared)["class"] == most


def test_a_rejected_records_values_are_in_no_column_of_the_accepted():
    payloads = [login(device_id="good", locale="RU")] * 3 + [login(device_id=SECRET, ip="none")]
    parsed = parse_records(payloads, LOGINS)
    assert list(parsed.rejected) == [3]
    taken = [column.take(parsed.rows) for column in parsed.fields.values()]
    assert all(SECRET not in column.values.cast(pl.String).to_list() for column in taken)


@pytest.mark.parametrize("bad", [0, 1, 2, 3, 4, 5, 6])
def test_places_hold_over_the_steps_of_decoding(bad: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parsing, "_STEP", 3)
    payloads = [login(device_id=f"d-{number}") for number in range(7)]
    payloads[bad] = b"{}"
    parsed = parse_records(payloads, LOGINS)
    assert list(parsed.rejected) == [bad]
    rows = [number for number in range(7) if number != bad]
    assert parsed.to_frame()[ROW].to_list() == rows
    assert parsed.to_frame()["device_id"].to_list() == [f"d-{number}" for number in rows]


def test_every_record_may_be_refused():
    parsed = parse_records([b"{}", login(ip="x")], LOGINS)
    assert parsed.to_frame().height == 0
    assert list(parsed.rejected) == [0, 1]
