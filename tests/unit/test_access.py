"""Roles and rights: the whole matrix, in both directions, and how the store reads it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from stores.access import EVERY_TENANT, Access
from stores.database import Database
from transforms.access import RIGHTS, Right, Role, allows
from transforms.errors import RefusedError

# Written out by hand: a change of the table has to be made twice.
MATRIX = {
    Role.OPERATOR: set(Right),
    Role.DATA_ENGINEER: {
        Right.INGEST,
        Right.READ_TABLES,
        Right.READ_QUARANTINE,
        Right.CHANGE_QUARANTINE,
        Right.MANAGE_DEVICES,
        Right.SUBMIT_VALIDATIONS,
        Right.READ_VALIDATIONS,
    },
    Role.ANALYST: {Right.READ_TABLES, Right.READ_CAPTURES},
    Role.INVESTIGATOR: {Right.READ_TABLES, Right.READ_CAPTURES, Right.READ_PAYLOAD},
    Role.PRIVACY_OFFICER: {
        Right.READ_TABLES,
        Right.REVEAL,
        Right.APPROVE_REVEALS,
        Right.ACCESS_SUBJECTS,
        Right.ERASE_SUBJECTS,
        Right.READ_AUDIT,
        Right.READ_CAPTURES,
        Right.MANAGE_DEVICES,
        Right.READ_VALIDATIONS,
        Right.DISCLOSE_VALIDATIONS,
        Right.CHANGE_VALIDATIONS,
    },
    Role.AUDITOR: {Right.READ_AUDIT},
    Role.CLIENT: {Right.INGEST, Right.SUBMIT_VALIDATIONS, Right.READ_VALIDATIONS},
}
CASES = [(role, right) for role in Role for right in Right]


@pytest.mark.parametrize(("role", "right"), CASES)
def test_a_role_holds_its_rights_and_no_others(role: Role, right: Right):
    assert allows(role, right) is (right in MATRIX[role])


def test_every_role_is_in_the_table_and_every_right_is_held_by_somebody():
    assert set(RIGHTS) == set(Role) == set(MATRIX)
    assert set().union(*RIGHTS.values()) == set(Right)


@pytest.mark.parametrize("role", ["", "king", "Operator", "OPERATOR", "operator ", "*"])
def test_an_unknown_role_holds_nothing(role: str):
    assert not any(allows(role, right) for right in Right)


@pytest.mark.parametrize("right", [Right.REVEAL, Right.OPERATE])
def test_readers_of_tables_alone_can_neither_reveal_nor_operate(right: Right):
    assert not any(allows(role, right) for role in (Role.ANALYST, Role.INVESTIGATOR, Role.CLIENT))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    path: Path = tmp_path_factory.mktemp("access") / "app.db"
    made = Database.at(path)
    made.migrate()
    return made


@pytest.fixture
def access(database: Database) -> Access:
    return Access(database, lambda: datetime(2026, 11, 21, tzinfo=UTC))


def test_nobody_is_allowed_anything_before_a_role_is_given(access: Access):
    for right in Right:
        with pytest.raises(RefusedError, match="nobody holds no role"):
            access.authorise("nobody", right, "default")


@pytest.mark.parametrize("role", list(Role))
def test_a_role_in_one_tenant_counts_there_only(access: Access, role: Role):
    person = f"one-{role}"
    access.assign(person, role, "acme")
    for right in Right:
        if right in MATRIX[role]:
            assert access.authorise(person, right, "acme") == role
        else:
            with pytest.raises(RefusedError):
                access.authorise(person, right, "acme")
        for other in ("default", "acme2", "", EVERY_TENANT):
            with pytest.raises(RefusedError):
                access.authorise(person, right, other)


def test_a_role_in_every_tenant_counts_in_each(access: Access):
    access.assign("everywhere", Role.AUDITOR)
    for tenant in ("default", "acme", "of-tomorrow"):
        assert access.authorise("everywhere", Right.READ_AUDIT, tenant) == "auditor"


def test_roles_add_up(access: Access):
    access.assign("both", Role.ANALYST, "acme")
    access.assign("both", Role.AUDITOR, "acme")
    assert access.authorise("both", Right.READ_TABLES, "acme") == "analyst"
    assert access.authorise("both", Right.READ_AUDIT, "acme") == "auditor"
    with pytest.raises(RefusedError):
        access.authorise("both", Right.REVEAL, "acme")


def test_giving_a_role_again_changes_nothing(access: Access):
    assert access.assign("again", Role.ANALYST, "acme")
    assert not access.assign("again", Role.ANALYST, "acme")
    assert access.roles("again", "acme") == ["analyst"]


def test_names_are_compared_exactly(access: Access):
    access.assign("alice", Role.OPERATOR)
    for other in ("Alice", "alice ", "alic_", "alice%", "' or 1=1 --"):
        with pytest.raises(RefusedError):
            access.authorise(other, Right.READ_TABLES, "default")


def test_tenants_are_registered_once(access: Access):
    assert access.add_tenant("zeta")
    assert not access.add_tenant("zeta")
    assert access.tenants().count("zeta") == 1
