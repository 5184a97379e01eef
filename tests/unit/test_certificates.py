"""Looking for an erased subject with nothing but fingerprints, and for every token of a key."""

from __future__ import annotations

import os

import pytest

from transforms.pii.siv import HEAD_CHARACTERS
from transforms.privacy.certificates import (
    PseudonymMatcher,
    TokenMatcher,
    fingerprints_of,
    take_fingerprints,
)

BEGIN = "AfQ3xk"
TOKEN = BEGIN + "a" * (HEAD_CHARACTERS - len(BEGIN)) + "AAAAAA"
OTHER = BEGIN + "b" * (HEAD_CHARACTERS - len(BEGIN)) + "AAAAAA"
REF = bytes(range(0xA0, 0xB0))
PRINTS = take_fingerprints("5a" * 16, [TOKEN], [REF])


class TestPseudonymMatcher:
    @pytest.mark.parametrize(
        "content",
        [
            TOKEN.encode(),
            b"..." + TOKEN[:HEAD_CHARACTERS].encode(),
            (OTHER + TOKEN).encode(),
            # One token's beginning inside another's letters: every place is looked at.
            (BEGIN + TOKEN).encode(),
            REF.hex().encode(),
            b"f" + REF.hex().encode() + b"0",
            os.urandom(5000) + b"\n" + REF.hex().encode(),
        ],
    )
    def test_finds(self, content: bytes) -> None:
        assert PseudonymMatcher(PRINTS).find(content) == [0]

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            OTHER.encode(),
            TOKEN[: HEAD_CHARACTERS - 1].encode(),
            REF.hex().encode()[:-1],
            REF.hex().upper().encode(),
            REF,
            b"0" * 4096,
        ],
    )
    def test_does_not_find(self, content: bytes) -> None:
        assert PseudonymMatcher(PRINTS).find(content) == []

    def test_fingerprints_are_read_as_written_and_name_nobody(self) -> None:
        record = PRINTS.as_record()
        assert fingerprints_of(record) == PRINTS
        assert TOKEN[len(BEGIN) : HEAD_CHARACTERS] not in str(record) and REF.hex() not in str(record)

    def test_several_keys(self) -> None:
        second = "AcccXk" + TOKEN[len(BEGIN) :]
        matcher = PseudonymMatcher(take_fingerprints("00" * 16, [TOKEN, second], []))
        assert [matcher.find(one.encode()) for one in (TOKEN, second, OTHER)] == [[0], [0], []]

    def test_no_fingerprints_find_nothing(self) -> None:
        nobody = PseudonymMatcher(take_fingerprints("00" * 16, [], []))
        assert nobody.find((TOKEN + REF.hex()).encode()) == []


class TestTokenMatcher:
    def test_finds_every_token_of_its_keys(self) -> None:
        matcher = TokenMatcher([BEGIN])
        assert matcher.find(OTHER.encode()) == matcher.find(b"x" + TOKEN.encode()) == [0]
        assert matcher.find(b"AfQ3xj" + b"a" * 22) == matcher.find(BEGIN.encode()) == []

    def test_no_keys_find_nothing(self) -> None:
        assert TokenMatcher([]).find(TOKEN.encode()) == []
