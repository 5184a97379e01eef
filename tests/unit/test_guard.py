"""The guard: a readable value in a masked frame is found, and named by column only."""

import polars as pl
import pytest

from stores.contracts import load_contract
from transforms.pii.guard import Finding, count_alone, find_readable, quasi_identifiers
from transforms.pii.siv import SivKey, encrypt_column
from transforms.tables import masked_table

SPEC = masked_table(load_contract("logins"))
KEY = SivKey(bytes(64), b"\x01\x02\x03\x04", (b"x",))


def frame(**columns: list[str]) -> pl.DataFrame:
    rows = {one.name: [None] for one in SPEC.columns if str(one.type).endswith("string")}
    tokens = encrypt_column(pl.Series(["1.2.3.4"]), KEY).to_list()
    rows |= dict.fromkeys(("user_id_token", "ip_token", "device_id_token"), tokens)
    return pl.DataFrame({**rows, **columns}, schema_overrides=dict.fromkeys(rows, pl.String))


def findings(rows: pl.DataFrame, *canaries: str) -> list[Finding]:
    live = {name: {KEY.key_id} for name in ("user_id_token", "ip_token", "device_id_token")}
    return find_readable(rows, SPEC, live, canaries)


def test_masked_rows_are_clean():
    assert findings(frame(ip_net24=["1.2.3.0/24"], app_version=["1.2.3"], locale=["DE"]), "canary") == []


@pytest.mark.parametrize(
    "value",
    ["1.2.3.4", "424cdd21-063a-43a7-b91b-7ca1a833afae", "A" * 40, "AQECAwQ" + "!" * 40],
)
def test_what_is_no_token_is_found(value):
    assert findings(frame(ip_token=[value])) == [Finding("ip_token", "no token of a live key", 1)]


def test_a_token_of_another_key_is_found():
    other = encrypt_column(pl.Series(["1.2.3.4"]), SivKey(bytes(64), b"\x09\x02\x03\x04", (b"x",)))
    assert findings(frame(ip_token=other.to_list()))[0].column == "ip_token"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("mail jo@example.org now", "e-mail"),
        ("from 10.1.2.3", "IPv4"),
        ("2001:db8:1:2:3:4:5:6", "IPv6"),
        ("aa:bb:cc:dd:ee:ff", "MAC"),
        ("+49 170 1234567", "phone"),
        ("593-47-5928", "national id"),
    ],
)
def test_patterns_of_personal_data_are_found(value, kind):
    assert Finding("locale", kind, 1) in findings(frame(locale=[value]))


def test_canaries_are_found_in_any_case():
    assert findings(frame(locale=["xxBoBina"]), "bobina") == [Finding("locale", "canary", 1)]


def test_people_are_alone_where_nobody_shares_all_their_readable_values():
    rows = pl.DataFrame(
        {
            "who": ["a", "a", "b", "c", "d", None],
            "net": ["n1", "n1", "n1", "n2", "n2", "n3"],
            "locale": ["DE", "DE", "DE", "FR", None, "FR"],
        }
    )
    assert count_alone(rows, "who", ["net"]) == 0
    assert count_alone(rows, "who", ["net", "locale"]) == 2
    assert count_alone(rows, "who", []) == count_alone(rows.clear(), "who", ["net"]) == 0


def test_what_could_single_out_is_readable_and_of_the_contract():
    names = quasi_identifiers(masked_table(load_contract("logins")))
    assert {"ip_net24", "device_type", "locale", "app_version"} <= set(names)
    assert not [name for name in names if name.endswith("_token") or name in ("event_id", "tenant", "batch_id")]
