# Everything is brought into this folder: .cache (uv and its cache), .venv (the dependencies of uv.lock), .state.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test unit coverage chaos check docs format bench wheel clean

PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .cache/uv/bin/uv
BIN := .venv/bin
PYTEST_ARGS ?=
BENCH_ARGS ?=
PYTEST_WORKERS ?= 3
TEST_CHAOS_SECONDS ?= 120

export BROKER_APP_STATE_DIR ?= $(CURDIR)/.state
export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv-cache
export UV_PYTHON_DOWNLOADS := never
export UV_SYSTEM_CERTS := true
# Where PYTHONDONTWRITEBYTECODE is set, every command and worker would otherwise compile its imports at each start.
export UV_COMPILE_BYTECODE := 1

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 14

demo: .venv/ready ## run the main job: a flood on lopri, interactive work on default (under a minute)
	@.ci/install-broker
	@$(BIN)/broker-app demo

test: .venv/ready ## pass the tests, with a real RabbitMQ
	@.ci/install-broker
	@$(BIN)/pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

unit: .venv/ready ## pass the tests that need no broker, in a minute or two
	@$(BIN)/pytest -n $(PYTEST_WORKERS) tests/unit $(PYTEST_ARGS)

coverage: .venv/ready ## pass the tests and measure what they run, in worker processes too (report in .state/coverage)
	@.ci/install-broker
	@$(BIN)/coverage erase
	@failed=0; $(BIN)/coverage run -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS) || failed=$$?; \
	$(BIN)/coverage combine --quiet; \
	$(BIN)/coverage html --quiet --fail-under=0; \
	$(BIN)/coverage report --skip-covered --sort=cover; \
	exit $$failed

chaos: .venv/ready ## kill and cut for long, and show what was lost (nothing) and doubled
	@.ci/install-broker
	@TEST_CHAOS_SECONDS=$(TEST_CHAOS_SECONDS) $(BIN)/pytest -m "cluster or not cluster" tests/chaos $(PYTEST_ARGS)

check: .venv/ready ## run the static checks: style, types (tests and benchmarks too), imports, docstrings, English
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/interrogate --quiet broker_app queues tests benchmarks
	@$(BIN)/python tests/support/plain_english.py

docs: .venv/ready ## build the documentation into .state/docs; a warning or a broken link is an error
	@$(UV) sync --quiet --locked --group docs
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -d .state/doctrees docs .state/docs
	@echo "open .state/docs/index.html"

format: .venv/ready ## put the code into its form
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: .venv/ready ## measure, side by side with the alternatives (see docs/reference/benchmarks.md)
	@$(UV) sync --quiet --locked --group bench
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

wheel: .venv/ready ## build the wheel into dist/
	@$(UV) build --quiet --wheel --out-dir dist

clean: ## remove what the commands above brought and built
	rm -rf .venv .cache .state dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/ready: pyproject.toml uv.lock $(UV)
	@$(UV) sync --quiet --locked --python $(PYTHON)
	@$(BIN)/python -m compileall -q broker_app queues
	@touch $@

$(UV):
	@command -v $(PYTHON) >/dev/null || { echo "make: there is no $(PYTHON); set PYTHON=python3.11 or a path" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "make: Python 3.11 or later is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); set PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv .cache/uv \
	  || { echo "make: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@.cache/uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
