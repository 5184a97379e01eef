"""Every column says what it holds of a person: whoever adds one without a class is stopped here."""

import re

from lockhouse.reference_tables import read_marts
from stores.contracts import load_contracts
from stores.specs import every_table

CLASSES = {None, "token", "vault", "hash", "coarse", "sealed", "pseudonym", "redacted", "kept"}
# By their names, columns that are made of personal data.
MADE_OF_PEOPLE = re.compile(r"_(token|hash|sealed|ref|prefix|net24|net48)$|^(record|content|file_name|cell)$")
PUBLIC = ("public", "internal")


def test_every_column_of_every_table_has_a_known_class():
    columns = [(spec.key, one) for spec in every_table() for one in spec.columns]
    assert [f"{key}.{one.name}" for key, one in columns if one.pii not in CLASSES] == []
    bare = [f"{key}.{one.name}" for key, one in columns if MADE_OF_PEOPLE.search(one.name) and one.pii is None]
    assert bare == []


def test_every_column_of_every_mart_that_names_somebody_is_classified():
    bare = [
        f"{mart.name}.{one.name}"
        for mart in read_marts()
        for one in mart.columns
        if MADE_OF_PEOPLE.search(one.name) and one.pii is None
    ]
    assert bare == []


def test_no_column_of_people_is_in_statistics():
    shown = [
        f"{spec.key}.{one.name}"
        for spec in every_table()
        for one in spec.columns
        if one.name in spec.statistics and (one.pii is not None or MADE_OF_PEOPLE.search(one.name))
    ]
    assert shown == []


def test_every_declared_field_is_personal_or_public():
    for contract in load_contracts().values():
        for field in contract.fields:
            assert field.is_personal or field.classification in PUBLIC, field.name
