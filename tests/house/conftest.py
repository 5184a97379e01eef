"""What the house rules look at: the rooms' sources, parsed once, and the files under version control."""

import ast
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("transforms", "stores", "assets", "orchestration", "lockhouse")


@dataclass(frozen=True)
class Source:
    """One module of a room."""

    path: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [one for one in ast.walk(self.tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]

    def classes(self) -> list[ast.ClassDef]:
        return [one for one in ast.walk(self.tree) if isinstance(one, ast.ClassDef)]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


def parse_folders(*folders: str) -> list[Source]:
    """Parse every module below some folders."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in paths}
    return [Source(path, text, ast.parse(text)) for path, text in texts.items()]


@pytest.fixture(scope="session")
def sources() -> list[Source]:
    """Every module of every room."""
    return parse_folders(*ROOMS)


@pytest.fixture(scope="session")
def tested() -> list[Source]:
    """Every module of tests and benchmarks."""
    return parse_folders("tests", "benchmarks")


@pytest.fixture(scope="session")
def tracked() -> list[str]:
    """Every file under version control that is there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
