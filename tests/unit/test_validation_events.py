"""Events and sealed fields: what they look like, and what is refused."""

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import DecryptionError, EventError
from transforms.pii.ciphers import open_with_private_key, seal_to_public_key
from transforms.validations.events import (
    Event,
    EventType,
    decode_event,
    encode_event,
    following,
    is_complete,
    moment_of,
)
from transforms.validations.sealing import derive_private_half, open_fields, public_half_of, seal_fields

ID = "01a1fec0-df13-775c-9309-0840fda3ec81"
KEY = bytes(range(32))
VECTOR_PRIVATE = "23eb84f0e37affa6120d1b72c95bf71e4c78f752a5fe2353b55a68542619437b"
VECTOR = (
    "028a9402efb31fd0200dd9b4fb529e32f647924256c0a5350ca48db728d6992f6b3f5ffc72975de77df839d421fa57a6b67cec02"
    "b31304327f42"
)
FIELDS = {"username": "jo.bloggs", "full_name": "Jo Blöggs"}


@pytest.mark.parametrize("kind", EventType, ids=str)
def test_an_event_is_read_as_it_was_written(kind: EventType):
    fields = {"username": b"\x02sealed"} if kind is EventType.VALIDATION_REQUEST else {}
    decision = "accepted" if kind is EventType.VALIDATION_RESULT else None
    event = Event(kind, "acme", ID, ID, fields, decision)
    assert decode_event(encode_event(event)) == event
    assert set(json.loads(encode_event(event))) == {
        "event",
        "version",
        "tenant",
        "validation",
        "change",
        "payload",
    }


def broken(**changed: object) -> str:
    return json.dumps({**json.loads(encode_event(Event(EventType.DATA_STORED, "acme", ID, ID))), **changed})


@pytest.mark.parametrize(
    "message",
    [
        "",
        "[]",
        "{}",
        "null",
        broken(version=2),
        broken(event="Nonsense"),
        broken(validation="u-1"),
        broken(payload={"fields": {}}),
        broken(payload=None),
        broken(event="ValidationRequest", payload={"fields": {"a": "!"}}),
        broken(event="ValidationRequest", payload={"fields": {"a": 1}}),
        broken(event="ValidationRequest", payload={"fields": []}),
    ],
)
def test_what_is_no_event_is_refused_without_a_word_of_it(message: str):
    with pytest.raises(EventError) as caught:
        decode_event(message)
    assert "u-1" not in str(caught.value) and "Nonsense" not in str(caught.value)


def test_a_record_is_whole_with_a_decision_and_data_in_any_order():
    whole = ({"ValidationResult", "DataStored"}, {"DataUpdated", "ValidationResult", "DataStored"})
    assert all(map(is_complete, whole))
    assert not any(
        map(is_complete, (set(), {"ValidationResult"}, {"DataStored", "DataUpdated"}, {"DataDeleted"}))
    )


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**62 - 1))
def test_a_following_id_is_greater_and_no_earlier(moment: int, rest: int):
    made = str(uuid.UUID(int=moment << 80 | 7 << 76 | 2 << 62 | rest >> 2))
    if following(made)[14] == "7":
        assert following(made) > made
        if moment < 253_402_300_800_000:
            assert moment_of(following(made)) >= moment_of(made)


def test_fields_open_for_the_subjects_key_in_their_place_and_nowhere_else():
    half = public_half_of(KEY)
    sealed = seal_fields(half, "acme", ID, FIELDS)
    private = derive_private_half(KEY)
    assert open_fields(private, "acme", ID, sealed) == FIELDS
    assert all(value.encode() not in one for one in sealed.values() for value in FIELDS.values())
    other = derive_private_half(bytes(32))
    swapped = {"username": sealed["full_name"], "full_name": sealed["username"]}
    flipped = {name: one[:-1] + bytes([one[-1] ^ 1]) for name, one in sealed.items()}
    marked = {name: b"\x01" + one[1:] for name, one in sealed.items()}
    for key, tenant, validation, content in (
        (other, "acme", ID, sealed),
        (half, "acme", ID, sealed),
        (private, "other", ID, sealed),
        (private, "acme", following(ID), sealed),
        (private, "acme", ID, swapped),
        (private, "acme", ID, flipped),
        (private, "acme", ID, marked),
    ):
        with pytest.raises(DecryptionError):
            open_fields(key, tenant, validation, content)


def test_equal_values_are_sealed_differently_each_time():
    half = public_half_of(KEY)
    assert len({seal_fields(half, "acme", ID, FIELDS)["username"] for _ in range(5)}) == 5


def test_what_was_sealed_by_an_earlier_release_opens():
    """A vector of our own: HPKE is fixed, so what is stored stays readable."""
    private = derive_private_half(KEY)
    assert private.hex() == VECTOR_PRIVATE
    assert open_fields(private, "acme", ID, {"username": bytes.fromhex(VECTOR)}) == {"username": "jo.bloggs"}


def test_it_is_the_hpke_of_the_standard():
    """Tink's HPKE with the same suite opens it: X25519, HKDF-SHA256, AES-256-GCM, base mode."""
    import tink
    from tink import hybrid, secret_key_access
    from tink.proto import hpke_pb2, tink_pb2

    private = derive_private_half(KEY)
    sealed = seal_to_public_key(public_half_of(KEY), b"value", b"info")
    assert open_with_private_key(private, sealed, b"info") == b"value"
    parameters = hpke_pb2.HpkeParams(
        kem=hpke_pb2.DHKEM_X25519_HKDF_SHA256, kdf=hpke_pb2.HKDF_SHA256, aead=hpke_pb2.AES_256_GCM
    )
    public = hpke_pb2.HpkePublicKey(version=0, params=parameters, public_key=public_half_of(KEY))
    key = hpke_pb2.HpkePrivateKey(version=0, public_key=public, private_key=private)
    keyset = tink_pb2.Keyset(
        primary_key_id=1,
        key=[
            tink_pb2.Keyset.Key(
                key_data=tink_pb2.KeyData(
                    type_url="type.googleapis.com/google.crypto.tink.HpkePrivateKey",
                    value=key.SerializeToString(),
                    key_material_type=tink_pb2.KeyData.ASYMMETRIC_PRIVATE,
                ),
                status=tink_pb2.ENABLED,
                key_id=1,
                output_prefix_type=tink_pb2.RAW,
            )
        ],
    )
    hybrid.register()
    handle = tink.proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
    assert handle.primitive(hybrid.HybridDecrypt).decrypt(sealed, b"info") == b"value"
