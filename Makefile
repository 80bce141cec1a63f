# Two commands: `make demo` and `make test`. Both set up their own environment in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
JOBS ?= 2
# Of libraries, what no run imports.
UNUSED := rllib|sympy|_inductor|_dynamo|tests?|testing

.DEFAULT_GOAL := help
.PHONY: help setup demo federation bench test test-all check clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## Make the environment in .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m compileall -q -j 0 -x '/($(UNUSED))/' $(VENV)/lib >/dev/null 2>&1 || true # pip would take one core for all
	@touch $@

demo: $(STAMP) ## Train five clients on four tasks, about five minutes on two cores
	$(BIN)/python -m simulations.demo

federation: $(STAMP) ## Deploy a SuperLink with TLS and five SuperNodes on this machine, and run
	$(BIN)/python -m simulations.federation

bench: $(STAMP) ## Measure beside the limits, about half an hour on two cores; outputs/bench.json
	$(BIN)/python -m simulations.bench --quick

PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder

test: $(STAMP) ## Run the tests, real Flower runs included
	$(PYTEST) -m "not long"

test-all: $(STAMP) ## Run those too that take minutes each: the tutorial, faults on a SuperLink, a killed sweep
	$(PYTEST)

check: $(STAMP) ## Format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## Remove the environment and all outputs
	rm -rf $(VENV) outputs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
