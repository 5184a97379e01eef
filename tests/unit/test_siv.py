"""Tokens of whole columns: RFC vectors, odd columns, and everything that must be refused."""

from __future__ import annotations

import base64
import string

import polars as pl
import pytest

from siv_ways import each_way  # noqa: F401 - both ways are run
from transforms.errors import DecryptionError, UsageError
from transforms.pii import siv_blocks
from transforms.pii.ciphers import siv_encrypt
from transforms.pii.siv import SivKey, decrypt_column, encrypt_column, has_live_key

KEY = SivKey(bytes(range(64)), b"\x00\x00\x00\x07", (b"acme|ip|1",))
OTHER = SivKey(bytes(range(1, 65)), b"\x00\x00\x00\x08", (b"acme|ip|1",))
KEYS = {KEY.key_id: KEY}
ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
# Every remainder of a token's length, one block and several, a value beyond the vectorised sizes.
LENGTHS = [0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 48, 100, 511, 512, 513, 700]


def token_of(value: bytes, key: SivKey = KEY) -> str:
    raw = b"\x01" + key.key_id + siv_encrypt(key.key, value, *key.associated)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def strings(values: list[str | None]) -> pl.Series:
    return pl.Series("c", values, dtype=pl.String)


def refused(token: str | bytes, keys: dict[bytes, SivKey] | None = None) -> None:
    with pytest.raises(DecryptionError) as caught:
        decrypt_column(pl.Series("c", [token]), KEYS if keys is None else keys)
    assert "column 'c'" in str(caught.value)
    assert len(token) < 5 or str(token) not in str(caught.value)


class TestRfc5297:
    def test_example_a1(self) -> None:
        key = SivKey(
            bytes.fromhex("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"),
            b"\x00" * 4,
            (bytes.fromhex("101112131415161718191a1b1c1d1e1f2021222324252627"),),
        )
        value = pl.Series("c", [bytes.fromhex("112233445566778899aabbccddee")])
        sealed = "85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c"
        assert encrypt_column(value, key, text=False)[0][5:].hex() == sealed

    def test_example_a2(self) -> None:
        key = SivKey(
            bytes.fromhex("7f7e7d7c7b7a79787776757473727170404142434445464748494a4b4c4d4e4f"),
            b"\x00" * 4,
            (
                bytes.fromhex(
                    "00112233445566778899aabbccddeeffdeaddadadeaddadaffeeddccbbaa99887766554433221100"
                ),
                bytes.fromhex("102030405060708090a0"),
                bytes.fromhex("09f911029d74e35bd84156c5635688c0"),
            ),
        )
        message = b"this is some plaintext to encrypt using SIV-AES"
        sealed = (
            "7bdb6e3b432667eb06f4d14bff2fbd0fcb900f2fddbe404326601965c889bf17"
            "dba77ceb094fa663b7a3f748ba8af829ea64ad544a272e9c485b62a3fd5c0d"
        )
        assert encrypt_column(pl.Series("c", [message]), key, text=False)[0][5:].hex() == sealed


class TestColumns:
    @pytest.mark.parametrize("length", LENGTHS)
    def test_every_length(self, length: int) -> None:
        value = bytes(range(256)) * 3
        column = pl.Series("c", [value[:length]])
        tokens = encrypt_column(column, KEY)
        assert tokens.to_list() == [token_of(value[:length])]
        assert decrypt_column(tokens, KEYS, text=False).equals(column)

    def test_empty_column(self) -> None:
        for made in (encrypt_column(strings([]), KEY), decrypt_column(strings([]), KEYS)):
            assert made.equals(strings([])) and made.dtype == pl.String and made.name == "c"
        assert encrypt_column(strings([]), KEY, text=False).dtype == pl.Binary
        assert has_live_key(strings([]), [KEY.key_id]).dtype == pl.Boolean

    def test_nulls_stay_where_they_were(self) -> None:
        column = strings([None, "a", None, "", "x" * 40, "y" * 600, None])
        tokens = encrypt_column(column, KEY)
        assert tokens.is_null().to_list() == column.is_null().to_list()
        assert decrypt_column(tokens, KEYS).equals(column)

    def test_all_null(self) -> None:
        column = strings([None] * 9)
        assert encrypt_column(column, KEY).equals(column)
        assert decrypt_column(column, KEYS).equals(column)
        assert has_live_key(column, [KEY.key_id]).to_list() == [None] * 9

    def test_slices_and_reversed_columns(self) -> None:
        values = [None if row % 7 == 3 else "v" * (row % 40) + str(row) for row in range(200)]
        whole = strings(values)
        tokens = encrypt_column(whole, KEY)
        for cut, cells in [
            (slice(13, 150), values[13:150]),
            (slice(None, None, -1), values[::-1]),
            (slice(5, 190, 3), values[5:190:3]),
        ]:
            assert encrypt_column(whole[cut], KEY).equals(tokens[cut])
            assert decrypt_column(tokens[cut], KEYS).to_list() == cells
            assert has_live_key(tokens[cut], [KEY.key_id]).fill_null(True).all()

    def test_column_of_several_chunks(self) -> None:
        parts = [strings(["a", "b" * 20]), strings([None, "c" * 50])]
        whole = pl.concat(parts, rechunk=False)
        assert whole.n_chunks() == 2
        assert decrypt_column(encrypt_column(whole, KEY), KEYS).to_list() == whole.to_list()

    def test_more_rows_than_a_chunk(self) -> None:
        column = pl.select(pl.int_range(80_000).cast(pl.String).alias("c")).to_series()
        tokens = encrypt_column(column, KEY)
        for row in (0, 32_767, 32_768, 79_999):
            assert tokens[row] == token_of(str(row).encode())
        assert decrypt_column(tokens, KEYS).equals(column)

    def test_long_values_make_smaller_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(siv_blocks, "CHUNK_BYTES", 4000)
        monkeypatch.setattr(siv_blocks, "BUFFER_BYTES", 1000)
        values = ["v" * (row * 37 % 900) + str(row) for row in range(60)]
        sizes = [len(chunk.text) for chunk in siv_blocks.chunks(strings(values), slack=0)]
        assert max(sizes) <= 4000 and sum(sizes) == sum(map(len, values))
        tokens = encrypt_column(strings(values), KEY)
        assert tokens.to_list() == [token_of(value.encode()) for value in values]
        assert decrypt_column(tokens, KEYS).to_list() == values

    def test_scan_borders_keep_nulls_in_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(siv_blocks, "SCAN_ROWS", 16)
        column = strings([None if row % 5 == 0 else str(row) for row in range(101)])
        assert decrypt_column(encrypt_column(column, KEY), KEYS).equals(column)

    def test_join_form_has_28_characters_and_is_the_head(self) -> None:
        column = strings(["", "192.0.2.1", "x" * 100, "y" * 600, None])
        heads = encrypt_column(column, KEY, keep_ciphertext=False)
        assert heads.equals(encrypt_column(column, KEY).str.slice(0, 28))

    def test_equal_values_meet_and_keys_do_not(self) -> None:
        column = strings(["a", "b", "a"])
        tokens = encrypt_column(column, KEY)
        assert tokens[0] == tokens[2] != tokens[1]
        assert encrypt_column(column, OTHER)[0] != tokens[0]

    def test_no_associated_data(self) -> None:
        key = SivKey(KEY.key, KEY.key_id, ())
        tokens = encrypt_column(strings(["abc"]), key)
        assert tokens[0] == token_of(b"abc", key)
        assert decrypt_column(tokens, {key.key_id: key})[0] == "abc"

    def test_tokens_can_be_worked_with(self) -> None:
        frame = pl.DataFrame({"c": ["a", "bb" * 20, None, "c" * 10]})
        made = frame.with_columns(pl.col("c").map_batches(lambda c: encrypt_column(c, KEY), pl.String))
        made = made.filter(pl.col("c").is_not_null()).with_columns(pl.col("c").str.to_lowercase().alias("l"))
        assert made["c"].to_list() == [token_of(value.encode()) for value in ("a", "bb" * 20, "c" * 10)]

    def test_other_column_types_are_refused(self) -> None:
        for call in (
            lambda c: encrypt_column(c, KEY),
            lambda c: decrypt_column(c, KEYS),
            lambda c: has_live_key(c, [KEY.key_id]),
        ):
            with pytest.raises(UsageError, match="'n'"):
                call(pl.Series("n", [1, 2]))


class TestKeys:
    @pytest.mark.parametrize(("size", "id_size"), [(63, 4), (0, 4), (64, 3), (64, 5)])
    def test_wrong_lengths_are_refused(self, size: int, id_size: int) -> None:
        with pytest.raises(UsageError):
            SivKey(bytes(size), bytes(id_size), ())

    def test_repr_does_not_show_the_key(self) -> None:
        assert repr(KEY.key) not in repr(KEY) and "key_id" in repr(KEY)

    def test_several_keys_in_a_column(self) -> None:
        values = [("v" * (row % 40)).encode() for row in range(90)]
        tokens = strings([token_of(value, (KEY, OTHER)[row % 2]) for row, value in enumerate(values)])
        both = {**KEYS, OTHER.key_id: OTHER}
        assert decrypt_column(tokens, both, text=False).to_list() == values
        with pytest.raises(DecryptionError):
            decrypt_column(tokens, KEYS)

    def test_the_same_id_with_another_key_is_refused(self) -> None:
        refused(token_of(b"abc"), {KEY.key_id: SivKey(OTHER.key, KEY.key_id, KEY.associated)})

    def test_other_associated_data_are_refused(self) -> None:
        refused(token_of(b"abc"), {KEY.key_id: SivKey(KEY.key, KEY.key_id, (b"acme|mac|1",))})

    def test_the_mapping_says_which_key_has_which_id(self) -> None:
        # Both keys carry one id of their own: what counts is where they stand in the mapping.
        twin = SivKey(OTHER.key, KEY.key_id, OTHER.associated)
        tokens = strings([token_of(b"abc"), token_of(b"abc", OTHER)])
        assert decrypt_column(tokens, {KEY.key_id: KEY, OTHER.key_id: twin}).to_list() == ["abc", "abc"]

    def test_no_keys(self) -> None:
        refused(token_of(b"abc"), {})
        refused(token_of(b"x" * 600), {})


class TestRefused:
    @pytest.mark.parametrize("length", [0, 1, 2, 3, 13, 17, 40])
    def test_every_changed_character(self, length: int) -> None:
        token = token_of(bytes(range(65, 65 + length)))
        for place, character in enumerate(token):
            at = ALPHABET.index(character)
            for change in (1, 32):
                refused(token[:place] + ALPHABET[at ^ change] + token[place + 1 :])

    @pytest.mark.parametrize("length", [13, 530])
    def test_one_changed_token_among_many(self, length: int) -> None:
        tokens = [token_of(bytes([row]) * length) for row in range(50)]
        changed = tokens[30][:-3] + ("A" if tokens[30][-3] != "A" else "B") + tokens[30][-2:]
        with pytest.raises(DecryptionError):
            decrypt_column(strings([*tokens[:30], changed, *tokens[31:]]), KEYS, text=False)

    @pytest.mark.parametrize("length", [1, 2, 4, 5, 601, 602])
    def test_stray_bits_in_the_last_character(self, length: int) -> None:
        token = token_of(b"v" * length)
        spare = {2: 16, 3: 4}[len(token) % 4]
        for stray in range(1, spare):
            refused(token[:-1] + ALPHABET[ALPHABET.index(token[-1]) + stray])

    @pytest.mark.parametrize("length", [0, 1, 2, 3, 16, 32, 600])
    @pytest.mark.parametrize("tail", ["=", "==", "A", "AA", "AAAA", "\n", " ", "é", "\x00"])
    def test_anything_behind_the_token(self, length: int, tail: str) -> None:
        refused(token_of(b"v" * length) + tail)

    @pytest.mark.parametrize("length", [12, 40, 600])
    def test_the_other_alphabet(self, length: int) -> None:
        values = (bytes([row]) * length for row in range(256))
        token = next(t for t in map(token_of, values) if "-" in t and "_" in t)
        assert decrypt_column(strings([token]), KEYS, text=False)[0]
        for ours, other in (("-", "+"), ("_", "/")):
            refused(token.replace(ours, other, 1))

    @pytest.mark.parametrize("length", [0, 13, 40])
    def test_every_cut(self, length: int) -> None:
        token = token_of(b"v" * length)
        for size in range(len(token)):
            refused(token[:size])
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        for size in range(len(raw)):
            refused(raw[:size])

    def test_join_form_of_a_value_does_not_open(self) -> None:
        refused(token_of(b"192.0.2.1")[:28])
        assert decrypt_column(strings([token_of(b"")]), KEYS)[0] == ""

    def test_another_version_byte(self) -> None:
        raw = base64.urlsafe_b64decode(token_of(b"abc"))
        for version in (0, 2, 255):
            refused(bytes([version]) + raw[1:])
        refused(b"\x00" + encrypt_column(strings(["x" * 600]), KEY, text=False)[0][1:])

    @pytest.mark.parametrize("value", [b"\xff", b"ok\xc3", b"\xed\xa0\x80" * 9, b"\x80" * 600])
    def test_bytes_that_are_not_utf8_are_not_given_out_as_text(self, value: bytes) -> None:
        tokens = encrypt_column(pl.Series("c", [b"fine", value]), KEY)
        with pytest.raises(DecryptionError) as caught:
            decrypt_column(tokens, KEYS)
        assert caught.value.__cause__ is None and caught.value.__suppress_context__
        assert decrypt_column(tokens, KEYS, text=False)[1] == value


class TestGuard:
    def test_tokens_of_live_keys_only(self) -> None:
        tokens = strings([token_of(b"a"), token_of(b"a", OTHER), None, token_of(b"x" * 700), token_of(b"")])
        assert has_live_key(tokens, [KEY.key_id]).to_list() == [True, False, None, True, True]
        assert has_live_key(tokens, {KEY.key_id, OTHER.key_id}).to_list() == [True, True, None, True, True]
        assert has_live_key(tokens, []).to_list() == [False, False, None, False, False]

    def test_join_form_passes(self) -> None:
        heads = encrypt_column(strings(["192.0.2.1"]), KEY, keep_ciphertext=False)
        assert has_live_key(heads, [KEY.key_id]).to_list() == [True]

    @pytest.mark.parametrize(
        "stray", ["", "a", "192.0.2.1", "ada@example.com", "AQAAAAc", "é" * 40, "A" * 28, "=" * 28, "\x00" * 30]
    )
    def test_anything_else_is_found_wherever_it_stands(self, stray: str) -> None:
        token = token_of(b"192.0.2.1")
        cells = [stray, token, stray, token, "", token, stray]
        assert has_live_key(strings(cells), [KEY.key_id]).to_list() == [cell == token for cell in cells]

    @pytest.mark.parametrize("change", ["+", "/", "=", "é", "\n", " "])
    def test_one_foreign_character_anywhere(self, change: str) -> None:
        token = token_of(b"192.0.2.1")
        cells: list[str | None] = [token[:at] + change + token[at + 1 :] for at in range(len(token))]
        assert not has_live_key(strings([*cells, token]), [KEY.key_id])[:-1].any()
        assert has_live_key(strings([*cells, token]), [KEY.key_id])[-1]

    @pytest.mark.parametrize("length", [0, 1, 2])
    def test_length_and_stray_bits(self, length: int) -> None:
        token = token_of(b"v" * length)
        verdicts = {last: has_live_key(strings([token[:-1] + last]), [KEY.key_id])[0] for last in ALPHABET}
        expected = ALPHABET[:: {0: 1, 2: 16, 3: 4}[len(token) % 4]]
        assert "".join(last for last, fine in verdicts.items() if fine) == expected
        assert has_live_key(strings([token_of(b"") + "A"]), [KEY.key_id]).to_list() == [False]

    def test_key_ids_have_four_bytes(self) -> None:
        with pytest.raises(UsageError):
            has_live_key(strings([token_of(b"a")]), [b"\x00\x00\x07"])
