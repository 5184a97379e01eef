"""The scan that an erasure ends with: every file of the home, decoded, for anything of the subject.

It looks for the identifier in every spelling, for the joinable part of every token, and for the
references, as they stand in bytes and in hexadecimal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stores.data_subjects import Subject, refs_of
from stores.home import Home
from stores.leaks import LeakReport, default_exclusions, scan_with
from transforms.pii.leaks import MAX_CHARACTERS, LeakMatcher

_LEAST_CHARACTERS, _LEAST_DIGITS = 6, 12
# Where the texts come from that a home has of us: descriptions, settings, compiled SQL.
_TREE = Path(__file__).resolve().parent.parent
_ROOMS = ("contracts", "dbt_project", "transforms", "stores", "assets", "orchestration", "lockhouse")
_KINDS = ("*.py", "*.sql", "*.yml", "*.yaml")


class ErasureScan:
    """Scans the files of one tenant, and those that all tenants share."""

    def __init__(self, home: Home, tenant: str) -> None:
        """Remember the folders; nothing is read yet."""
        self._home, self._tenant = home, tenant

    def run(self, subjects: Sequence[Subject]) -> LeakReport:
        """Look for everything that is known of subjects."""
        return scan_with(
            self._home.root, SubjectMatcher(subjects), exclude=places_left_out(self._home, self._tenant)
        )


class SubjectMatcher:
    """Finds subjects by identifier, token or reference."""

    def __init__(self, subjects: Sequence[Subject]) -> None:
        """Build the automata."""
        # What is met by chance is left out; rows are found by token and reference all the same.
        texts = [one.id for one in subjects if _is_telling(one.id)]
        texts += [head for one in subjects if one.domain != "device" for head in one.heads]
        self._refs = refs_of(subjects)
        texts += [ref.hex() for ref in self._refs]
        self._texts = LeakMatcher(texts, whole_words=True)
        self.finds_numbers = self._texts.finds_numbers
        self._begin = len(texts)

    def find(self, content: bytes) -> list[int]:
        """Give the numbers of what stands in some bytes."""
        found = self._texts.find(content)
        return found + [self._begin + at for at, ref in enumerate(self._refs) if ref in content]


def _is_telling(identifier: str) -> bool:
    """Whether an identifier that is met can be nothing else.

    Sealed bytes hold each five characters once in a terabyte; of numbers with few digits, counts and
    times are full; and a device may be called by a word that our own files have.
    """
    least = _LEAST_DIGITS if identifier.isdecimal() else _LEAST_CHARACTERS
    return least <= len(identifier) <= MAX_CHARACTERS and not _is_word_of_ours(identifier)


def _is_word_of_ours(identifier: str) -> bool:
    if not identifier.isalpha():
        return False
    matcher = LeakMatcher([identifier], whole_words=True)
    files = (path for room in _ROOMS for kind in _KINDS for path in (_TREE / room).rglob(kind))
    return any(matcher.find(path.read_bytes()) for path in files)


def places_left_out(home: Home, tenant: str) -> list[Path]:
    """Give what is not looked into: landing and keys, and what is another tenant's alone."""
    folders = (home.lake, home.exports, home.certificates)
    others = [path for folder in folders for path in folder.glob("*") if path.name != tenant]
    return [*default_exclusions(home), *others]
