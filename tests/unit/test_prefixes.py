"""Prefix-preserving encryption: the published vectors, there and back, and prefixes kept exactly."""

import ipaddress
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.capture.prefixes import (
    decrypt_cryptopan,
    decrypt_prefixes,
    encrypt_cryptopan,
    encrypt_prefixes,
)
from transforms.errors import UsageError

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
KEY = bytes(range(32))
SCHEMES = [
    pytest.param(encrypt_prefixes, decrypt_prefixes, id="ipcrypt-pfx"),
    pytest.param(encrypt_cryptopan, decrypt_cryptopan, id="Crypto-PAn"),
]


def octets_of(texts):
    ips = [ipaddress.ip_address(text) for text in texts]
    packed = [ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed for ip in ips]
    return np.frombuffer(b"".join(packed), np.uint8).reshape(-1, 16)


def texts_of(octets):
    ips = [ipaddress.IPv6Address(row.tobytes()) for row in octets]
    return [str(ip.ipv4_mapped or ip) for ip in ips]


def groups(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())["groups"]


@pytest.mark.parametrize(
    ("name", "encrypt", "decrypt"),
    [
        ("ipcrypt_pfx", encrypt_prefixes, decrypt_prefixes),
        ("cryptopan", encrypt_cryptopan, decrypt_cryptopan),
    ],
)
def test_published_vectors(name, encrypt, decrypt):
    for group in groups(name):
        key = bytes.fromhex(group["key"])
        plain, encrypted = zip(*group["pairs"], strict=True)
        assert len(plain) > 3
        assert texts_of(encrypt(octets_of(plain), key)) == list(encrypted)
        assert texts_of(decrypt(octets_of(encrypted), key)) == list(plain)
        one_by_one = [texts_of(encrypt(octets_of([text]), key))[0] for text in plain]
        assert one_by_one == list(encrypted)


def common_bits(one, two):
    return 128 - (int.from_bytes(one.tobytes(), "big") ^ int.from_bytes(two.tobytes(), "big")).bit_length()


addresses = st.lists(
    st.one_of(
        st.binary(min_size=16, max_size=16),
        st.binary(min_size=4, max_size=4).map(lambda last: bytes(10) + b"\xff\xff" + last),
        st.binary(min_size=2, max_size=2).map(lambda last: bytes.fromhex("20010db8") + bytes(10) + last),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize(("encrypt", "decrypt"), SCHEMES)
@given(rows=addresses)
def test_common_prefixes_stay_exactly_as_long(encrypt, decrypt, rows):
    plain = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 16)
    made = encrypt(plain, KEY)
    assert (decrypt(made, KEY) == plain).all()
    is_ipv4 = [row.startswith(bytes(10) + b"\xff\xff") for row in rows]
    assert [bytes(row[:12]) == bytes(10) + b"\xff\xff" for row in made] == is_ipv4
    for a in range(len(rows)):
        for b in range(a):
            if is_ipv4[a] == is_ipv4[b]:
                assert common_bits(made[a], made[b]) == common_bits(plain[a], plain[b])


@pytest.mark.parametrize(("encrypt", "decrypt"), SCHEMES)
def test_many_addresses_in_runs_are_what_few_are(encrypt, decrypt):
    rng = np.random.default_rng(3)
    plain = rng.integers(0, 256, (40_000, 16), np.uint8)
    plain[:30_000, :12] = [0] * 10 + [255, 255]
    plain[20_000:, :4] = [32, 1, 13, 184]
    made = encrypt(plain, KEY)
    some = rng.integers(0, len(plain), 50)
    assert (encrypt(plain[some], KEY) == made[some]).all()
    assert (decrypt(made, KEY) == plain).all()


def test_no_addresses():
    assert encrypt_prefixes(np.empty((0, 16), np.uint8), KEY).shape == (0, 16)


@pytest.mark.parametrize(("encrypt", "decrypt"), SCHEMES)
def test_keys_of_another_length_are_refused(encrypt, decrypt):
    for call in (encrypt, decrypt):
        with pytest.raises(UsageError, match="16 bytes"):
            call(np.zeros((1, 16), np.uint8), bytes(16))


def test_equal_halves_are_refused():
    with pytest.raises(UsageError, match="halves"):
        encrypt_prefixes(np.zeros((1, 16), np.uint8), KEY[:16] * 2)
