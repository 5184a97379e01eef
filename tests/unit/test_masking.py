"""Masking: each strategy by column; canonical forms before tokens."""

import datetime as dt

import polars as pl
import pyarrow as pa
import pytest

from transforms.coding import Coded, distinct_of
from transforms.pii.canonical import canonicalise
from transforms.pii.contracts import Contract, Field, Output
from transforms.pii.masking import mask_records, place_in_time
from transforms.pii.siv import SivKey, decrypt_column, encrypt_column

KEY = SivKey(bytes(range(64)), b"\xaa\xbb\xcc\xdd", (b"test",))


def one_field(*outputs: Output, logical_type: str = "string", **options: object) -> Contract:
    field = Field(
        name="it",
        logical_type=logical_type,
        description="It.",
        required=False,
        classification="restricted",
        outputs=outputs,
        category="user.contact",
        domain="it",
        is_subject=True,
        **options,  # type: ignore[arg-type]
    )
    return Contract("s", "1", "S", "", "o", (field,), "seal", None, None, {})


def masked(
    values: list[object], *outputs: Output, logical_type: str = "string", **options: object
) -> pl.DataFrame:
    dtype = pl.Int64 if logical_type == "integer" else pl.String
    columns = {
        "it": distinct_of(pl.Series("it", values, dtype=dtype)),
        "_unknown": Coded(pl.Series([None] * len(values), dtype=pl.Binary)),
    }
    made = mask_records(columns, one_field(*outputs, logical_type=logical_type, **options), {"it": KEY})
    return pl.DataFrame([plain(name, made[name]) for name in made.column_names])


def plain(name: str, column: pa.ChunkedArray) -> pl.Series:
    kind = column.type
    return pl.Series(name, column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column)


def test_a_token_opens_and_a_hash_joins_it():
    made = masked(["a@b.example", None, "a@b.example"], Output("token"), Output("hash"))
    assert decrypt_column(made["it_token"], {KEY.key_id: KEY}).to_list() == ["a@b.example", None, "a@b.example"]
    assert made["it_hash"].to_list() == [made["it_token"][0][:28], None, made["it_token"][0][:28]]


@pytest.mark.parametrize(
    "values", [[], ["a"], [None, None, "a", "a", "a", "b", "b"], ["a"] * 5, [None] * 4, ["a", None, None, None]]
)
def test_tokens_of_what_repeats_are_those_of_the_values(values):
    column = pl.Series("it", values, dtype=pl.String)
    made = masked(values, Output("token"), Output("hash"))
    assert made["it_token"].to_list() == encrypt_column(column, KEY).to_list()
    assert made["it_hash"].to_list() == encrypt_column(column, KEY, keep_ciphertext=False).to_list()


def test_what_repeats_is_a_dictionary_of_values_that_are_distinct_and_there():
    addresses = ["192.0.2.7", "192.0.2.8", "2001:db8::1", None] * 5
    columns = {"it": distinct_of(pl.Series(addresses)), "_unknown": Coded(pl.Series([b"{}"] * 20))}
    outputs = (Output("token"), Output("truncate", "net24"), Output("truncate", "net48"))
    made = mask_records(columns, one_field(*outputs), {"it": KEY})
    assert made["it_net24"].chunk(0).dictionary.to_pylist() == ["192.0.2.0/24"]
    assert made["it_token"].chunk(0).dictionary.null_count == 0
    assert made["it_net24"].to_pylist() == ["192.0.2.0/24", "192.0.2.0/24", None, None] * 5
    assert made["it_net48"].to_pylist() == [None, None, "2001:db8::/48", None] * 5


def test_drop_leaves_no_column_and_redact_no_value():
    assert masked(["secret"], Output("drop")).columns == ["unknown_count"]
    assert masked(["secret", None], Output("redact"))["it_redacted"].to_list() == ["[redacted]", None]


def test_networks_are_for_their_own_family():
    made = masked(
        ["1.2.3.4", "2001:db8:1:2::3", None], Output("truncate", "net24"), Output("truncate", "net48")
    )
    assert made["it_net24"].to_list() == ["1.2.3.0/24", None, None]
    assert made["it_net48"].to_list() == [None, "2001:db8:1::/48", None]


def test_coarse_forms():
    assert masked(["a.b@c.example"], Output("truncate", "domain"))["it_domain"].to_list() == ["c.example"]
    assert masked(["1980-02-03"], Output("generalise", "year"))["it_year"].to_list() == ["1980"]
    assert masked(["1980-02-03"], Output("generalise", "month"))["it_month"].to_list() == ["1980-02"]
    assert masked([47, -3, None], Output("generalise", "bucket10"), logical_type="integer")[
        "it_bucket10"
    ].to_list() == [40, -10, None]
    assert masked([147], Output("generalise", "bucket100"), logical_type="integer")[
        "it_bucket100"
    ].to_list() == [100]


def test_a_bucket_that_begins_below_all_integers_has_no_lower_bound():
    values = [-(2**63), -(2**63) + 7, -(2**63) + 8, 2**63 - 1]
    made = masked(values, Output("generalise", "bucket10"), logical_type="integer")
    assert made["it_bucket10"].to_list() == [None, None, -(2**63) + 8, 2**63 - 8]


def test_numbers_are_tokenised_as_their_text():
    made = masked([42, None], Output("token"), logical_type="integer")
    assert decrypt_column(made["it_token"], {KEY.key_id: KEY}).to_list() == ["42", None]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("2.3.0", (2, 3, 0)),
        ("0.96", (0, 96, None)),
        ("7", (7, None, None)),
        ("1.2.3.4", (1, 2, 3)),
        (None, (None, None, None)),
    ],
)
def test_versions_become_numbers_that_sort(text, parts):
    made = masked([text], Output("keep"), derive="version")
    assert made.select("it_major", "it_minor", "it_patch").row(0) == parts


def test_time_follows_from_arrival_and_event():
    utc = dt.UTC
    arrived = dt.datetime(2026, 3, 31, 7, 59, tzinfo=utc)
    happened = [arrived, arrived - dt.timedelta(days=31), arrived + dt.timedelta(hours=2)]
    frame = pl.DataFrame({"received_at": [arrived] * 3, "occurred_at": happened})
    placed = place_in_time(frame)
    assert placed["clock_skewed"].to_list() == [False, True, True]
    assert placed["received_hour"][0] == dt.datetime(2026, 3, 31, 7, tzinfo=utc)
    assert placed["event_hour"][2] == dt.datetime(2026, 3, 31, 9, tzinfo=utc)
    assert placed["received_date"][0] == dt.date(2026, 3, 31)


@pytest.mark.parametrize(
    ("form", "text", "canonical"),
    [
        ("ip", "1.2.3.4", "1.2.3.4"),
        ("ip", " 1.2.3.4 ", "1.2.3.4"),
        ("ip", "::FFFF:1.2.3.4", "1.2.3.4"),
        ("ip", "2001:0DB8:0:0::1", "2001:db8::1"),
        ("ip", "fe80::1%eth0", "fe80::1"),
        ("ip", "1.2.3.04", None),
        ("ip", "1.2.3", None),
        ("ip", "300.1.1.1", None),
        ("mac", "AA-BB-CC-DD-EE-FF", "aa:bb:cc:dd:ee:ff"),
        ("mac", "aabb.ccdd.eeff", "aa:bb:cc:dd:ee:ff"),
        ("mac", "aa:bb:cc:dd:ee", None),
        ("email", " Jo.Bloggs@EXAMPLE.org ", "Jo.Bloggs@example.org"),
        ("email", "jo@localhost", None),
        ("email", "no-at-sign", None),
        ("email", "a@b@c.example", None),
        ("uuid", "{424CDD21-063A-43A7-B91B-7CA1A833AFAE}", "424cdd21-063a-43a7-b91b-7ca1a833afae"),
        ("uuid", "424cdd21063a43a7b91b7ca1a833afae", "424cdd21-063a-43a7-b91b-7ca1a833afae"),
        ("uuid", "424cdd21", None),
        (None, "e\u0301", "\u00e9"),
    ],
)
def test_canonical_forms(form, text, canonical):
    others = ["1.1.1.1"] if form == "ip" else []
    assert canonicalise(pl.Series([text, None, *others]), form).to_list()[:2] == [canonical, None]
