"""What the suites share: homes, a sample of logins, and the command line in this process.

The command line adopts a home by setting environment variables; `lockhouse` puts them back, so
that any number of homes can be worked in, in any order.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from homes import copy_home
from postgres import start_postgres

# No test is timed: how long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "logins" / "sample_data.json.gz"
OURS = ("LOCKHOUSE_", "DAGSTER_", "DBT_")
# Third-party warnings that nobody here can mend, each by its text.
IGNORED = (
    # sqlglot imports its old native parser where that is installed (dagster-dbt brings both).
    "ignore:sqlglotrs is deprecated:DeprecationWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    """Let third-party warnings pass; every other one is an error."""
    for line in IGNORED:
        config.addinivalue_line("filterwarnings", line)


@dataclass(frozen=True)
class Called:
    """What a call of the command line came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


@pytest.fixture(scope="session", autouse=True)
def argon2_of_the_product() -> Iterator[dict[str, int]]:
    """Stretch passphrases cheaply in tests; give what the product does."""
    from stores import keyring

    original = dict(keyring.ARGON2)
    keyring.ARGON2.update(memory_kib=64, passes=1, lanes=1)
    yield original
    keyring.ARGON2.update(original)


@pytest.fixture(autouse=True)
def no_home_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own home and settings out of every test."""
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)


@contextmanager
def kept_environment() -> Iterator[None]:
    """Undo what a call does to the process: environment, temporary folder, the cached platform."""
    before, folder, arguments = dict(os.environ), tempfile.gettempdir(), sys.argv
    for name in [name for name in os.environ if name.startswith(OURS)]:
        del os.environ[name]
    forget_platform()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        tempfile.tempdir, sys.argv = folder, arguments
        forget_platform()


def forget_platform() -> None:
    """Let definitions find their home anew: the last one was another test's."""
    definitions = sys.modules.get("orchestration.definitions")
    if definitions is not None:
        definitions.platform.cache_clear()


def call_lockhouse(*arguments: object, home: Path | None = None, stdin: str = "") -> Called:
    """Run the command line in this process, as the installed command would run."""
    from lockhouse.main import main

    place = [] if home is None else ["--home", str(home)]
    with (
        kept_environment(),
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        TextIOWrapper(out, write_through=True) as out_text,
        TextIOWrapper(err, write_through=True) as err_text,
        pytest.MonkeyPatch.context() as patch,
    ):
        sys.argv = ["lockhouse", *place, *map(str, arguments)]
        patch.setattr(sys, "stdin", StringIO(stdin))
        with redirect_stdout(out_text), redirect_stderr(err_text):
            code = _exit_code(main)
        texts = [_whole(file) for file in (out, err)]
        return Called(code, *texts)


def _whole(file: Any) -> str:
    file.seek(0)
    return file.read().decode(errors="backslashreplace")


def _exit_code(main: Callable[[], None]) -> int:
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


@pytest.fixture(scope="session")
def lockhouse() -> Callable[..., Called]:
    """The command line: `lockhouse("tables", "--json", home=home)`."""
    return call_lockhouse


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where a home may be made; nothing is there yet."""
    return tmp_path / "home"


def sample_records() -> list[dict[str, Any]]:
    """The sample: 100 records, one of them no login. Made from a seed where the corpus is absent."""
    if SAMPLE.exists():
        records: list[dict[str, Any]] = json.loads(gzip.decompress(SAMPLE.read_bytes()))
        return records
    records = made_records(100, seed=7)
    records[12] = {"foo": "oops_wrong_msg_type", "bar": "123"}
    return records


@pytest.fixture
def sample_logins() -> list[dict[str, Any]]:
    """The sample's records, to be changed at will."""
    return sample_records()


def made_records(count: int, seed: int) -> list[dict[str, Any]]:
    """Records in the sample's shape, from a seed."""
    dice = random.Random(seed)  # noqa: S311 - data for tests
    return [
        {
            "user_id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
            "app_version": f"{dice.randrange(4)}.{dice.randrange(10)}.{dice.randrange(10)}",
            "device_type": dice.choice(["android", "ios"]),
            "ip": ".".join(str(dice.randrange(1, 255)) for _ in range(4)),
            "locale": dice.choice(["RU", "PH", "ID", None]),
            "device_id": f"{dice.randrange(1000):03d}-{dice.randrange(100):02d}-{dice.randrange(10000):04d}",
        }
        for _ in range(count)
    ]


def personal_values(records: list[dict[str, Any]]) -> list[str]:
    """Every personal value of records, once."""
    found = [str(one[name]) for one in records for name in ("user_id", "ip", "device_id") if name in one]
    return list(dict.fromkeys(found))


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write records as JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@dataclass(frozen=True)
class Made:
    """A home with the sample in it. Tests that change one take a copy."""

    home: Path
    file: Path
    records: list[dict[str, Any]]
    ingested: Called

    @property
    def values(self) -> list[str]:
        """The sample's personal values."""
        return personal_values(self.records)


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A home after `ingest` of the sample; shared, so to be read only."""
    folder = tmp_path_factory.mktemp("made")
    records = sample_records()
    file = folder / "sample_data.json.gz"
    file.write_bytes(gzip.compress(json.dumps(records, indent=2).encode(), mtime=0))
    ingested = call_lockhouse("ingest", "logins", file, "--json", home=folder / "home")
    assert ingested.code == 4, ingested.err
    copy_home(folder / "home", folder / "pristine")
    return Made(folder / "home", file, records, ingested)


@pytest.fixture
def copied_home(made_home: Made, tmp_path: Path) -> Made:
    """A copy of the made home as it was after the ingest, to be changed."""
    home = copy_home(made_home.home.with_name("pristine"), tmp_path / "copy")
    return Made(home, made_home.file, made_home.records, made_home.ingested)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL of this session's own; its address, with `{}` for the database's name."""
    # In a short path that the server's own user may enter: it does not run as root.
    server = start_postgres(Path(tempfile.mkdtemp(prefix="pg", dir="/tmp")), cleanup_mode="delete")
    yield server.get_uri(database="{}")
    server.cleanup()


@pytest.fixture
def postgres(postgres_server: str) -> str:
    """The address of an empty database."""
    import psycopg

    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server.format("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return postgres_server.format(name)


@pytest.fixture
def eve(monkeypatch: pytest.MonkeyPatch) -> str:
    """Make this process somebody who holds no role in any home."""
    monkeypatch.setattr("stores.settings.local_user", lambda: "eve")
    return "eve"


@contextmanager
def with_contracts(folder: Path, **texts: str) -> Iterator[Path]:
    """Let the deployment have more contracts, by source; `folder` is where all of them are put."""
    from stores import contracts, specs

    folder.mkdir()
    for path in contracts.FOLDER.glob("*.yaml"):
        (folder / path.name).write_text(path.read_text())
    for source, text in texts.items():
        (folder / f"{source}.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contracts, "FOLDER", folder)
        specs.every_table.cache_clear()
        yield folder
    specs.every_table.cache_clear()


@pytest.fixture(scope="session")
def contracts_beside() -> Callable[..., AbstractContextManager[Path]]:
    """More contracts beside the deployment's: `with contracts_beside(folder, signups=text):`."""
    return with_contracts
