# ruff: noqa: S608 - queries of our own, against a home made for the test
"""A thousand canaries by every way in, then a scan of everything: none may be readable.

Landing and keys are left out of the scan, as the design says; at the end landing is looked at as well.
Two ways in are narrower than the others. A queue message's id that is a UUID becomes the event's id as
it stands (decision 13), so canaries that are UUIDs do not go that way. And an IPv4 address is a version
by today's contract, found by the check only after it was written: `test_an_address_sent_as_a_version`.
"""

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from orchestration import definitions
from orchestration.definitions import defs
from orchestration.jobs import INGEST_LOGINS, batches_config
from orchestration.resources import Platform
from orchestration.sensors import landing_logins
from stores.canaries import COUNT, canaries_of
from stores.contracts import load_contract, load_contracts
from stores.leaks import LeakReport, default_exclusions, scan
from stores.settings import load_settings

CONTRACT = load_contract("logins")
BASE = {
    "user_id": "5082b1ae-6523-4e3b-a1d8-9750b4407ee8",
    "ip": "192.0.2.7",
    "device_id": "349-96-4168",
    "device_type": "ios",
    "app_version": "1.2.3",
}


@dataclass
class Nest:
    """A home, its canaries, and what was said while they were sent."""

    home: Path
    platform: Platform
    canaries: list[str]
    call: Callable[..., Any]
    folder: Path
    waiting: Iterator[str] = field(init=False)
    sent: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    in_files: list[str] = field(default_factory=list)
    said: str = ""

    def __post_init__(self) -> None:
        self.waiting = iter(self.canaries)

    def take(self, count: int, *, uuids: bool = True, addresses: bool = True) -> list[str]:
        """The next canaries; those that are left out go with the rest."""
        found: list[str] = []
        while len(found) < count:
            one = next(self.waiting)
            fits = (uuids or len(one) != 36) and (addresses or one.count(".") != 3)
            (found if fits else self.passed_over).append(one)
        self.sent += found
        return found

    def file(self, name: str, content: bytes | str) -> Path:
        """A file to be delivered."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def run(self, *arguments: object, code: int | None = None) -> Any:
        """A command; what it says is kept."""
        called = self.call(*arguments, home=self.home)
        self.said += called.out + called.err
        assert "Traceback" not in called.err
        if code is not None:
            assert called.code == code, called
        return called

    def scan(self) -> LeakReport:
        """Look for all canaries in everything but landing and keys."""
        return scan(self.home, self.canaries, exclude=default_exclusions(self.platform.home))


def as_lines(records: list[Any]) -> str:
    return "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records)


@pytest.fixture(scope="module")
def nest(lockhouse: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Nest:
    """A home through which every canary has gone, by every way in."""
    folder = tmp_path_factory.mktemp("canaries")
    home = folder / "home"
    (folder / "in").mkdir()
    assert lockhouse("init", home=home).code == 0
    platform = Platform(load_settings(home))
    canaries = canaries_of(platform.keys("default"), CONTRACT, COUNT)
    nest = Nest(home, platform, canaries, lockhouse, folder / "in")
    send_files(nest)
    send_by_the_sensor(nest)
    nest.in_files = list(nest.sent)
    send_to_commands(nest)
    fail_runs(nest)
    send_the_rest(nest)
    return nest


def send_files(nest: Nest) -> None:
    """Every field, undeclared ones, names of fields and files, what does not fit, and damaged containers."""
    fields = [*BASE, "locale", "occurred_at"]
    each = [
        {**BASE, name: canary} for name in fields for canary in nest.take(25, addresses=name != "app_version")
    ]
    undeclared = [{**BASE, "note": canary, "more": {"deep": [canary]}} for canary in nest.take(30)]
    named = [{**BASE, canary: 1} for canary in nest.take(30)]
    nest.run("ingest", "logins", nest.file("fields.ndjson", as_lines([*each, *undeclared, *named])), code=4)
    malformed = [
        *(f'{{"user_id": "{canary}", "ip": ' for canary in nest.take(15)),
        *(f'"{canary}"' for canary in nest.take(10)),
        *(f'[["{canary}"]]' for canary in nest.take(10)),
        *({"oops": canary} for canary in nest.take(15)),
        *({**BASE, "ip": [canary]} for canary in nest.take(10)),
        *({**BASE, "ip": {canary: canary}} for canary in nest.take(10)),
        *(
            f'{{"user_id": "{canary}\ud800"}}'.encode("utf-8", "surrogatepass").decode("latin-1")
            for canary in nest.take(5)
        ),
    ]
    array = "[" + ", ".join(json.dumps(one) if not isinstance(one, str) else one for one in malformed[-30:-5])
    files = {
        "malformed.ndjson": as_lines([BASE, *malformed]),
        "array without an end.json": array,
        "text.txt": "\n".join(nest.take(10)),
        "utf16.json": json.dumps({**BASE, "note": nest.take(1)[0]}).encode("utf-16"),
        "tail.json": json.dumps([BASE]) + nest.take(1)[0],
    }
    names = {
        f"{canary}.json": as_lines([{**BASE, "ip": f"198.51.100.{number}"}, "{"])
        for number, canary in enumerate(nest.take(20))
    }
    packed = gzip.compress(
        as_lines([{**BASE, "ip": "203.0.113.9", "note": one} for one in nest.take(40)]).encode(), 0
    )
    damaged = {
        "cut.gz": packed[: len(packed) * 2 // 3],
        "flipped.gz": packed[:200] + bytes([packed[200] ^ 0xFF]) + packed[201:],
        "garbage after.gz": packed + nest.take(1)[0].encode() * 3,
        "stored.gz": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + nest.take(1)[0].encode() * 5,
        "zstd.zst": b"\x28\xb5\x2f\xfd" + nest.take(1)[0].encode() * 5,
        "zlib.z": zlib.compress(nest.take(1)[0].encode()),
    }
    paths = [nest.file(name, content) for name, content in {**files, **names, **damaged}.items()]
    nest.run("ingest", "logins", *paths, code=4)
    bodies = [
        {"MessageId": canary, "Body": json.dumps({**BASE, "device_id": other})}
        for canary, other in zip(nest.take(20, uuids=False), nest.take(20), strict=True)
    ]
    nest.run(
        "ingest",
        "logins",
        nest.file("queue.ndjson", as_lines([*bodies, *bodies[:5], '{"MessageId": 1}'])),
        code=4,
    )
    nest.run("ingest", "logins", nest.file("tenant.ndjson", as_lines(each[:20])), "--tenant", "acme")


def send_by_the_sensor(nest: Nest) -> None:
    """Drop files with canaries as names and content, and run what the sensor asks for."""
    drop = nest.platform.landing.drop_folder("logins", "default")
    drop.mkdir(parents=True)
    for canary in nest.take(10):
        (drop / f"{canary}.ndjson").write_text(as_lines([{**BASE, "device_id": canary}, {"bad": canary}]))
    with pytest.MonkeyPatch.context() as patch, instance_of(nest, patch) as instance:
        # Two looks until a file's size has held, and one that forgets the names of what was taken.
        cursor, requests = None, []
        for _ in range(3):
            context = dg.build_sensor_context(instance=instance, cursor=cursor)
            result = landing_logins(
                context,
                landing=nest.platform.landing,
                access=nest.platform.access,
                ledger=nest.platform.ledger,
            )
            cursor, requests = result.cursor, [*requests, *(result.run_requests or [])]
        (request,) = requests
        run_job(instance, str(request.partition_key), request.run_config)
        nest.said += json.dumps([cursor, request.run_config])


def instance_of(nest: Nest, patch: pytest.MonkeyPatch) -> dg.DagsterInstance:
    """The home's own instance of Dagster, as `lockhouse up` would use it."""
    for name, value in {"DAGSTER_HOME": nest.home / "dagster", "TMPDIR": nest.home / "tmp"}.items():
        patch.setenv(name, str(value))
    patch.setattr(definitions, "platform", lambda: nest.platform)
    patch.setattr("dagster.RetryPolicy.calculate_delay", lambda *_: 0)
    return dg.DagsterInstance.get()


def run_job(instance: dg.DagsterInstance, hour: str, config: Any) -> dg.ExecuteInProcessResult:
    # The log of the run goes into Dagster's storage, as under `lockhouse up`.
    return defs.resolve_job_def(INGEST_LOGINS.name).execute_in_process(
        instance=instance, partition_key=hour, run_config=config, raise_on_error=False
    )


def send_to_commands(nest: Nest) -> None:
    """Give canaries to every command that takes a word, in the right places and in wrong ones."""
    made = nest.run("token", nest.take(1)[0], "--domain", "device", "--json", code=0).json["token"]
    for canary in nest.take(3):
        nest.run("sql", f"select '{canary}' as shown, count(*) from masked.logins", code=0)
        nest.run("sql", f"select * from masked.logins where device_id_token = '{canary}'", code=0)
        nest.run("sql", f"select cast('{canary}' as integer)", code=2)
        nest.run("sql", f'select "{canary}" from masked.logins', code=2)
        nest.run("sql", f"select * from read_text('{canary}')", code=2)
        nest.run("sql", f"{canary}", code=2)
    one, two, three, four, five, six = nest.take(6)
    where = ["--where", f"device_id_token = '{one}'", "--reason", "a test"]
    nest.run("reveal", "--table", "masked.logins", "--column", "device_id_token", *where, code=0)
    nest.run("reveal", "--table", two, "--column", "ip_token", "--reason", "a test", code=2)
    nest.run("reveal", "--table", f"curated.{two}", "--column", "ip_token", "--reason", "a test", code=2)
    nest.run("reveal", "--table", "masked.logins", "--column", two, "--reason", "a test", code=2)
    nest.run("reveal", "--token", three, "--domain", "ip", "--reason", "a test", code=3)
    nest.run("reveal", "--token", made, "--domain", three, "--reason", "a test", code=2)
    nest.run("token", "device", "--domain", four, code=2)
    nest.run("token", f"no address {four}", "--domain", "ip", code=2)
    nest.run("ingest", four, nest.file("x.json", "{}"), code=2)
    nest.run("ingest", "logins", f"/nowhere/{five}", code=2)
    nest.run("ingest", "logins", nest.file(f"empty {five}", ""), code=4)
    nest.run("quarantine", "show", five, code=2)
    nest.run("quarantine", "drop", five, code=0)
    nest.run("quarantine", "list", "--source", five, code=2)
    nest.run("quarantine", "retry", five, code=0)
    nest.run("quarantine", "retry", "--all", "--source", five, code=2)
    nest.run("leaks", "scan", six, code=0)
    nest.run("leaks", "scan", "--values-file", nest.file("values", six), code=0)
    nest.run("tenant", "add", f"{six}!", code=2)
    who, device, answer = nest.take(3)
    nest.run("subject", "erase", "--id", who, "--domain", "user", "--yes")
    nest.run("subject", "erase", "--id", device, "--domain", "device", "--dry-run", code=0)
    nest.run("subject", "erase", "--id", device, "--domain", answer, "--yes", code=2)
    nest.run("subject", "access", "--id", answer, "--domain", "device", "-o", nest.folder / "no", code=2)
    nest.run("subject", "status", "--id", device, "--domain", "device", code=0)
    nest.run("subject", "erase", "--id", BASE["user_id"].replace("5", "6"), "--yes", code=0)
    # Whoever is named by a UUID can be typed where an id of ours is asked for.
    person = next(one for one in nest.canaries if len(one) == 36)
    for words in (
        ["approval", "grant"],
        ["approval", "refuse"],
        ["grant", "revoke"],
        ["quarantine", "show"],
        ["validation", "status"],
        ["validation", "pii", "--reason", "t"],
        ["validation", "delete", "--yes"],
    ):
        nest.run(*words, person, code=2)
    for words in (
        ["tables"],
        ["audit", "list"],
        ["audit", "verify"],
        ["quarantine", "list"],
        ["leaks", "scan"],
    ):
        nest.run(*words, "--tenant", f"{six}!", code=2)
    nest.run("init", "--passphrase-file", f"/nowhere/{six}", code=2)
    entries = nest.run("quarantine", "list", "--json", code=0).json["entries"]
    for entry in entries[:5]:
        # Shown on purpose, to who may see it; nothing of it may stay.
        nest.call("quarantine", "show", entry["id"], home=nest.home)
    nest.call(
        "reveal", "--table", "masked.logins", "--column", "device_id_token", "--reason", "t", home=nest.home
    )
    nest.run("quarantine", "retry", *(entry["id"] for entry in entries[:10]), "--json")


def fail_runs(nest: Nest) -> None:
    """Let every step of a run fail with a canary in the error of a library, and with a warning printed."""
    places = ["stores.tables.Tables.append", "stores.intake.Intake.mask_batch", "stores.marts.Marts.rebuild"]
    with pytest.MonkeyPatch.context() as patch, instance_of(nest, patch) as instance:
        for place, canary in zip(places, nest.take(len(places)), strict=True):

            def fail(*_: object, canary: str = canary, **__: object) -> None:
                raise ValueError(f"could not convert {canary}")

            (batch,) = nest.platform.landing.land(
                "logins", "default", canary, as_lines([{**BASE, "device_id": canary}]).encode()
            )
            hour = batch.received_at.strftime("%Y-%m-%d-%H:00")
            with patch.context() as inner:
                inner.setattr(place, fail)
                assert not run_job(instance, hour, batches_config("logins", [batch.id])).success
            assert run_job(instance, hour, batches_config("logins", [batch.id])).success


def send_the_rest(nest: Nest) -> None:
    """Send whatever is left as devices of logins, in one file in gzip."""
    left = [*nest.passed_over, *nest.waiting]
    nest.sent += left
    records = [{**BASE, "ip": "203.0.113.77", "device_id": canary} for canary in left]
    nest.run("ingest", "logins", nest.file("rest.gz", gzip.compress(as_lines(records).encode())))


# --- What has to hold afterwards


def test_every_canary_was_sent(nest: Nest):
    assert len(nest.canaries) == COUNT == 1000
    assert {*nest.sent} == {*nest.canaries}


def test_no_canary_is_readable_anywhere_in_the_home(nest: Nest):
    report = nest.scan()
    assert report.hits == []
    assert report.unreadable == []
    assert report.files > 100


def test_the_scan_looked_at_what_matters(nest: Nest):
    seen: list[str] = []
    scan(
        nest.home,
        nest.canaries[:5],
        exclude=default_exclusions(nest.platform.home),
        on_file=lambda path: seen.append(str(path.relative_to(nest.home))),
    )
    for place in (
        "dagster/history/runs",
        "dagster/storage",
        "dbt/",
        "lake/default/raw",
        "lake/acme",
        "lockhouse.db",
    ):
        assert any(name.startswith(place) for name in seen), place


def test_the_command_agrees(nest: Nest):
    """It looks for the canaries of every contract, those that nobody sent included."""
    called = nest.call("leaks", "scan", "--json", home=nest.home)
    assert (called.code, called.json["hits"]) == (0, [])
    assert called.json["values"] == COUNT * len(load_contracts())


def test_landing_is_empty_of_readable_bytes(nest: Nest):
    report = scan(nest.home / "landing", [*nest.canaries, BASE["device_id"]], exclude=[])
    assert (report.hits, report.unreadable) == ([], [])
    assert nest.platform.landing.open_batches() == []


def test_nothing_was_lost_on_the_way(nest: Nest):
    batches = nest.platform.ledger.batches()
    assert {batch["state"] for batch in batches} == {"done"}
    for batch in batches:
        assert nest.platform.ledger.counts([batch["id"]]).balances
    tables = {info.key: info.rows for info in nest.platform.tables.listing("default")}
    assert tables["raw.logins"] == tables["masked.logins"]
    accepted = sum(batch["accepted"] for batch in batches if batch["tenant"] == "default")
    assert tables["masked.logins"] == accepted


def test_the_trail_still_holds(nest: Nest):
    for tenant in nest.platform.audit.tenants():
        assert nest.platform.audit.verify(tenant).ok


def test_messages_do_not_repeat_what_they_were_given_as_data(nest: Nest):
    """What somebody typed may be repeated to them; what came in files never is."""
    assert len(nest.in_files) > 400
    assert {canary for canary in nest.in_files if canary in nest.said} == set()


def test_an_address_sent_as_a_version(lockhouse: Callable[..., Any], home: Path, tmp_path: Path):
    """One such record must neither be readable in the masked table nor hold up all that comes after."""
    assert lockhouse("init", home=home).code == 0
    poison = tmp_path / "poison.ndjson"
    poison.write_text(as_lines([{**BASE, "app_version": "198.51.100.213"}]))
    sound = tmp_path / "sound.ndjson"
    sound.write_text(as_lines([BASE]))
    lockhouse("ingest", "logins", poison, home=home)
    assert lockhouse("ingest", "logins", sound, home=home).code == 0
    assert lockhouse("leaks", "scan", "198.51.100.213", home=home).code == 0


def test_the_home_is_for_its_owner_alone(nest: Nest):
    assert os.stat(nest.home).st_mode & 0o077 == 0  # noqa: PTH116
