"""Rooms: which there are, what stands only in one place of them, and that importing them does nothing."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

ROOMS = {"transforms", "stores", "assets", "orchestration", "lockhouse"}
FOLDERS = ROOMS | {"contracts", "dbt_project", "benchmarks", "docs", "tests", ".ci"}
LATER = {"infra"}
FORBIDDEN = {"utils", "common", "helpers", "core", "lib", "scripts", "services", "models", "schemas"}
FORBIDDEN_FILES = {"constants.py", "types.py", *(f"{name}.py" for name in FORBIDDEN)}


def test_top_level_folders_are_the_known_rooms(tracked):
    met = {PurePosixPath(name).parts[0] for name in tracked if "/" in name}
    assert met - LATER == FOLDERS


def test_no_room_is_called_after_nothing(tracked):
    paths = [PurePosixPath(name) for name in tracked if not name.startswith("dbt_project/models/")]
    assert [str(path) for path in paths if FORBIDDEN & set(path.parts[:-1])] == []
    assert [str(path) for path in paths if path.name in FORBIDDEN_FILES] == []


def test_test_folders_are_no_packages(tracked):
    """A test folder named like a room would shadow the room."""
    assert [name for name in tracked if name.startswith("tests/") and name.endswith("__init__.py")] == []


def modules_imported(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def importers(sources, package: str) -> list[str]:
    return [
        source.path
        for source in sources
        if any(name == package or name.startswith(f"{package}.") for name in modules_imported(source.tree))
    ]


def test_cryptography_is_imported_in_one_place(sources):
    assert importers(sources, "cryptography") == ["transforms/pii/ciphers.py"]


@pytest.mark.parametrize("package", ["boto3", "botocore"])
def test_boto3_is_imported_in_at_most_one_place(sources, package):
    met = importers(sources, package)
    assert len(met) <= 1
    assert all(path.startswith("stores/") for path in met)


def test_the_environment_is_read_in_one_place(sources):
    reading = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    met = {
        source.path
        for source in sources
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Attribute) and node.attr in reading)
        or (isinstance(node, ast.ImportFrom) and reading & {alias.name for alias in node.names})
    }
    assert met == {"stores/settings.py"}


# Run in a process of its own: imports everything, and says which files were made or opened for writing,
# and which sockets were opened, while it did so.
PROBE = """
import importlib, json, os, sys
met = []
def look(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        writing = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writing and isinstance(path, (str, bytes)) and os.fsdecode(path) != os.devnull:
            met.append(f"file {os.fsdecode(path)}")
    elif event in ("os.mkdir", "os.rename", "os.symlink", "sqlite3.connect"):
        met.append(f"{event} {arguments[0]}")
    elif event in ("socket.connect", "socket.bind", "socket.getaddrinfo"):
        # urllib3 asks once whether the machine knows IPv6, by binding a socket that it closes.
        if (event, arguments[1]) != ("socket.bind", ("::1", 0)):
            met.append(f"{event} {arguments[1]}")
sys.addaudithook(look)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted(set(met))))
"""


def test_importing_any_room_makes_no_file_and_opens_no_socket(sources, root, tmp_path):
    names = [
        ".".join(Path(source.path).with_suffix("").parts).removesuffix(".__init__")
        for source in sources
        # Migrations are run by alembic, not imported.
        if not source.path.startswith("stores/migrations/")
    ]
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",
        "DO_NOT_TRACK": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", PROBE, *names], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == []
    assert list(tmp_path.iterdir()) == []
