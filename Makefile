# make train    a reward curve, after setting up what it needs
# make test     everything that must hold: lint, types, tests
# make bench    speed against what it was on this kind of machine (minutes; the machine must be quiet)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: setup train test tests chaos bench lint types
.DEFAULT_GOAL := setup

# The stamp makes this a no-op, with no network, until a requirement changes.
$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "groupwise needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[plots,dev]'
	@touch $@

setup: $(VENV)/.stamp

train: setup
	$(BIN)/groupwise train $(ARGS)

test: lint types tests

lint: setup
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

# One thread in each of two workers: more would fight for the same cores.
tests: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(ARGS)

# Runs killed at every place where they write, then resumed: minutes, so not part of `make test`.
chaos: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/chaos.py --kills 30 --seed 0 $(ARGS)

# Ratios of a short run against those in bench/baseline.json; ARGS=--update keeps new ones. Not part of `make test`.
bench: setup
	$(BIN)/python bench/gate.py $(ARGS)
