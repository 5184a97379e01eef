"""Suites over real captures: only where `make test-corpus` names a folder, since they need tools and time."""

import os

collect_ignore_glob = [] if "CORPUS" in os.environ else ["test_*.py"]
