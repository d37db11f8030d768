# Everything here needs Python >= 3.11 and make. Targets make .venv where it is missing or of another lock.

STUDY ?= benchmarks/studies/pocket.yaml

# Where pip looks for torch besides its usual places: CPU builds, unless you name a CUDA index such as
# https://download.pytorch.org/whl/cu130, or leave it empty (then PyPI's build, on Linux a CUDA one).
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# The first of these that is new enough makes .venv. One of your own: `make test PYTHON=/path/to/python3`.
PYTHON ?= python3 python3.13 python3.12 python3.11

LOCK := requirements/lock-cpu.txt
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed-$(firstword $(shell cksum < $(LOCK)))

.DEFAULT_GOAL := help
.PHONY: help reproduce tables test lint speed clean

help: ## show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  STUDY=FILE names another study than $(STUDY)."

reproduce: $(INSTALLED) ## run the study STUDY to its report; a killed run goes on where it was
	$(BIN)/snakemake --config study=$(STUDY)

tables: $(INSTALLED) ## rebuild tables, figures and report of STUDY from its records, in seconds
	$(BIN)/snakemake --config study=$(STUDY) -- tables

test: $(INSTALLED) ## run the tests, but those that need a GPU or the network
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not gpu and not network"

lint: $(INSTALLED) ## check style, types and workflow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakemake --lint

speed: $(INSTALLED) ## measure the suite's speed against plain transformers and TRL
	OMP_NUM_THREADS=1 $(BIN)/pytest benchmarks/speed

clean: ## remove .venv and caches; trained models (work/) and results stay
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find repro baselines benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

# torch goes first and alone, so that the lock can name one version for CPU and CUDA builds. Its index is not
# waited for long: without it, pip's usual places serve. The last step finds everything in place, but for the
# libraries that a CUDA build of torch needs.
$(INSTALLED):
	@for python in $(PYTHON); do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		echo "making $(VENV) with $$($$python --version)"; exec $$python -m venv --clear $(VENV); \
	done; \
	echo "No Python >= 3.11 among: $(PYTHON); install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1
	$(BIN)/pip install --no-deps --constraint $(LOCK) torch \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX) --retries 1 --timeout 10)
	$(BIN)/pip install --no-deps --requirement $(LOCK)
	$(BIN)/pip install --no-build-isolation --constraint $(LOCK) --editable ".[dev]"
	@touch $@
