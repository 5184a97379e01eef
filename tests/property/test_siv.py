"""The column code against the per-value `AESSIV` of `cryptography`, on whatever hypothesis finds."""

from __future__ import annotations

import base64

import polars as pl
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from hypothesis import given
from hypothesis import strategies as st

from siv_ways import each_way  # noqa: F401 - both ways are run
from transforms.pii.siv import SivKey, decrypt_column, encrypt_column, has_live_key

KEYS = st.builds(
    SivKey,
    key=st.sampled_from([32, 48, 64]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    key_id=st.binary(min_size=4, max_size=4),
    associated=st.lists(st.binary(max_size=40), max_size=3).map(tuple),
)
# Lengths around the borders of blocks, and any up to 600, without drawing every byte one by one.
LENGTHS = st.one_of(st.integers(0, 50), st.integers(0, 600), st.sampled_from([511, 512, 513]))
CELLS = st.one_of(
    st.none(),
    st.binary(max_size=40),
    st.builds(lambda seed, length: (seed * 600)[:length], st.binary(min_size=1, max_size=40), LENGTHS),
)
COLUMNS = st.lists(CELLS, max_size=40).map(lambda cells: pl.Series("c", cells, dtype=pl.Binary))


def expected_token(value: bytes | None, key: SivKey) -> bytes | None:
    if value is None:
        return None
    return b"\x01" + key.key_id + AESSIV(key.key).encrypt(value, list(key.associated))


def as_text(raw: bytes | None) -> str | None:
    return None if raw is None else base64.urlsafe_b64encode(raw).decode().rstrip("=")


@given(column=COLUMNS, key=KEYS)
def test_tokens_are_those_of_the_per_value_library(column: pl.Series, key: SivKey) -> None:
    expected = [expected_token(value, key) for value in column]
    assert encrypt_column(column, key, text=False).to_list() == expected
    assert encrypt_column(column, key).to_list() == [as_text(raw) for raw in expected]


@given(column=COLUMNS, key=KEYS)
def test_the_join_form_is_the_head_of_the_token(column: pl.Series, key: SivKey) -> None:
    heads = encrypt_column(column, key, keep_ciphertext=False)
    assert heads.equals(encrypt_column(column, key).str.slice(0, 28))
    raw = encrypt_column(column, key, text=False, keep_ciphertext=False)
    assert raw.equals(encrypt_column(column, key, text=False).bin.slice(0, 21))


@given(column=COLUMNS, key=KEYS)
def test_round_trip(column: pl.Series, key: SivKey) -> None:
    keys = {key.key_id: key}
    assert decrypt_column(encrypt_column(column, key), keys, text=False).equals(column)
    assert decrypt_column(encrypt_column(column, key, text=False), keys).equals(column)


@given(cells=st.lists(st.one_of(st.none(), st.text(max_size=60)), max_size=40), key=KEYS)
def test_round_trip_of_text(cells: list[str | None], key: SivKey) -> None:
    column = pl.Series("c", cells, dtype=pl.String)
    tokens = encrypt_column(column, key)
    assert decrypt_column(tokens, {key.key_id: key}).equals(column)
    assert has_live_key(tokens, [key.key_id]).fill_null(True).all()


@given(column=COLUMNS, first=KEYS, second=KEYS, picks=st.lists(st.booleans(), min_size=40, max_size=40))
def test_several_keys_in_one_column(
    column: pl.Series, first: SivKey, second: SivKey, picks: list[bool]
) -> None:
    second = SivKey(second.key, bytes(byte ^ 1 for byte in first.key_id), second.associated)
    pair = encrypt_column(column, first), encrypt_column(column, second)
    mixed = [pair[pick][row] for row, pick in enumerate(picks[: len(column)])]
    tokens = pl.Series("c", mixed, dtype=pl.String)
    keys = {first.key_id: first, second.key_id: second}
    assert decrypt_column(tokens, keys, text=False).equals(column)
