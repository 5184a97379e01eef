"""Synthetic records come from the contract alone: every one is accepted, the same seed gives the same."""

import datetime as dt

from hypothesis import given, settings
from hypothesis import strategies as st

from stores.contracts import load_contracts
from transforms.parsing import parse_records
from transforms.pii.synthetic import as_json_lines, canary_values, synthetic_records

UNTIL = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32),
    contract=st.sampled_from(sorted(load_contracts().values(), key=lambda one: one.source)),
)
def test_every_synthetic_record_fits_its_contract(seed, contract):
    lines = as_json_lines(synthetic_records(contract, seed, 50, UNTIL)).splitlines()
    parsed = parse_records(lines, contract)
    assert parsed.rejected == {}
    assert parsed.to_frame().height == 50
    assert parsed.to_frame()["_unknown"].null_count() == 50


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_the_same_seed_makes_the_same_data(seed):
    contract = load_contracts()["logins"]
    made = [as_json_lines(synthetic_records(contract, seed, 20, UNTIL)) for _ in range(2)]
    assert made[0] == made[1]
    assert canary_values(contract, seed, 30) == canary_values(contract, seed, 30)


def test_canaries_are_all_different_and_of_every_personal_field():
    contract = load_contracts()["logins"]
    values = canary_values(contract, 7, 300)
    assert len(set(values)) == 300
    accepted = parse_records(
        as_json_lines(
            {"user_id": user, "ip": ip, "device_id": device, "device_type": "ios", "app_version": "1.2"}
            for user, ip, device in zip(values[0::3], values[1::3], values[2::3], strict=True)
        ).splitlines(),
        contract,
    )
    assert accepted.rejected == {}
