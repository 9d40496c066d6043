# Two commands: `make demo` and `make test`. Each sets up what it needs in .venv and nowhere else.

PYTHON ?= python3
UV_VERSION := 0.13.8
BIN := .venv/bin
INSTALLED := .venv/installed
TEST_INSTALLED := .venv/test-installed
WORKERS ?= 2

.PHONY: demo test lint format bench lock clean

demo: $(INSTALLED)
	$(BIN)/python jobs/submit.py sweep=quickstart cluster=local slots=2
	$(BIN)/python aggregate/report.py sweep=quickstart

test: $(TEST_INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST)

lint: $(TEST_INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(TEST_INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(TEST_INSTALLED)
	$(BIN)/python tests/bench/bench.py

# Resolve newer versions into both lock files. Neither holds an index address.
COMPILE := $(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11
lock: $(BIN)/uv
	$(COMPILE) pyproject.toml --group build -o requirements.lock
	$(COMPILE) --group test -c requirements.lock -o tests/requirements.lock

$(BIN)/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)

$(INSTALLED): requirements.lock pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

$(TEST_INSTALLED): tests/requirements.lock $(INSTALLED)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r tests/requirements.lock
	touch $@

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
