"""How much is tested: told, not yet enforced."""

import sys


def test_how_much_is_tested_is_told(sources, tracked, root, capsys):
    source = sum(one.lines for one in sources)
    names = [name for name in tracked if name.startswith("tests/") and name.endswith(".py")]
    tests = sum(len((root / name).read_text().splitlines()) for name in names)
    with capsys.disabled():
        sys.stdout.write(f"\n{tests} lines of tests, {source} of source: {tests / source:.2f}; 1.2 is wanted\n")
    assert tests > 0
