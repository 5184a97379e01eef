"""Homes that integration tests share: the stage of Dagster, the lake of erasures, the world of validations."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dagster_stage import Stage, staged
from erasure_lake import GONE, HOUR, OTHER, PEOPLE, Lake, login, packets
from homes import copy_home
from orchestration.resources import Platform
from stores.settings import Settings
from validation_world import World


@pytest.fixture(scope="session")
def template(lockhouse: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("dagster") / "template"
    assert lockhouse("init", home=home).code == 0
    return home


@pytest.fixture
def stage(template: Path, tmp_path: Path) -> Iterator[Stage]:
    """An empty home of one's own."""
    home = copy_home(template, tmp_path / "home")
    with staged(home, tmp_path / "instance") as made:
        yield made


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


@pytest.fixture
def full(lake: Lake) -> Lake:
    """Logins of several people in several deliveries, and captures of a device that changed hands."""
    for part in range(3):
        lake.log_in(*(login(person, part * 10 + at) for at, person in enumerate(PEOPLE)))
    lake.log_in({"user_id": GONE, "oops": 1}, {"user_id": OTHER, "oops": 1}, login(GONE, 77, note="secret"))
    devices = lake.platform.devices("default")
    devices.own("phone-1", GONE, HOUR - timedelta(hours=1))
    devices.own("phone-1", OTHER, HOUR + timedelta(seconds=30))
    lake.deliver(packets(HOUR, 60), "captures", "phone-1")
    lake.deliver(packets(HOUR - timedelta(minutes=10), 20), "captures", "phone-1")
    lake.deliver(packets(HOUR, 40), "captures", "router-9")
    return lake


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("validations") / "home"
    Platform(Settings(home=home)).create_home("tester")
    return home


@pytest.fixture
def world(pristine: Path, tmp_path: Path) -> World:
    return World(copy_home(pristine, tmp_path / "home"))
