"""Values of 25 kinds, planted in every source in every place that takes text: none is readable afterwards.

2,500 by default; `PLANTED=10000` plants as many as the home is promised to keep.
"""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from orchestration.resources import Platform
from stores.leaks import default_exclusions, scan
from stores.settings import load_settings
from transforms.capture.synthetic import synthetic_capture

COUNT = int(os.environ.get("PLANTED", "2500"))
HOUR = datetime(2026, 11, 20, 8, tzinfo=UTC)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def digits(dice: random.Random, count: int) -> str:
    return "".join(str(dice.randrange(10)) for _ in range(count))


def word(dice: random.Random, count: int = 7) -> str:
    return "".join(dice.choice(LETTERS) for _ in range(count))


def luhn(number: str) -> str:
    """A number with its check digit (ISO/IEC 7812-1, annex B)."""
    doubled = (int(one) * (2 - at % 2) for at, one in enumerate(reversed(number)))
    return f"{number}{-sum(value // 10 + value % 10 for value in doubled) % 10}"


def iban(dice: random.Random) -> str:
    """A German account number with its check digits (ISO 13616)."""
    account = digits(dice, 18)
    return f"DE{98 - int(account + '131400') % 97:02d}{account}"


def day(dice: random.Random) -> str:
    born = date(1930, 1, 1) + timedelta(days=dice.randrange(30_000))
    # A date alone stands in many places by right: the moment beside it tells this one.
    moment = ":".join(f"{dice.randrange(60):02d}" for _ in range(2))
    return f"{born.isoformat()}T{dice.randrange(24):02d}:{moment}.{digits(dice, 6)}"


KINDS: dict[str, Callable[[random.Random], str]] = {
    "IPv4 address and port": lambda dice: (
        ".".join(str(dice.randrange(1, 255)) for _ in range(4)) + f":{dice.randrange(1024, 65536)}"
    ),
    "IPv6 address": lambda dice: "2001:db8:" + ":".join(f"{dice.randrange(0x1000, 65536):x}" for _ in range(6)),
    "MAC address": lambda dice: ":".join(f"{dice.randrange(256):02x}" for _ in range(6)),
    "BSSID": lambda dice: "-".join(f"{dice.randrange(256):02X}" for _ in range(6)),
    "e-mail": lambda dice: f"{word(dice)}.{word(dice)}@{word(dice)}.example",
    "phone, international": lambda dice: f"+49{digits(dice, 11)}",
    "phone, as written": lambda dice: f"(0{digits(dice, 3)}) {digits(dice, 4)} {digits(dice, 4)}",
    "user id": lambda dice: re.sub(
        r"^(.{8})(.{4})(.{4})(.{4})", r"\1-\2-\3-\4-", f"{dice.getrandbits(128):032x}"
    ),
    "user name": lambda dice: f"{word(dice)}_{digits(dice, 5)}",
    "full name": lambda dice: f"{word(dice).title()} {word(dice, 9).title()}",
    "name, not Latin": lambda dice: "".join(dice.choice("абвгдежзиклмнопрстуфх") for _ in range(12)),
    "birth": day,
    "street address": lambda dice: (
        f"{digits(dice, 3)} {word(dice).title()} Street, {digits(dice, 5)} {word(dice).title()}"
    ),
    "coordinates": lambda dice: f"{dice.uniform(-90, 90):.6f},{dice.uniform(-180, 180):.6f}",
    "payment card": lambda dice: luhn("4" + digits(dice, 14)),
    "IBAN": iban,
    "social security number": lambda dice: f"{digits(dice, 3)}-{digits(dice, 2)}-{digits(dice, 4)}",
    "national insurance number": lambda dice: f"QQ {digits(dice, 2)} {digits(dice, 2)} {digits(dice, 2)} C",
    "tax number": lambda dice: f"{digits(dice, 2)}/{digits(dice, 3)}/{digits(dice, 5)}",
    "passport": lambda dice: f"C{digits(dice, 1)}{word(dice, 3).upper()}{digits(dice, 5)}",
    "machine-readable zone": lambda dice: f"P<UTO{word(dice).upper()}<<{word(dice).upper()}<<<<<<",
    "driving licence": lambda dice: f"{word(dice, 5).upper()}{digits(dice, 6)}{word(dice, 2).upper()}9",
    "IMEI": lambda dice: luhn("35" + digits(dice, 12)),
    "bearer token": lambda dice: f"eyJhbGciOiJub25lIn0.{word(dice, 24)}.",
    "host name": lambda dice: f"{word(dice)}-laptop.{word(dice)}.example",
}


def planted_values(count: int) -> list[str]:
    """As many values of every kind, all different, always the same."""
    dice = random.Random(25)  # noqa: S311 - to be recognised, not to be kept secret
    values: dict[str, None] = {}
    makers = list(KINDS.values())
    while len(values) < count:
        values[makers[len(values) % len(makers)](dice)] = None
    return list(values)


def login(**more: object) -> dict[str, object]:
    known = {"user_id": "5082b1ae-6523-4e3b-a1d8-9750b4407ee8", "ip": "192.0.2.7", "device_id": "349-96-4168"}
    return {**known, "device_type": "ios", "app_version": "1.2.3", **more}


def places_in_records(value: str, number: int) -> object:
    """A record with a value in one of the places that take text; what does not fit goes to quarantine."""
    places: list[object] = [
        login(**{name: value})
        for name in ("user_id", "ip", "device_id", "device_type", "app_version", "locale", "occurred_at")
    ]
    places += [login(note=value), login(more={"deep": [value]}), login(**{value: 1}), login(ip=[value])]
    places += [value, {"oops": value}, [value]]
    return places[number % len(places)]


def places_in_requests(value: str, number: int) -> object:
    """A request to validate somebody with a value in one of its places."""
    known = {
        "username": f"person.{number}",
        "full_name": "Jo Bloggs",
        "date_of_birth": "1980-02-29",
        "address_street": "1 High Street",
        "address_country": "DE",
        "phone_number": "+12025550123",
    }
    return [*({**known, name: value} for name in known), {**known, "note": value}, {**known, value: 1}, value][
        number % (len(known) + 3)
    ]


class Field:
    """A home, and the values that were planted in it."""

    def __init__(self, home: Path, folder: Path, call: Callable[..., Any]) -> None:
        self.home, self.folder, self.call = home, folder, call
        self.values = planted_values(COUNT)
        self.waiting: Iterator[str] = iter(self.values)
        self.said = ""

    def take(self, share: float) -> list[str]:
        return list(islice(self.waiting, round(share * COUNT)))

    def run(self, *words: object) -> Any:
        called = self.call(*words, home=self.home)
        assert called.code in (0, 4), called.err
        self.said += called.out + called.err
        return called

    def plant(self) -> None:
        self.run("init")
        self._plant_records()
        self._plant_names()
        self._plant_messages()
        self._plant_validations()
        self._plant_packets()

    def _plant_records(self) -> None:
        records = [places_in_records(value, number) for number, value in enumerate(self.take(0.6))]
        file = self.folder / "records.ndjson"
        file.write_text("".join(json.dumps(one) + "\n" for one in records))
        whole = self.folder / "whole.json"
        whole.write_text(json.dumps([login(device_id=value) for value in self.take(0.1)]))
        self.run("ingest", "logins", file, whole)

    def _plant_names(self) -> None:
        paths = []
        for number, value in enumerate(self.take(0.02)):
            paths.append(self.folder / f"{value.replace('/', ' ')}.json")
            # In the record as well: a name cannot hold a slash.
            paths[-1].write_text(json.dumps(login(ip=f"198.51.{number // 200}.{number % 200}", note=value)))
        self.run("ingest", "logins", *paths)

    def _plant_messages(self) -> None:
        file = self.folder / "messages.ndjson"
        values = self.take(0.1)
        file.write_text("".join(json.dumps(places_in_records(one, at)) + "\n" for at, one in enumerate(values)))
        self.run("send", "logins", file)
        self.run("receive", "--until-idle", "0.2")
        self.run("ingest", "logins", "--staged")

    def _plant_validations(self) -> None:
        file = self.folder / "validations.ndjson"
        requests = [places_in_requests(one, at) for at, one in enumerate(self.take(0.08))]
        file.write_text("".join(json.dumps(one) + "\n" for one in requests))
        self.run("ingest", "validations", file)

    def _plant_packets(self) -> None:
        values = list(self.waiting)
        names = [value for value in values[:9] if "/" not in value][:3]
        for number, name in enumerate(names):
            part = values[number :: len(names)]
            path = self.folder / f"{name}.pcap"
            path.write_bytes(synthetic_capture(number, 40 * len(part), HOUR, part))
            # A damaged tail goes to quarantine, byte for byte.
            with path.open("ab") as file:
                file.write(b"\xff" * 16 + " ".join(part[:50]).encode())
        devices = [f"phone-{number}" for number in range(len(names))]
        for device, name in zip(devices, names, strict=True):
            self.run("ingest", "captures", self.folder / f"{name}.pcap", "--device", device)


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory, lockhouse: Callable[..., Any]) -> Field:
    folder = tmp_path_factory.mktemp("planted")
    (folder / "in").mkdir()
    made = Field(folder / "home", folder / "in", lockhouse)
    made.plant()
    return made


def test_there_are_enough_kinds_and_values(field: Field):
    assert len(KINDS) == 25
    assert len(set(field.values)) == COUNT
    assert list(field.waiting) == []


def test_every_value_arrived_somewhere(field: Field):
    """What is looked for was really there: the deliveries hold every value in clear."""
    report = scan(field.folder, field.values, exclude=[])
    assert {hit.value for hit in report.hits} == set(range(COUNT))


def test_no_value_is_readable(field: Field):
    platform = Platform(load_settings(field.home))
    report = scan(field.home, field.values, exclude=default_exclusions(platform.home))
    assert [(hit.file, hit.place, field.values[hit.value]) for hit in report.hits] == []
    assert report.unreadable == []
    assert report.files > 100


def test_landing_holds_nothing_when_all_is_sealed(field: Field):
    report = scan(field.home / "landing", field.values, exclude=[])
    assert (report.hits, report.unreadable) == ([], [])


def test_nothing_that_came_is_lost(field: Field):
    platform = Platform(load_settings(field.home))
    for batch in platform.ledger.batches():
        assert batch["state"] == "done"
        assert platform.ledger.counts([batch["id"]]).balances


def test_no_message_shows_a_value(field: Field):
    assert [value for value in field.values if value in field.said] == []


def test_a_process_that_works_in_a_home_dumps_no_core(home: Path):
    limits = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE), flush=True)"
    code = f"""
import subprocess, sys
from stores.settings import adopt_environment, load_settings
adopt_environment(load_settings())
{limits}
subprocess.run([sys.executable, "-c", {limits!r}])
"""
    environment = {**os.environ, "LOCKHOUSE_HOME": str(home)}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split("\n") == ["(0, 0)", "(0, 0)", ""]
