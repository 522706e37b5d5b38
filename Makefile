# One environment in .venv, built from the package registry that pip is set up for; every target runs in it.

# The first of these that is there and starts: a version manager's stand-in is there for releases that it has not.
PYTHON ?= $(shell for v in 3.11 3.12 3.13 3.14 3.10 3; do \
    command -v python$$v >/dev/null && python$$v -c '' 2>/dev/null && command -v python$$v && break; done)
comma     := ,
VENV      := .venv
BIN       := $(VENV)/bin
# Which MMSegmentation: mmseg (1.2.2) or onedl (the maintained forks, in a VENV of their own).
MMSEG     := mmseg
# The framework that the environment is for, if it has one alone; make env makes it whole.
ONLY      := $(if $(filter env demo demo-seg docs,$(MAKECMDGOALS)),,$(shell cat $(VENV)/.only 2>/dev/null))
EXTRAS    := $(if $(ONLY),$(ONLY:mmseg=$(MMSEG)),detectron2$(comma)$(MMSEG)$(comma)pretrain),dev
PACKAGES  := $(VENV)/.packages$(if $(ONLY),-$(ONLY))
DETECTRON := $(VENV)/.detectron2
SPHINX    := $(VENV)/.sphinx
INSTALLER := $(wildcard ndpp_dense/cli/install_detectron2/*.py)
# One more than cores: tests that start processes, or wait for a time limit, leave theirs idle.
PROCESSES ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n < 4 ? n + 1 : 5)))
TESTS     := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal
PIP       := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help env env-detectron2 env-mmseg demo demo-seg test test-all coverage lint docs bench gpu-kit clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(if $(filter mmseg,$(ONLY)),$(PACKAGES),$(DETECTRON))  ## build .venv with all extras and Detectron2
	@$(if $(ONLY),,rm -f $(VENV)/.only)

env-detectron2:  ## build .venv with Detectron2 alone; make test then skips what needs others
	@$(call only,detectron2)

env-mmseg:  ## build .venv with MMSegmentation alone
	@$(call only,mmseg)

# A whole environment is left as it is.
only = test ! -e $(VENV)/.packages || { echo "$(VENV) has all frameworks: make env-$(1) VENV=.venv-$(1), and the same VENV \
    for make test; or make clean first" >&2; exit 2; }; \
    mkdir -p $(VENV) && echo $(1) > $(VENV)/.only && $(MAKE) --no-print-directory ONLY=$(1) env

$(PACKAGES): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(not (3, 10) <= v[:2] <= (3, 14) and \
	    f"Python 3.10 to 3.14 is needed, $(PYTHON) is {v[0]}.{v[1]}: run make env PYTHON=/path/to/python3.12")'
	@echo "env 1/4: $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV)
	@echo "env 2/4: torch, the largest download"
	@$(PIP) torch setuptools wheel
	@echo "env 3/4: ndpp-dense with its extras ($(EXTRAS))"
	@$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@

$(DETECTRON): $(PACKAGES) $(INSTALLER)
	@echo "env 4/4: Detectron2"
	@$(BIN)/ndpp install-detectron2
	@touch $@

demo: env  ## train the small Mask R-CNN with ND++ on generated data, for half of its config's iterations
	$(BIN)/ndpp train-det --config mask_rcnn_ndpp_demo \
	    SOLVER.MAX_ITER 330 SOLVER.STEPS '(250, 300)' TEST.EVAL_PERIOD 330

demo-seg: env  ## train the small DeepLabv3 with ND++ on generated streets
	$(BIN)/ndpp train-seg --config deeplabv3_ndpp_demo

test: env  ## run the default tests, a few at a time
	$(TESTS)

test-all: env  ## run the slow tests too
	$(TESTS) -m 'not gpu'

coverage: env  ## run the default tests, and write which lines they reach to docs/project/coverage.md
	$(TESTS) --cov --cov-report=term:skip-covered
	$(BIN)/python tools/coverage_page.py

lint: env  ## ruff check, ruff format --check, codespell, pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/pyright

$(SPHINX): $(DETECTRON)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the site is built with Python 3.11 or later: \
	    make clean docs PYTHON=/path/to/python3.11")'
	@$(PIP) --editable '.[docs]'
	@touch $@

docs: $(SPHINX)  ## build the site in docs/_build/html, warnings as errors
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html

bench: env  ## measure speed, memory and communication against the peers, with small sizes
	$(BIN)/python tools/benchmark.py --quick

gpu-kit: env  ## collect what tools/gpu_report.py needs on a machine with a GPU and without network
	$(BIN)/python tools/gpu_kit.py

clean:  ## remove the environment, caches and outputs
	rm -rf $(VENV) output build dist docs/_build .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
