"""The access matrix: every service and every right in both directions, in the handles and in the databases."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from orchestration.resources import Platform
from stores.contracts import load_contract
from stores.settings import Settings
from stores.validations.event_bus import EventBus
from stores.validations.handles import Handle
from stores.validations.high_store import FIELDS, HighStore
from stores.validations.intake import ValidationIntake
from stores.validations.low_store import LowStore
from transforms.errors import RefusedError
from transforms.validations.events import Event, EventType
from transforms.validations.matrix import MATRIX, PUBLICATIONS, SUBSCRIPTIONS, VERBS, Asset, Service

# The product's own table, written down once more: who changes the matrix has to change both.
WANTED = {
    Service.INTAKE: {Asset.KEYS: {"encrypt"}, Asset.EVENTS: {"publish"}},
    Service.DISCLOSURE: {Asset.LOW: {"get"}, Asset.HIGH: {"get"}, Asset.KEYS: {"decrypt"}},
    Service.VALIDATOR: {
        Asset.LOW: {"put", "update", "delete"},
        Asset.KEYS: {"decrypt"},
        Asset.EVENTS: {"publish", "subscribe"},
    },
    Service.PII_STORE: {Asset.HIGH: {"put", "update", "delete"}, Asset.EVENTS: {"publish", "subscribe"}},
    Service.ANALYTICS: {
        Asset.LOW: {"get"},
        Asset.HIGH: {"get"},
        Asset.KEYS: {"decrypt"},
        Asset.EVENTS: {"subscribe"},
    },
}
ID = "01a1fec0-df13-775c-9309-0840fda3ec81"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    made = Platform(Settings(home=tmp_path_factory.mktemp("matrix") / "home"))
    made.create_home("tester")
    return made


@pytest.mark.parametrize("service", Service, ids=str)
@pytest.mark.parametrize("asset", Asset, ids=str)
def test_each_service_has_exactly_what_the_matrix_says(service: Service, asset: Asset, platform: Platform):
    handle = platform.validations.lend(service, asset)
    for verb in VERBS[asset]:
        if verb in WANTED[service].get(asset, set()):
            assert callable(getattr(handle, verb))
        else:
            with pytest.raises(RefusedError, match=f"{service} may not {verb}"):
                getattr(handle, verb)
    with pytest.raises(AttributeError):
        handle.erase  # noqa: B018 - what is no verb is not lent to anybody


def test_the_matrix_is_the_products_own():
    assert {one: {asset: set(verbs) for asset, verbs in lent.items()} for one, lent in MATRIX.items()} == WANTED


def test_services_hold_handles_and_nothing_that_they_were_made_from(platform: Platform):
    validations = platform.validations
    held: list[Any] = [validations.intake, validations.disclosure]
    held += [validations._consumer(service) for service in SUBSCRIPTIONS]
    wide = (LowStore, HighStore, EventBus)
    for service in held:
        values = vars(service).values()
        assert any(isinstance(one, Handle) for one in values)
        assert not any(isinstance(one, wide) for one in values)


def test_the_intake_has_no_way_to_open_what_it_seals(platform: Platform):
    intake: ValidationIntake = platform.validations.intake
    with pytest.raises(RefusedError):
        intake._keys.decrypt("default", ID, {})
    lent = {name for name in dir(intake._registrar) if not name.startswith("_")}
    assert lent == {"enrol", "public_half", "release"}


@pytest.mark.parametrize("service", [Service.DISCLOSURE, Service.ANALYTICS], ids=str)
@pytest.mark.parametrize("asset", [Asset.LOW, Asset.HIGH], ids=str)
def test_who_may_only_get_has_a_connection_that_can_only_read(
    service: Service, asset: Asset, platform: Platform
):
    store = platform.validations._target(service, asset)
    assert isinstance(store, LowStore | HighStore)
    with store.database.begin() as connection:
        for table in sa.inspect(connection).get_table_names():
            with pytest.raises(sa.exc.OperationalError, match="readonly"):
                connection.exec_driver_sql(f"delete from {table}")  # noqa: S608 - the names of our tables


@pytest.mark.parametrize("service", Service, ids=str)
@pytest.mark.parametrize("kind", EventType, ids=str)
def test_each_service_tells_its_own_events_and_no_others(service: Service, kind: EventType, platform: Platform):
    validations = platform.validations
    outbox = validations.journal.outbox
    with platform.database.begin() as connection:
        outbox.add(connection, Event(kind, "default", ID, ID, decision="accepted"))
    bus = EventBus(service, validations.queue, outbox)
    try:
        if kind in PUBLICATIONS.get(service, frozenset()):
            assert bus.publish() == 1
        else:
            with pytest.raises(RefusedError, match="may not publish"):
                bus.publish()
    finally:
        outbox.close([number for number, _ in outbox.waiting()])


def test_the_two_stores_are_files_of_their_own_for_their_owner_only(platform: Platform):
    folder: Path = platform.home.validations
    assert {one.name for one in folder.glob("*.db")} == {"low.db", "high.db"}
    assert folder.stat().st_mode & 0o077 == 0


def test_the_high_store_has_a_sealed_column_for_each_personal_field_and_the_low_store_none():
    personal = {one.name for one in load_contract("validations").fields if one.is_personal}
    assert set(FIELDS) == personal
    from stores.validations.low_store import DECISIONS, DELETIONS

    named = {"tenant", "id", "change", "decision", "reasons", "status", "created", "updated"}
    assert {one.name for one in DECISIONS.columns} == named
    assert {one.name for one in DELETIONS.columns} == {"tenant", "id", "deleted", "decision"}
