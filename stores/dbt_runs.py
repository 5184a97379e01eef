"""dbt in this process: one build of one tenant's marts, and what came of it.

A build through the command line of dbt takes about ten seconds, most of it starting and parsing.
Here dbt is imported once, the prebuilt manifest below `dbt_project/target` is read once, and a build
is the work itself. dbt keeps its state in globals, so builds of one process queue up.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from transforms.errors import TableError, UsageError

if TYPE_CHECKING:
    from dbt.artifacts.schemas.run import RunResult
    from dbt.cli.main import dbtRunnerResult
    from dbt.contracts.graph.manifest import Manifest

PROJECT = Path(__file__).resolve().parent.parent / "dbt_project"
MANIFEST = PROJECT / "target" / "manifest.json"

# Views of no cost: a mart that is selected alone still reads through them.
STAGING = "path:models/staging"

# The vars of dbt_project.yml that a caller may set.
SETTINGS = frozenset({"k_threshold", "late_days", "session_gap_minutes"})

_turn = threading.Lock()
_manifests: dict[tuple[Path, int], Manifest] = {}


@dataclass(frozen=True)
class ModelOutcome:
    """One mart: `rows` and `version` are None where nothing was written."""

    unique_id: str
    name: str
    status: str
    rows: int | None
    version: int | None
    seconds: float
    message: str


@dataclass(frozen=True)
class TestOutcome:
    """One data or unit test: `failures` counts rows, `message` never shows one."""

    # pytest collects classes of this name; this one is no test.
    __test__ = False

    unique_id: str
    name: str
    model: str
    status: str
    failures: int
    message: str


@dataclass(frozen=True)
class DbtOutcome:
    """What one invocation did. `message` is set where dbt itself did not get to run."""

    succeeded: bool
    models: tuple[ModelOutcome, ...]
    tests: tuple[TestOutcome, ...]
    message: str = ""

    def failed(self) -> list[str]:
        """Return the names of all models and tests that neither passed nor were skipped."""
        fine = {"success", "pass", "skipped"}
        statuses = [(node.name, node.status) for node in self.models]
        statuses += [(node.name, node.status) for node in self.tests]
        return [name for name, status in statuses if status not in fine]


def build(
    tenant: str,
    lake_root: Path,
    event_dates: Sequence[date],
    target_path: Path,
    batch: str,
    select: str | None = None,
    settings: Mapping[str, int] | None = None,
) -> DbtOutcome:
    """Build a tenant's marts and run their data tests.

    `event_dates` are the UTC dates to replace; none rebuilds all. `select` is dbt's own selection
    syntax; the staging views are always added. `settings` are other vars of dbt_project.yml, such as
    `k_threshold`. dbt's files go below `target_path`.

    Raises: UsageError for a setting that the project does not have; TableError where the project
    itself does not parse. A model or test that fails does not raise: it is in the outcome.
    """
    if unknown := set(settings or {}) - SETTINGS:
        raise UsageError(f"met settings {sorted(unknown)}; allowed: {sorted(SETTINGS)}")
    known = {
        **(settings or {}),
        "tenant": tenant,
        "lake_root": str(lake_root.resolve()),
        "event_dates": sorted({day.isoformat() for day in event_dates}),
        "batch": batch,
        "spill_path": str(target_path.resolve() / "spill"),
    }
    # Cautious: staging brings in no test that also looks at a mart which is not built here.
    selection = ["--select", select, STAGING, "--indirect-selection", "cautious"] if select else []
    # Unit tests say nothing about data: they run when the project changes, not at each build.
    command = ["build", *selection, "--exclude-resource-type", "unit_test", "--vars", json.dumps(known)]
    # The manifest is there already, and the database is empty: writing one and listing the other
    # would be half of a warm build's time.
    command += ["--no-write-json", "--no-populate-cache"]
    return _outcome_of(_invoke(command, target_path, load_manifest()))


def run_unit_tests(target_path: Path) -> DbtOutcome:
    """Run the unit tests of the project; they need no lake.

    Raises: TableError where the project itself does not parse.
    """
    command = ["test", "--select", "test_type:unit"]
    # A fresh parse: unit tests are for whoever has just changed a model.
    return _outcome_of(_invoke(command, target_path, manifest=None))


def compile_models(target_path: Path) -> dict[str, str]:
    """Give the SQL that each model runs, by name; no lake is needed.

    Raises: TableError where the project itself does not compile.
    """
    nowhere = {"tenant": "any", "lake_root": str(target_path), "batch": "any", "spill_path": str(target_path)}
    result = _invoke(["compile", "--vars", json.dumps(nowhere)], target_path, load_manifest())
    if not result.success:
        raise TableError(f"dbt_project does not compile: {scrub(str(result.exception))}")
    nodes = [node.node for node in getattr(result.result, "results", [])]
    return {str(one.name): str(one.compiled_code) for one in nodes if one.resource_type == "model"}


def parse_manifest() -> Path:
    """Parse the project, put the manifest in its place and return where that is.

    Two files result: `manifest.json`, which Dagster reads, and `partial_parse.msgpack`, which we do.

    Raises: TableError where the project does not parse.
    """
    MANIFEST.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MANIFEST.parent) as folder:
        result = _invoke(["parse"], Path(folder), manifest=None)
        if not result.success:
            raise TableError(f"dbt_project does not parse: {scrub(str(result.exception))}")
        # Each replaced in one step: another process may be reading the old one.
        for file in (_parsed(), MANIFEST):
            (Path(folder) / file.name).replace(file)
    return MANIFEST


def manifest_file() -> Path:
    """Give the prebuilt manifest as Dagster reads it, parsing first where it is absent.

    Raises: TableError where the project does not parse.
    """
    return MANIFEST if MANIFEST.exists() else parse_manifest()


def load_manifest() -> Manifest:
    """Read the prebuilt manifest, parsing first where it is absent, older than the project or than dbt.

    Raises: TableError where the project does not parse.
    """
    from dbt.version import __version__

    if not _parsed().exists() or _parsed().stat().st_mtime_ns < _newest_change_ns():
        parse_manifest()
    manifest = _cached_manifest()
    if manifest.metadata.dbt_version != __version__:
        parse_manifest()
        manifest = _cached_manifest()
    return manifest


def _parsed() -> Path:
    """Where dbt's own form of the manifest lies.

    manifest.json read back loses the arguments of generic tests (dbt-core 1.11: the union of test
    types takes the first that fits), so that every such test fails to compile.
    """
    return MANIFEST.with_name("partial_parse.msgpack")


def _cached_manifest() -> Manifest:
    key = (_parsed(), _parsed().stat().st_mtime_ns)
    if key not in _manifests:
        _manifests.clear()
        _manifests[key] = _read_manifest(_parsed())
    return _manifests[key]


def _read_manifest(path: Path) -> Manifest:
    from dbt.contracts.graph.manifest import Manifest
    from dbt.parser.manifest import extended_mashumuro_decoder

    manifest: Manifest = Manifest.from_msgpack(path.read_bytes(), decoder=extended_mashumuro_decoder)
    # The macros' `graph`; dbt builds it while parsing, not while reading.
    manifest.build_flat_graph()  # type: ignore[no-untyped-call]
    return manifest


def _newest_change_ns() -> int:
    written = (path for path in PROJECT.rglob("*") if path.suffix in {".sql", ".yml"})
    return max(path.stat().st_mtime_ns for path in written if MANIFEST.parent not in path.parents)


def _invoke(command: list[str], target_path: Path, manifest: Manifest | None) -> dbtRunnerResult:
    """Run dbt quietly: no network, no statistics, nothing written outside `target_path`."""
    from dbt.cli.main import dbtRunner

    target_path.mkdir(parents=True, exist_ok=True)
    places = {
        "--project-dir": PROJECT,
        "--profiles-dir": PROJECT,
        "--target-path": target_path.resolve(),
        "--log-path": target_path.resolve() / "logs",
    }
    flags = ["--no-send-anonymous-usage-stats", "--no-use-colors", "--no-partial-parse", "--quiet"]
    # SQL and errors in a log file may hold values; what is needed of them is in the outcome.
    flags += ["--log-level", "none", "--log-level-file", "none"]
    arguments = [part for name, path in places.items() for part in (name, str(path))]
    with _turn:
        try:
            return dbtRunner(manifest=manifest).invoke([*command, *flags, *arguments])
        finally:
            _close_connections()


def _close_connections() -> None:
    """Drop the in-memory database: dbt keeps it for the next build with equal settings."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    if DuckDBConnectionManager._ENV is not None:
        DuckDBConnectionManager._ENV.close()
    DuckDBConnectionManager.close_all_connections()  # type: ignore[no-untyped-call]


def _outcome_of(result: dbtRunnerResult) -> DbtOutcome:
    nodes = list(getattr(result.result, "results", []))
    kinds: dict[str, list[RunResult]] = {"model": [], "test": []}
    for node in nodes:
        kind = "test" if node.node.resource_type in {"test", "unit_test"} else "model"
        if kind == "test" or node.node.config.materialized == "delta":
            kinds[kind].append(node)
    return DbtOutcome(
        succeeded=result.success,
        models=tuple(_model_outcome(node) for node in kinds["model"]),
        tests=tuple(_test_outcome(node) for node in kinds["test"]),
        message=scrub(str(result.exception)) if result.exception else "",
    )


def _model_outcome(node: RunResult) -> ModelOutcome:
    response = node.adapter_response or {}
    written = re.fullmatch(r"delta version (\d+)", str(response.get("_message", "")))
    return ModelOutcome(
        unique_id=node.node.unique_id,
        name=node.node.name,
        status=str(node.status),
        rows=int(response["rows_affected"]) if written else None,
        version=int(written[1]) if written else None,
        seconds=round(node.execution_time, 3),
        message="" if written else scrub(node.message),
    )


def _test_outcome(node: RunResult) -> TestOutcome:
    return TestOutcome(
        unique_id=node.node.unique_id,
        name=node.node.name,
        model=_tested_model(node.node).rpartition(".")[2],
        status=str(node.status),
        failures=int(node.failures or 0),
        message="" if str(node.status) == "pass" else scrub(node.message),
    )


def _tested_model(test: object) -> str:
    """Return the unique id of the model under test: each of dbt's three kinds keeps it elsewhere."""
    tested = getattr(test, "attached_node", None) or getattr(test, "tested_node_unique_id", None)
    # A test that is a query of its own names the mart first.
    return str(tested or test.depends_on.nodes[0])  # type: ignore[attr-defined]


def scrub(message: str | None) -> str:
    """Take out whatever can be a value of a row: DuckDB and dbt quote them in their errors.

    Quoted text, numbers and long unbroken words go; names of columns and models in plain text stay.
    """
    quoted = re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "…", message or "")
    return re.sub(r"[\w=/+-]{28,}|\d+", "…", quoted).strip()
