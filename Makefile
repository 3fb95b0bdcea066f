# Needs only make and a Python of 3.11 or later; everything else goes into .venv.
#
#   make quickstart   train on the shipped data, test, run dynamics, draw figures (about 4 minutes)
#   make test         lint, then all quick tests
#   make lint format wheel clean
#
# PYTHON=python3.12 chooses the interpreter; EXTRAS=test,jax-md,cuda13 adds to what is installed.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
EXTRAS ?= test,jax-md

# The first interpreter that really runs (a name on PATH may be an empty shim), is new enough, and
# can make an environment.
CANDIDATES := python3 python3.13 python3.12 python3.11 python
PYTHON ?= $(shell for python in $(CANDIDATES); do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1 && { echo $$python; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint format wheel clean

help:
	@sed -n 's/^# \{0,1\}//; 3,7p' Makefile

setup: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later (with venv) among: $(CANDIDATES)." \
		"Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

quickstart: $(STAMP)
	$(BIN)/python experiments/quickstart/run.py

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --durations 40 -m "not nightly and not gpu"

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist runs *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	rm -rf experiments/*/runs
