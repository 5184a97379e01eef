# Each target sets up what it needs; nothing but Python 3.11 (or newer) and make has to be there.
PYTHON ?= python3
BIN := .venv/bin
export LOCKHOUSE_HOME ?= $(CURDIR)/.lockhouse

.PHONY: help setup demo up test check bench test-browser test-corpus lock docs clean

help:  ## say what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# The environment is made anew when the lock or the project's settings change.
.venv/ready: requirements.lock pyproject.toml
	@test -x $(BIN)/python || { echo "Setting up .venv (once) …"; $(PYTHON) -m venv .venv; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# A contract's change reaches dbt's sources and the reference pages first, then the manifest.
dbt_project/target/manifest.json: .venv/ready $(wildcard contracts/*.yaml) $(shell find dbt_project -name '*.sql' -o -name '*.yml' | grep -v /target/)
	@$(BIN)/python -m lockhouse.reference
	@$(BIN)/python -m stores.dbt_lineage

setup: .venv/ready dbt_project/target/manifest.json  ## the environment only

demo: setup  ## synthetic data through everything, in .lockhouse
	@$(BIN)/lockhouse demo

up: setup  ## the Dagster UI, and files taken as they land
	@$(BIN)/lockhouse up

test: setup  ## every test that needs nothing but the lock
	@$(BIN)/python -m pytest -n auto --dist worksteal

check: setup  ## style, types, import rules, house rules, generated documents
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . && echo "ruff: clean"
	@$(BIN)/mypy
	@said=$$($(BIN)/lint-imports --no-cache 2>&1) && echo "imports: one way" || { echo "$$said"; exit 1; }
	@$(BIN)/sqlfluff lint --quiet --disable-progress-bar dbt_project/models dbt_project/tests && echo "sqlfluff: clean"
	@$(BIN)/python -m pytest tests/house -q -p no:randomly
	@$(BIN)/python -m lockhouse.reference --check

bench: setup  ## each benchmark against its peers, ratios printed
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

test-browser: setup  ## the pages in a real browser: Debian's chromium, or CHROMIUM=path
	@test -x "$${CHROMIUM:-/usr/bin/chromium}" || { echo "no chromium: apt-get install chromium"; exit 1; }
	@command -v tshark >/dev/null || { echo "no tshark: apt-get install tshark"; exit 1; }
	@$(BIN)/python -m pytest tests/browser -q -p no:randomly

test-corpus: setup  ## suites over real data in ../shared/data, or CORPUS=folder
	@test -d "$${CORPUS:-../shared/data}" || { echo "no corpus: give CORPUS=folder, one with captures in it"; exit 1; }
	@command -v editcap tshark >/dev/null || { echo "no Wireshark tools: apt-get install wireshark-common tshark"; exit 1; }
	@CORPUS="$${CORPUS:-../shared/data}" $(BIN)/python -m pytest tests/corpus tests/golden tests/functional -q

lock: .venv/ready  ## resolve the dependencies anew
	@$(BIN)/python -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	    --group dev --group bench pyproject.toml -o requirements.lock >/dev/null

docs: setup  ## write the generated reference pages
	@$(BIN)/python -m lockhouse.reference

clean:  ## remove what was built; the home stays
	rm -rf .venv dbt_project/target .pytest_cache .mypy_cache .ruff_cache
