"""A home with two tenants, devices, packets and logins; the service over it, and everybody who may ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from homes import copy_home
from lockhouse.errands import Errands
from lockhouse.service.application import make_application
from orchestration.resources import Platform
from stores import users as users_module
from stores.settings import load_settings
from transforms.access import OF_DEVICES, RIGHTS, Right, Role
from transforms.capture.synthetic import synthetic_capture

HOUR = "2026-11-21T07:00:00Z"
NEXT_HOUR = "2026-11-21T08:00:00Z"
PASSWORD = "correct horse battery"  # noqa: S105
TENANTS = ("default", "acme")


@dataclass
class House:
    """A home that is served, with a client for each role and a person for each."""

    platform: Platform
    files: dict[str, bytes]
    secrets: dict[str, str] = field(default_factory=dict)

    def application(self, **settings: Any) -> Any:
        """Make the service, with other settings where given."""
        chosen = self.platform.settings.model_copy(update={"service_requests_per_minute": 100_000, **settings})
        return make_application(Platform(chosen))

    def client(self, **settings: Any) -> TestClient:
        """Give something to ask the service with; nobody is signed in."""
        return TestClient(self.application(**settings), follow_redirects=False, raise_server_exceptions=False)

    def token(self, client: TestClient, name: str, scope: str = "") -> str:
        """Get a token as a program does."""
        form = {"grant_type": "client_credentials", "scope": scope}
        answer = client.post("/oauth/token", data=form, auth=(name, self.secrets[name]))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def issue(self, name: str) -> dict[str, str]:
        """Give the headers of a program, without asking at the door."""
        found = self.platform.access.clients.find(f"client:{name}")
        assert found is not None
        return {"Authorization": f"Bearer {self.platform.tokens.issue(found, found.scopes)}"}

    def entries(self, tenant: str = "default", principal: str | None = None) -> list[Any]:
        """Give the trail's entries."""
        return self.platform.audit.page(tenant, None, 1_000_000, principal)[::-1]


@pytest.fixture(scope="session", autouse=True)
def cheap_passwords() -> Iterator[None]:
    """Stretch passwords cheaply in tests."""
    before = dict(users_module.PASSWORD_COSTS)
    users_module.PASSWORD_COSTS.update(memory_kib=64, passes=1, lanes=1)
    yield
    users_module.PASSWORD_COSTS.update(before)


@pytest.fixture(scope="session", autouse=True)
def start_errands() -> Iterator[Callable[[Errands], None]]:
    """Start no process for errands, unless a test says so with what this gives: homes are shared by tests."""
    before = Errands.wake
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Errands, "wake", lambda self: None)
        yield before


@pytest.fixture(scope="session")
def built_home(
    tmp_path_factory: pytest.TempPathFactory, lockhouse: Callable[..., Any]
) -> tuple[Path, dict[str, bytes]]:
    """A home with packets of a device in each of two tenants, through the steps of intake."""
    folder = tmp_path_factory.mktemp("service")
    home, files = folder / "home", {}
    assert lockhouse("init", home=home).code == 0
    platform = Platform(load_settings(home))
    batches = []
    for number, tenant in enumerate(TENANTS):
        platform.add_tenant(tenant, "root")
        platform.devices(tenant).register("router-8")
        content = synthetic_capture(number, 500, datetime.fromisoformat(NEXT_HOUR))
        files[f"{tenant}/router-7"] = content
        batches += platform.landing.land("captures", tenant, "hour.pcap", content, "router-7")
    for batch in batches:
        # The steps of the assets, without Dagster around them.
        platform.captures.seal_batch(batch.id)
        platform.captures.mask_batch(batch.id)
        platform.captures.finish_batch(batch.id)
    return home, files


@pytest.fixture(scope="session")
def house(built_home: tuple[Path, dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> House:
    """A copy of that home with everybody in it, for this process; tests add to it, and take nothing away."""
    built, files = built_home
    home = copy_home(built, tmp_path_factory.mktemp("served") / "home")
    platform = Platform(load_settings(home))
    made = House(platform, files)
    access = platform.access
    for tenant in TENANTS:
        short = tenant[:1]
        for role in Role:
            # A program that acts in a role holds every scope: what bounds it then is the role.
            name = f"{short}-{role}"
            scopes = frozenset(RIGHTS[role])
            _, made.secrets[name] = access.clients.add(name, tenant, scopes)
            access.assign(f"client:{name}", role, tenant)
            platform.users.add(f"user-{name}", PASSWORD)
            access.assign(f"user-{name}", role, tenant)
        ref = platform.devices(tenant).ref("router-7")
        access.grants.change_group(tenant, "case", [ref], [])
    now = datetime.now(UTC)
    for name, since, until in (
        ("granted", now - timedelta(hours=1), now + timedelta(days=1)),
        ("expired", now - timedelta(days=2), now - timedelta(days=1)),
        ("later", now + timedelta(days=1), now + timedelta(days=2)),
    ):
        _, made.secrets[name] = access.clients.add(name, "default", OF_DEVICES)
        access.grants.add("default", f"client:{name}", Role.INVESTIGATOR, "case", since, until, "root")
    _, made.secrets["masked"] = access.clients.add("masked", "default", OF_DEVICES)
    access.grants.add("default", "client:masked", Role.ANALYST, "case", now, now + timedelta(days=1), "root")
    _, made.secrets["scoped"] = access.clients.add("scoped", "default", frozenset({Right.READ_TABLES}))
    return made


@pytest.fixture
def client(house: House) -> Iterator[TestClient]:
    """Something to ask the service with."""
    with house.client() as made:
        yield made


def capture_path(device: str = "router-7", since: str = HOUR, until: str = NEXT_HOUR, **more: str) -> str:
    """Give the address of a download."""
    named = "".join(f"&{name}={value}" for name, value in more.items())
    return f"/v1/devices/{device}/capture?from={since}&to={until}{named}"
