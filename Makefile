# `make` lists the targets. PYTHON chooses the interpreter, VENV the virtual environment that is made with it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet
LOCKED := $(INSTALL) --no-build-isolation --require-hashes
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help run test lint format lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

run: $(VENV)/run ## set up and serve the station on SQLite at 127.0.0.1:8080
	$(BIN)/station migrate
	$(BIN)/station serve

test: $(VENV)/dev ## set up and pass all tests, on SQLite and on a real PostgreSQL
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

lint: $(VENV)/dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/dev ## resolve the dependencies again and write the lock files
	$(INSTALL) uv
	for what in "pyproject.toml -o requirements.lock" "--group build -o requirements-build.lock" \
	  "pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock"; do \
	  UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	  --generate-hashes --no-annotate $$what || exit 1; done

clean: ## remove the virtual environment and what tools left behind
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The build tools first: Spyne is published as source only, and is built with these and not with whatever is newest.
$(VENV)/build: requirements-build.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) lacks the venv module (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --require-hashes -r requirements-build.lock
	@touch $@

$(VENV)/run: requirements.lock pyproject.toml | $(VENV)/build
	$(LOCKED) -r requirements.lock
	$(INSTALL) --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/dev: requirements-dev.lock $(VENV)/run
	$(LOCKED) -r requirements-dev.lock
	@touch $@
