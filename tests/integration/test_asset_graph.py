"""The asset graph that people review, and what loading it does: no file, no connection, no environment.

The graph is held against `tests/golden/asset_graph.json`. After a wanted change, write it anew and
review the difference: `RENEW_GOLDEN=1 .venv/bin/python -m pytest tests/integration/test_asset_graph.py`.
"""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.partitions import hour_key
from orchestration.definitions import defs
from stores.contracts import load_contract
from transforms.tables import masked_table

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "asset_graph.json"
CONTRACT = load_contract("logins")
MARTS = {"daily_logins", "device_activity", "user_sessions"}


# --- The graph


def graph_as_json() -> dict[str, Any]:
    """Everything of the graph that a reviewer should see change."""
    graph = defs.resolve_asset_graph()
    return {
        key.to_user_string(): {
            "deps": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            "group": graph.get(key).group_name,
            "owners": sorted(graph.get(key).owners),
            "kinds": sorted(graph.get(key).kinds),
            "tags": {
                name: value for name, value in sorted(graph.get(key).tags.items()) if "dagster/kind" not in name
            },
            "checks": sorted(check.name for check in graph.get(key).check_keys),
            "blocking": sorted(
                check.name for check in graph.get(key).check_keys if graph.get_check_spec(check).blocking
            ),
            "partitions": str(graph.get(key).partitions_def or "none"),
            "materializable": graph.get(key).is_materializable,
        }
        for key in sorted(graph.get_all_asset_keys())
    }


def test_the_asset_graph_is_the_reviewed_one():
    met = graph_as_json()
    if os.environ.get("RENEW_GOLDEN"):
        GOLDEN.write_text(json.dumps(met, indent=2) + "\n")
    assert met == json.loads(GOLDEN.read_text()), "wanted? then renew it, as this file's first lines say"


def test_every_asset_is_described_owned_grouped_and_tagged():
    graph = defs.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert len(node.description or "") > 20, key
        assert "select" not in str(node.description).lower(), key
        assert node.owners, key
        assert node.group_name != "default", key
        assert {"layer", "pii"} <= set(node.tags), key
        assert node.tags["layer"] == key.path[0], key


def test_the_catalog_shows_the_columns_that_the_contract_makes():
    spec = masked_table(CONTRACT)
    shown = defs.resolve_asset_graph().get(dg.AssetKey(["masked", "logins"])).metadata["dagster/column_schema"]
    assert isinstance(shown, dg.TableSchema)
    assert [column.name for column in shown.columns] == [column.name for column in spec.columns]
    for column, declared in zip(shown.columns, spec.columns, strict=True):
        assert column.description == declared.description
        assert column.constraints.nullable == declared.nullable
        assert dict(column.tags or {}) == ({"pii": declared.pii} if declared.pii else {})
    tagged = {column.name: dict(column.tags)["pii"] for column in shown.columns if column.tags}
    assert tagged["ip_token"] == "token"  # noqa: S105 - the name of a tag
    assert tagged["ip_net24"] == "coarse"
    assert tagged["unknown_sealed"] == "sealed"
    assert "device_type" not in tagged


def test_each_mart_tags_the_tokens_that_it_keeps():
    graph = defs.resolve_asset_graph()
    for mart in MARTS:
        node = graph.get(dg.AssetKey(["curated", mart]))
        columns = node.metadata["dagster/column_schema"].columns
        tokens = {column.name for column in columns if column.name.endswith("_token")}
        assert tokens == {column.name for column in columns if column.tags}
        assert node.tags["pii"] == ("pseudonymous" if tokens else "none")


def test_lineage_of_columns_names_raw_ones_only():
    node = defs.resolve_asset_graph().get(dg.AssetKey(["masked", "logins"]))
    lineage = node.metadata["dagster/column_lineage"]
    raw = {
        column.name
        for column in defs.resolve_asset_graph()
        .get(dg.AssetKey(["raw", "logins"]))
        .metadata["dagster/column_schema"]
        .columns
    }
    assert {dep.column_name for deps in lineage.deps_by_column.values() for dep in deps} <= raw


def test_the_current_hour_is_a_partition():
    hours = defs.resolve_asset_graph().get(dg.AssetKey(["raw", "logins"])).partitions_def
    assert hours is not None
    assert hours.get_last_partition_key() == hour_key(datetime.now(UTC))


# --- Loading

_WATCH = """
import json, os, sys
root, wrote, read = sys.argv[1], [], []
ours = tuple(os.path.join(root, room) + os.sep for room in ("transforms", "stores", "assets", "orchestration"))
def watch(event, arguments):
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & writing:
        wrote.append(str(arguments[0]))
    if event in ("os.mkdir", "os.rename", "os.remove", "socket.connect"):
        wrote.append(event)
original = os._Environ.__getitem__
def noting(self, name):
    if any(sys._getframe(back).f_code.co_filename.startswith(ours) for back in (1, 2)):
        read.append(name)
    return original(self, name)
os._Environ.__getitem__ = noting
sys.addaudithook(watch)
from orchestration.definitions import defs
found = [name for name in wrote if not name.startswith("/dev/")]
os._Environ.__getitem__ = original
import warnings
warnings.simplefilter("ignore")
import dagster as dg
from pathlib import Path
plain = sorted(key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys())
loaded = dg.load_from_defs_folder(path_within_project=Path(root) / "assets")
loaded = dg.Definitions.merge(loaded, dg.Definitions(resources=defs.resources))
folder = sorted(key.to_user_string() for key in loaded.resolve_asset_graph().get_all_asset_keys())
print(json.dumps({"wrote": found, "read": read, "plain": plain, "folder": folder}))
"""


@pytest.fixture(scope="module")
def loading(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fresh process does while it loads the definitions, in an empty folder without a home."""
    folder = tmp_path_factory.mktemp("nowhere")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("LOCKHOUSE_", "DAGSTER_"))
    }
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "left": [path.name for path in folder.iterdir()]}


def test_loading_makes_no_file_and_opens_no_connection(loading: dict[str, Any]):
    assert loading["wrote"] == []
    assert ".lockhouse" not in loading["left"]


def test_loading_reads_nothing_of_the_environment(loading: dict[str, Any]):
    assert loading["read"] == []


def test_loading_as_dg_does_gives_the_same_assets(loading: dict[str, Any]):
    assert loading["folder"] == loading["plain"] == sorted(json.loads(GOLDEN.read_text()))
