"""A contract is refused with a reason or holds: whatever a record then brings is masked or turned away."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import polars as pl
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.contracts import FOLDER
from transforms.errors import ContractError
from transforms.parsing import parse_records
from transforms.pii.contracts import (
    DERIVATIONS,
    FORMATS,
    GENERALISATIONS,
    LOGICAL_TYPES,
    PLAIN_STRATEGIES,
    TRUNCATIONS,
    Contract,
    compile_contract,
)
from transforms.pii.masking import mask_records
from transforms.pii.siv import SivKey

DOCUMENT = yaml.safe_load((FOLDER / "logins.yaml").read_text())
GOOD = {
    "user_id": "424cdd21-063a-43a7-b91b-7ca1a833afae",
    "app_version": "2.3.0",
    "device_type": "android",
    "ip": "199.172.111.135",
    "device_id": "593-47-5928",
}
OUTPUTS = [
    *PLAIN_STRATEGIES,
    *({"truncate": one} for one in TRUNCATIONS),
    *({"generalise": one} for one in GENERALISATIONS),
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(
        ["1.2.3", "99999999999.1", "jo.bloggs@example.org", "198.51.100.213", "1990-02-28", "2001:db8::1"]
    )
)


@st.composite
def properties(draw: st.DrawFn) -> dict[str, Any]:
    """A declared field: every type with every format, pattern, output and derivation."""
    options = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "format": st.sampled_from(FORMATS),
                "pattern": st.sampled_from(
                    ["^[a-z]{1,9}$", "^[0-9.]{1,20}$", r"^\w(?=x)$", "^(", ".*", "a)|(b"]
                ),
                "maxLength": st.sampled_from([1, 16, 0, "x", None]),
            },
        )
    )
    pii = {
        "category": "user.contact",
        "domain": "it",
        "outputs": draw(st.lists(st.sampled_from(OUTPUTS), max_size=3)),
    }
    custom = [{"property": "pii", "value": pii}] if draw(st.booleans()) else []
    if draw(st.booleans()):
        custom.append({"property": "derive", "value": draw(st.sampled_from(DERIVATIONS))})
    return {
        "name": "it",
        "logicalType": draw(st.sampled_from(LOGICAL_TYPES)),
        "logicalTypeOptions": options,
        "classification": draw(st.sampled_from(["internal", "restricted"])),
        "description": "It.",
        "customProperties": custom,
    }


def compiled(document: dict[str, Any]) -> Contract | None:
    """The contract, or None where it is refused."""
    try:
        return compile_contract("contracts/it.yaml", yaml.safe_dump(document))
    except ContractError as error:
        assert str(error).startswith("contracts/it.yaml")
        return None


def masked(contract: Contract, values: list[Any]) -> pl.DataFrame:
    """The masked columns of the records that are accepted with these values."""
    lines = [json.dumps({**GOOD, "it": value}).encode() for value in values]
    parsed = parse_records(lines, contract)
    keys = {domain: SivKey(bytes(64), b"\0\0\0\7", (b"test",)) for domain in contract.domains}
    taken = {name: column.take(parsed.rows) for name, column in parsed.fields.items()}
    made = mask_records(taken, contract, keys)
    assert made.num_rows == len(parsed.rows) == len(values) - len(parsed.rejected)
    return pl.DataFrame({name: made[name].to_pylist() for name in made.column_names}, strict=False)


@settings(max_examples=150)
@given(properties(), st.lists(SCALARS, max_size=12))
def test_a_contract_that_compiles_masks_whatever_is_accepted(declared, values):
    document = copy.deepcopy(DOCUMENT)
    document["schema"][0]["properties"].append(declared)
    contract = compiled(document)
    if contract is not None:
        masked(contract, values)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a document, from the root down."""
    steps = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(found for step, child in steps for found in places(child, (*path, step)))]


PLACES = places(DOCUMENT)[1:]


@settings(max_examples=150)
@given(st.sampled_from(PLACES), SCALARS | st.sampled_from([[], {}, [{}], {"a": 1}, [None]]), st.booleans())
def test_a_document_with_one_thing_changed_is_compiled_or_refused_with_a_place(path, value, is_removed):
    document = copy.deepcopy(DOCUMENT)
    node = document
    for step in path[:-1]:
        node = node[step]
    if is_removed:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    compiled(document)


def coarse_of_a_text(detail: str, strategy: str) -> Contract | None:
    document = copy.deepcopy(DOCUMENT)
    document["schema"][0]["properties"].append(
        {
            "name": "it",
            "logicalType": "string",
            "classification": "restricted",
            "description": "It.",
            "customProperties": [
                {"property": "pii", "value": {"category": "user.name", "outputs": [{strategy: detail}]}}
            ],
        }
    )
    return compiled(document)


def test_no_coarse_form_is_made_of_a_text_that_may_be_anything():
    """The network of a name would be the name with an ending."""
    for strategy, details in (("truncate", TRUNCATIONS), ("generalise", GENERALISATIONS)):
        assert [coarse_of_a_text(detail, strategy) for detail in details] == [None] * len(details)


VERSION = r"[0-9x]{0,13}(\.[0-9x]{0,13}){0,2}"


@given(st.lists(st.from_regex(re.compile(VERSION, re.ASCII), fullmatch=True) | st.just("1.99999999999")))
def test_a_version_begins_with_a_number_and_its_other_parts_may_be_none(values):
    document = copy.deepcopy(DOCUMENT)
    version = next(one for one in document["schema"][0]["properties"] if one["name"] == "app_version")
    version["logicalTypeOptions"]["pattern"] = VERSION
    document["schema"][0]["properties"].append({**version, "name": "it"})
    contract = compiled(document)
    assert contract is not None
    made = masked(contract, values)
    assert made["it"].to_list() == [text for text in values if re.match(r"[0-9]{1,9}(\.|$)", text)]
    assert made["it_major"].to_list() == [int(text.split(".")[0]) for text in made["it"]]
    for name, at in (("it_minor", 1), ("it_patch", 2)):
        parts = [f"{text}...".split(".")[at] for text in made["it"]]
        assert made[name].to_list() == [
            int(one) if one.isdigit() and int(one) < 2**31 else None for one in parts
        ]
