"""Byte for byte against others: Wycheproof's vectors, and Tink in both directions."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tink
from tink import daead, secret_key_access

from siv_ways import each_way  # noqa: F401 - both ways are run
from transforms.errors import DecryptionError
from transforms.pii.siv import SivKey, decrypt_column, encrypt_column

ROOT = Path(__file__).resolve().parents[2]
KEY_ID = b"\x12\x34\x56\x78"


def load_vectors(name: str) -> dict[str, Any]:
    """Read the whole file where the project's data lie beside it, otherwise the sample kept here."""
    whole = ROOT.parent / "shared" / "data" / "vectors" / f"{name}.json"
    if whole.exists():
        return json.loads(whole.read_text())
    sample = json.loads((Path(__file__).parent / "vectors" / "aes_siv_sample.json").read_text())
    return sample["files"][name]


def vectors(name: str) -> Iterator[tuple[int, SivKey, bytes, bytes, bool]]:
    """Give number, key, message, V || C and validity; a nonce is the last associated string."""
    for group in load_vectors(name)["testGroups"]:
        for test in group["tests"]:
            parts = {part: bytes.fromhex(test.get(part, "")) for part in ("aad", "iv", "msg", "ct", "tag")}
            nonce = (parts["iv"],) if "iv" in test else ()
            key = SivKey(bytes.fromhex(test["key"]), KEY_ID, (parts["aad"], *nonce))
            yield test["tcId"], key, parts["msg"], parts["tag"] + parts["ct"], test["result"] == "valid"


@pytest.mark.parametrize("name", ["aes_siv_cmac_test", "aead_aes_siv_cmac_test"])
def test_wycheproof_vectors(name: str) -> None:
    counts = {True: 0, False: 0}
    for number, key, message, sealed, valid in vectors(name):
        token = pl.Series("t", [key.prefix + sealed], dtype=pl.Binary)
        if valid:
            made = encrypt_column(pl.Series("m", [message], dtype=pl.Binary), key, text=False)
            assert made[0] == token[0], number
            assert decrypt_column(token, {KEY_ID: key})[0] == message, number
        else:
            with pytest.raises(DecryptionError):
                decrypt_column(token, {KEY_ID: key})
        counts[valid] += 1
    assert min(counts.values()) >= 12


@pytest.fixture(scope="module")
def tink_pair() -> tuple[Any, SivKey]:
    """One key, as Tink takes it and as we do."""
    daead.register()
    key = bytes(range(100, 164))
    # AesSivKey as a protocol buffer: field 2, 64 bytes.
    value = base64.b64encode(b"\x12\x40" + key).decode()
    number = int.from_bytes(KEY_ID, "big")
    entry = {
        "keyData": {
            "typeUrl": "type.googleapis.com/google.crypto.tink.AesSivKey",
            "value": value,
            "keyMaterialType": "SYMMETRIC",
        },
        "status": "ENABLED",
        "keyId": number,
        "outputPrefixType": "TINK",
    }
    keyset = json.dumps({"primaryKeyId": number, "key": [entry]})
    handle = tink.json_proto_keyset_format.parse(keyset, secret_key_access.TOKEN)
    return handle.primitive(daead.DeterministicAead), SivKey(key, KEY_ID, (b"acme|ip|1",))


VALUES = [bytes(range(length % 256)) * (1 + length // 256) for length in [*range(70), 255, 511, 512, 513, 900]]


def test_tink_makes_the_same_bytes(tink_pair: tuple[Any, SivKey]) -> None:
    primitive, key = tink_pair
    ours = encrypt_column(pl.Series("v", VALUES), key, text=False).to_list()
    assert ours == [primitive.encrypt_deterministically(value, key.associated[0]) for value in VALUES]


def test_tink_opens_our_tokens(tink_pair: tuple[Any, SivKey]) -> None:
    primitive, key = tink_pair
    for value, token in zip(VALUES, encrypt_column(pl.Series("v", VALUES), key), strict=True):
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        assert primitive.decrypt_deterministically(raw, key.associated[0]) == value


def test_we_open_tokens_of_tink(tink_pair: tuple[Any, SivKey]) -> None:
    primitive, key = tink_pair
    raw = [primitive.encrypt_deterministically(value, key.associated[0]) for value in VALUES]
    text = [base64.urlsafe_b64encode(token).decode().rstrip("=") for token in raw]
    assert decrypt_column(pl.Series("t", raw), {KEY_ID: key}).to_list() == VALUES
    assert decrypt_column(pl.Series("t", text), {KEY_ID: key}, text=False).to_list() == VALUES
