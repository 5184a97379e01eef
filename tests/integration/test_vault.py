"""The vault: a contract of its own, through intake, reveal and erasure."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lockhouse.operations import Caller
from lockhouse.reveal_operations import open_column
from orchestration.resources import Platform
from stores import contracts
from stores.settings import Settings
from stores.specs import every_table
from stores.tables import Commit
from transforms.errors import ContractError, DecryptionError
from transforms.pii.contracts import Contract, compile_contract
from transforms.tables import VAULT_CELLS

TEXT = """
apiVersion: v3.1.0
kind: DataContract
id: signups
name: Sign-ups
version: 1.0.0
status: active
team: {name: privacy}
schema:
  - name: signups
    customProperties:
      - {property: subjectKey, value: user_id}
      - {property: unknownFields, value: seal}
    properties:
      - name: user_id
        logicalType: string
        logicalTypeOptions: {format: uuid}
        required: true
        classification: restricted
        description: The person.
        customProperties:
          - {property: pii, value: {category: user.unique_id, domain: user, subject: true, outputs: [token]}}
      - name: email
        logicalType: string
        logicalTypeOptions: {format: email}
        required: false
        classification: restricted
        description: Where to write to them.
        customProperties:
          - {property: pii, value: {category: user.contact.email, domain: email, outputs: [vault]}}
      - name: referrer_email
        logicalType: string
        logicalTypeOptions: {format: email}
        required: false
        classification: restricted
        description: Who sent them.
        customProperties:
          - {property: pii, value: {category: user.contact.email, domain: email, strategy: vault}}
"""
ANNA, BERT = "5082b1ae-6523-4e3b-a1d8-9750b4407e01", "5082b1ae-6523-4e3b-a1d8-9750b4407e02"
SHARED = "family@example.org"


@pytest.fixture
def folder(tmp_path: Path, contracts_beside: Callable[..., AbstractContextManager[Path]]) -> Iterator[Path]:
    """The deployment's contracts, with one of the test's own beside them."""
    with contracts_beside(tmp_path / "contracts", signups=TEXT) as place:
        yield place


class SignUps:
    """A home with the source of the test."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.platform = Platform(Settings(home=folder / "home"))
        self.platform.create_home("tester")
        self.contract: Contract = contracts.load_contract("signups", place)
        self.folder = folder

    def sign_up(self, *records: dict[str, object]) -> None:
        name = self.folder / "signups.ndjson"
        name.write_text("".join(json.dumps(one) + "\n" for one in records))
        for batch in self.platform.landing.copy_in("signups", "default", [name]):
            self.platform.intake.seal_batch(batch.id, self.contract)
            self.platform.intake.mask_batch(batch.id, self.contract)
            self.platform.intake.finish_batch(batch.id)

    def rows(self, key: str) -> pl.DataFrame:
        with self.platform.tables.reading("default", key) as table:
            return table.collect()

    def reveal(self, column: str = "email_token") -> dict[str, Any]:
        rows = self.rows("masked.signups").sort("event_id")
        caller = Caller(self.platform, "tester", "default")
        opened = open_column(caller, "email", rows[column], rows["user_id_token"])
        people = open_column(caller, "user", rows["user_id_token"])
        return dict(zip(people, opened, strict=True))


@pytest.fixture
def signups(folder: Path, tmp_path: Path) -> SignUps:
    made = SignUps(tmp_path, folder)
    made.sign_up(
        {"user_id": ANNA, "email": "anna@Example.org"},
        {"user_id": BERT, "email": SHARED, "referrer_email": "anna@example.org"},
    )
    return made


def test_a_masked_row_holds_28_characters_and_the_vault_the_value(signups: SignUps):
    masked, cells = signups.rows("masked.signups"), signups.rows("vault.cells")
    assert set(masked["email_token"].str.len_chars()) == {28}
    # Anna's own address, and hers again as Bert's referrer: a cell each.
    assert cells.height == 3
    assert set(cells["token"]) == set(masked["email_token"]) | set(masked["referrer_email_token"].drop_nulls())
    assert b"example" not in b"".join(cells["cell"]).lower()
    opened = signups.reveal()
    assert opened == {ANNA: "anna@example.org", BERT: SHARED}
    assert signups.reveal("referrer_email_token") == {ANNA: None, BERT: "anna@example.org"}


def test_a_value_is_kept_once_for_its_subject(signups: SignUps):
    signups.sign_up({"user_id": ANNA, "email": "anna@example.org"}, {"user_id": ANNA, "email": SHARED})
    assert signups.rows("vault.cells").height == 4
    hour = signups.rows("masked.signups")["received_hour"].max()
    intake, contract = signups.platform.intake, signups.contract
    intake.remask("default", contract, hour, Commit("remask/1", 1, {"run": "1"}))  # type: ignore[arg-type]
    assert signups.rows("vault.cells").height == 4


def test_a_cell_opens_nowhere_but_in_its_place(signups: SignUps):
    spec = VAULT_CELLS
    cells = signups.rows(spec.key).sort("token", "subject_ref")
    swapped = cells.with_columns(cell=cells["cell"].reverse())
    signups.platform.tables.replace("default", spec, swapped, "tenant = 'default'", Commit("swap", 1, {}))
    with pytest.raises(DecryptionError):
        signups.reveal()


def test_erasing_one_of_two_with_the_same_value_leaves_the_others(signups: SignUps):
    signups.sign_up({"user_id": ANNA, "email": SHARED})
    before = signups.rows("vault.cells")
    masked = signups.rows("masked.signups")
    subject = signups.platform.data_subjects("default").find(ANNA)
    requests = signups.platform.erasure_requests("default")
    request = signups.platform.erasing("default").complete(requests.add([subject], ["d"], "tester", "r"))
    assert request.progress["scan"]["hits"] == 0
    after = signups.rows("vault.cells")
    assert after.height == 2
    assert set(after["subject_ref"]) == set(before["subject_ref"]) - {subject.ref}
    assert signups.reveal() == {BERT: SHARED}
    # A copy of the masked table that was made before: Anna's rows open no more, though Bert has the value.
    caller = Caller(signups.platform, "tester", "default")
    opened = open_column(caller, "email", masked["email_token"], masked["user_id_token"])
    people = open_column(caller, "user", masked["user_id_token"])
    shown = dict(zip(people, opened, strict=True))
    assert shown == {ANNA: None, BERT: SHARED}


def test_a_new_source_is_in_the_plan_by_its_contract_alone(signups: SignUps):
    from stores.erasure_plan import erasure_plan

    plan = erasure_plan()
    assert {spec.key for spec in every_table()} == set(plan)
    assert plan["masked.signups"][1].column == "user_id_token"


def test_everything_in_the_vault_is_in_an_answer(signups: SignUps):
    access = signups.platform.subject_access("default")
    entries = access.gather(signups.platform.data_subjects("default").find(BERT), lambda _: "digest")
    assert sorted(row["value"] for row in entries["vault"]) == ["anna@example.org", SHARED]
    assert [row["record"]["email"] for row in entries["signups"]] == [SHARED]


def test_a_field_cannot_be_token_and_vault_at_once():
    with pytest.raises(ContractError, match="token or vault"):
        compile_contract("x.yaml", TEXT.replace("outputs: [vault]", "outputs: [vault, token]"))


def test_sql_does_not_reach_the_vault(signups: SignUps):
    from stores.sql import SqlSandbox

    assert "vault.cells" not in SqlSandbox(signups.platform.tables, "default").names()


@pytest.mark.parametrize("erased", [False, True])
def test_a_rotation_renews_the_vault_and_what_names_it(signups: SignUps, erased: bool):
    platform = signups.platform
    before, cells = signups.rows("masked.signups"), signups.rows("vault.cells")
    if erased:
        platform.intake.sealer("default").subjects.erase([platform.data_subjects("default").find(ANNA).ref])
    for _ in range(2):
        rotation = platform.rotation("default")
        rotation.begin()
        rotation.renew_keys()
        for key in rotation.table_keys():
            rotation.map_tokens(key)
        rotation.map_cells()
        assert rotation.renew_cells() == (2 if erased else 3)
        assert rotation.renew_cells() == 0
        for key in rotation.table_keys():
            rotation.renew_table(key)
        rotation.finish()
        rotation.retire(at_once=True)
    after, renewed = signups.rows("masked.signups"), signups.rows("vault.cells")
    assert not set(before["email_token"]) & set(after["email_token"])
    assert not set(cells["token"]) & set(renewed["token"])
    assert not set(cells["subject_token"]) & set(renewed["subject_token"])
    assert signups.reveal() == {ANNA: None if erased else "anna@example.org", BERT: SHARED}
    assert signups.reveal("referrer_email_token")[BERT] == "anna@example.org"
    signups.sign_up({"user_id": BERT, "email": SHARED})
    assert signups.rows("vault.cells").height == renewed.height
