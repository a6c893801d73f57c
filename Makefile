# Two commands do everything on a fresh machine: `make demo` and `make test`. `make` alone lists all.
#
#   PYTHON=/path/to/python3.11   the interpreter that makes .venv (3.11 or 3.12; else found on PATH)
#   TORCH_INDEX=URL              the package index to take torch, and nothing else, from
#   EXTRAS=dev,ocr,bench         the extras to install; the default, dev, is all that tests need to run
#   JOBS=2                       processes that share the tests
#   PYTEST_ARGS=...              more for pytest: make test PYTEST_ARGS="-k secagg --cov"

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
EXTRAS ?= dev
JOBS ?= 2
PYTHON ?=
TORCH_INDEX ?=
PYTEST_ARGS ?=

# The stamp carries a checksum of what was installed, so a changed pin installs again and a mere
# checkout, which changes file times only, does not.
INPUTS := pyproject.toml constraints.txt
STAMP := $(VENV)/.installed-$(shell { cat $(INPUTS); echo $(EXTRAS); } 2>/dev/null | cksum | cut -d ' ' -f 1)

PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Flower starts its own processes by name, so the environment's commands must be on PATH.
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
# One thread a process: JOBS processes already fill the cores.
PYTEST := $(RUN) OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal

export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.PHONY: help
help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(STAMP) ## one private federation from DICOM to a shared model and its report
	@$(RUN) fedward-simulate demo

.PHONY: test
test: $(STAMP) ## all tests, slow ones included
	$(PYTEST) $(PYTEST_ARGS)

.PHONY: test-quick
test-quick: $(STAMP) ## the tests that take seconds
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

.PHONY: lint
lint: $(STAMP) ## style, types and import rules
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

.PHONY: accept-foundation
accept-foundation: $(STAMP) ## the accuracy and time bars on real images (long)
	$(RUN) $(VENV)/bin/python -m tests.accept.foundation --variants

.PHONY: accept-private-sum
accept-private-sum: $(STAMP) ## the attacks, the fuzzing and the costs of the private sum (long)
	$(RUN) $(VENV)/bin/python -m tests.accept.private_sum

.PHONY: accept-deidentification
accept-deidentification: $(STAMP) ## leaks, burned-in text, mutations, kills and speed (long)
	$(RUN) $(VENV)/bin/python -m tests.accept.deidentification

.PHONY: accept-privacy
accept-privacy: $(STAMP) ## accuracy over seeds, the ledger, the audit and the training engine (long)
	$(RUN) $(VENV)/bin/python -m tests.accept.privacy

.PHONY: accept-deployment
accept-deployment: $(STAMP) ## server and daemons as processes: faults, attacks, the wire (long)
	$(RUN) $(VENV)/bin/python -m tests.accept.deployment

.PHONY: venv
venv: $(STAMP) ## only make the environment

# `===` refuses local builds such as +cpu, whose dependencies are fewer than everyone else's.
.PHONY: constraints
constraints: ## resolve all dependencies anew and write constraints.txt
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT \
	  && python=$$(.ci/python '$(PYTHON)') \
	  && torch=$$(sed -n 's/^ *"torch==\(.*\)",$$/\1/p' pyproject.toml) \
	  && "$$python" -m venv "$$scratch/venv" \
	  && "$$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check --dry-run \
	       --ignore-installed --report "$$scratch/report.json" \
	       '.[dev,ocr,bench]' "torch===$$torch" \
	  && "$$python" .ci/constraints.py "$$scratch/report.json" > "$$scratch/constraints.txt" \
	  && cp "$$scratch/constraints.txt" constraints.txt

.PHONY: clean
clean: ## remove the environment and every cache; results are kept
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf .coverage .coverage.* htmlcov
	find common client server simulations tests .ci -type d -name __pycache__ -prune -exec rm -rf {} +

# The build backend is installed first, from the same pins, so that no step resolves anything afresh.
$(STAMP): $(INPUTS)
	@python=$$(.ci/python '$(PYTHON)') && "$$python" -m venv $(VENV)
	@rm -f $(VENV)/.installed-*
	@echo "Installing into $(VENV): minutes the first time, seconds later."
ifneq ($(strip $(TORCH_INDEX)),)
	@$(PIP) --no-deps --index-url "$(TORCH_INDEX)" torch
endif
	@$(PIP) hatchling editables
	@$(PIP) --no-build-isolation --editable '.[$(EXTRAS)]'
	@touch $@
