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
from transforms.pii.leaks import MAX_CHARACTERS, MIN_CHARACTERS, LeakMatcher


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
        # What is too short would be met by chance; rows are found by token and reference all the same.
        texts = [one.id for one in subjects if MIN_CHARACTERS <= len(one.id) <= MAX_CHARACTERS]
        texts += [head for one in subjects if one.domain != "device" for head in one.heads]
        self._refs = refs_of(subjects)
        texts += [ref.hex() for ref in self._refs]
        self._texts = LeakMatcher(texts)
        self.finds_numbers = self._texts.finds_numbers
        self._begin = len(texts)

    def find(self, content: bytes) -> list[int]:
        """Give the numbers of what stands in some bytes."""
        found = self._texts.find(content)
        return found + [self._begin + at for at, ref in enumerate(self._refs) if ref in content]


def places_left_out(home: Home, tenant: str) -> list[Path]:
    """Give what is not looked into: landing and keys, and what is another tenant's alone."""
    folders = (home.lake, home.exports, home.certificates)
    others = [path for folder in folders for path in folder.glob("*") if path.name != tenant]
    return [*default_exclusions(home), *others]
