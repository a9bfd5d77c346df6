# Each target makes what it needs, the virtual environment included: `make demo` works on a fresh clone.
# PYTHON: which interpreter makes the environment (3.11 or 3.12). DEVICE: cpu or gpu.

PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c '' 2>/dev/null && echo $$python && break; done)
DEVICE ?= cpu
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(DEVICE)
PYTEST := $(BIN)/python -m pytest
STARTED := $(shell date +%s)
BENCHMARKS = $(filter-out harness reward_load paper_service,$(basename $(notdir $(wildcard benchmarks/[a-z]*.py))))

.PHONY: help setup demo test test-slow check format bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## the virtual environment in .venv, at the versions in constraints/

$(READY): pyproject.toml scripts/setup.py constraints/$(DEVICE).txt constraints/excluded.txt
	@test -n "$(PYTHON)" || { echo "setup: no Python found, install Python 3.11 or 3.12"; exit 1; }
	@$(PYTHON) scripts/setup.py --venv $(VENV) --device $(DEVICE)
	@touch $@

demo: setup  ## the whole loop on this CPU: phantoms, warm start, RL, report.html
	@OVERREAD_STARTED_AT=$(STARTED) $(BIN)/overread train recipes/phantom-cpu.toml

test: setup  ## unit and integration tests
	$(PYTEST) tests -m "not slow and not gpu"

test-slow: setup  ## the tests that take longer than a minute each
	$(PYTEST) tests -m "slow and not gpu"

check: setup  ## format, lint, types, import contracts, unit tests: before each commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) tests/unit -q -m "not slow and not integration"

format: setup  ## what `make check` would complain about and ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup  ## every benchmark, results in runs/benchmarks/
	@mkdir -p runs/benchmarks
	@for name in $(BENCHMARKS); do \
		$(BIN)/python -m benchmarks.$$name --json runs/benchmarks/$$name.json || exit 1; done

clean:  ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
