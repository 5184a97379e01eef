"""Help, wrong usage, exit codes and JSON of every command, and what none of them ever says."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from command_line import DONE, FAILED, UUID, WRONG_USAGE, Call

# --- Help


def commands() -> list[tuple[str, ...]]:
    """Every command and subcommand, by its words."""
    from lockhouse.main import COMMANDS, cli

    context = click.Context(cli)
    found: list[tuple[str, ...]] = []
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        found.append((name,))
        if isinstance(command, click.Group):
            found += [(name, one) for one in command.commands]
    return found


# What asks for data of a tenant.
OF_A_TENANT = [
    ["tables"],
    ["sql", "select 1"],
    ["audit", "list"],
    ["audit", "verify"],
    ["quarantine", "list"],
    ["leaks", "scan"],
    ["token", "1.2.3.4", "--domain", "ip"],
]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_explains_itself(call: Call, words: tuple[str, ...]):
    called = call(*words, "--help")
    assert called.code == DONE
    assert f"Usage: lockhouse {' '.join(words)}" in called.out
    assert called.out.split("\n\n")[1].strip().endswith(".")


@pytest.mark.parametrize("name", ["init", "up", "ingest", "sql", "reveal", "token", "leaks scan"])
def test_commands_that_people_type_show_examples(call: Call, name: str):
    shown = call(*name.split(), "--help").out
    assert "Example" in shown
    assert f"lockhouse {name.split()[0]}" in shown.split("Example", 1)[1]


def test_without_a_command_the_help_is_shown(call: Call):
    called = call()
    assert called.code == WRONG_USAGE
    assert "First steps:" in called.out
    assert "Traceback" not in called.err


def test_the_help_does_not_import_the_platform():
    code = (
        "import sys\nfrom lockhouse.main import main\nsys.argv = ['lockhouse', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'dagster', 'polars', 'deltalake', 'duckdb', 'sqlalchemy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- Wrong usage


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["ingst", "logins"],
        ["tables", "--no-such-option"],
        ["ingest"],
        ["ingest", "logins"],
        ["ingest", "logins", "/no/such/file"],
        ["reveal"],
        ["reveal", "--table", "masked.logins", "--column", "ip_token"],
        ["reveal", "--reason", "r"],
        ["reveal", "--token", "x", "--reason", "r"],
        ["reveal", "--token", "x", "--domain", "ip", "--table", "masked.logins", "--reason", "r"],
        ["reveal", "--token", "x", "--domain", "ip", "--reason", " "],
        ["reveal", "--table", "masked.logins", "--column", "ip_token", "--reason", " "],
        ["reveal", "--table", "masked.logins", "--column", "ip_net24", "--reason", "r"],
        ["reveal", "--table", "masked.nothing", "--column", "ip_token", "--reason", "r"],
        ["reveal", "--table", "curated.nothing", "--column", "ip_token", "--reason", "r"],
        ["reveal", "--table", "raw.logins", "--column", "record", "--reason", "r"],
        ["reveal", "--table", "masked.logins", "--column", "ip_token", "--where", "(", "--reason", "r"],
        ["token", "1.2.3.4"],
        ["token", "1.2.3.4", "--domain", "no-such-domain"],
        ["token", "no address", "--domain", "ip"],
        ["quarantine"],
        ["quarantine", "show", UUID],
        ["quarantine", "show", "no-id"],
        ["quarantine", "retry"],
        ["quarantine", "retry", "--all", UUID],
        ["quarantine", "retry", "--all", "--source", "nothing"],
        ["quarantine", "list", "--source", "nothing"],
        ["quarantine", "drop"],
        ["leaks", "scan", "--values-file", "/no/such/file"],
        ["leaks", "scan", "abc"],
        ["sql", "select", "--format", "xml"],
        ["sql", "this is no SQL"],
        ["tenant", "add", "Upper Case"],
        ["tenant", "add", "../elsewhere"],
        ["up", "--host", "0.0.0.0"],  # noqa: S104 - it must be refused
        *([*words, "--tenant", tenant] for tenant in ("nobody", "../x", "") for words in OF_A_TENANT),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_wrong_usage_is_told_in_a_line_or_two(call: Call, made_home: Any, arguments: list[str]):
    called = call(*arguments, home=made_home.home)
    assert called.code == WRONG_USAGE, called
    assert "Traceback" not in called.err
    assert (called.err + called.out).strip()
    assert len(called.err.splitlines()) <= 6


def test_what_is_not_there_names_the_command_that_shows_what_is(call: Call, made_home: Any):
    called = call("tables", "--tenant", "nobody", home=made_home.home)
    assert called.err.strip() == "lockhouse: no tenant nobody: `lockhouse tenant list` shows them"


def test_a_misspelt_command_is_guessed(call: Call):
    assert "did you mean `ingest`?" in call("ingets").err


def test_an_unknown_source_names_those_that_there_are(call: Call, file: Path, home: Path):
    called = call("ingest", "no-such-source", file, home=home)
    assert called.code == WRONG_USAGE
    assert "there are: captures, logins" in called.err
    assert not home.exists()


@pytest.mark.parametrize(
    "arguments",
    [*OF_A_TENANT, ["tenant", "list"], ["tenant", "add", "acme"]],
    ids=lambda arguments: " ".join(arguments),
)
def test_without_a_home_a_command_says_how_to_make_one(call: Call, home: Path, arguments: list[str]):
    called = call(*arguments, home=home)
    assert called.code == WRONG_USAGE
    assert "lockhouse init" in called.err
    assert not home.exists()


# --- What is never said


def test_an_error_of_a_library_is_told_by_its_kind_and_place(
    call: Call, made_home: Any, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise RuntimeError("alice@example.com could not be read")

    monkeypatch.setattr("stores.tables.Tables.listing", fail)
    called = call("tables", home=made_home.home)
    assert called.code == FAILED
    assert "unexpected: RuntimeError" in called.err
    assert "alice" not in called.err + called.out
    assert "Traceback" not in called.err


def test_no_secret_is_in_any_output(call: Call, made_home: Any):
    from orchestration.resources import Platform
    from stores.settings import load_settings

    provider = Platform(load_settings(made_home.home)).provider
    secrets = [
        (made_home.home / "keys" / "passphrase").read_text().strip(),
        provider.root("default", 0).hex(),
        provider.root("default", 1).hex(),
        provider.signing_key().hex(),
    ]
    said = ""
    for words in (
        ["doctor"],
        ["tables"],
        ["audit", "list"],
        ["init"],
        ["tenant", "list"],
        ["quarantine", "list"],
    ):
        for more in ([], ["--json"]):
            called = call(*words, *more, home=made_home.home)
            said += called.out + called.err
    assert not any(secret in said for secret in secrets)


@pytest.mark.parametrize(
    "words",
    [
        ["init"],
        ["ingest", "logins", "FILE"],
        ["tables"],
        ["quarantine", "list"],
        ["audit", "list"],
        ["audit", "verify"],
        ["tenant", "list"],
        ["doctor"],
        ["leaks", "scan"],
        ["token", "192.0.2.7", "--domain", "ip"],
    ],
    ids=" ".join,
)
def test_json_is_one_object_alone_on_standard_output(call: Call, copied_home: Any, words: list[str]):
    words = [str(copied_home.file) if word == "FILE" else word for word in words]
    called = call(*words, "--json", home=copied_home.home)
    assert called.code in (DONE, FAILED)
    assert isinstance(called.json, dict)
    assert len(called.out.splitlines()) == 1


def test_the_installed_command_ends_with_the_exit_code(made_home: Any):
    command = [sys.executable, "-m", "lockhouse.main"]
    program = Path(sys.executable).with_name("lockhouse")
    command = [str(program)] if program.exists() else command
    done = subprocess.run(
        [*command, "--home", str(made_home.home), "tables", "--tenant", "nobody"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == WRONG_USAGE
