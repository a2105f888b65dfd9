# Each target does its own set-up: a virtual environment in .venv, filled once and again when
# pyproject.toml, constraints.txt or the native sources change. `make PYTHON=python3.12 …` takes another Python.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
ARGS ?=

.PHONY: help demo test check format bench reliability sanitize docs clean

help:
	@echo "make demo    run the demo: applications inside the service, beside the same calls one by one"
	@echo "make test    run every test"
	@echo "make check   run the gate: format, lint, types, layers, sizes, quick tests, generated docs"
	@echo "make bench   measure all that can be measured here and make benchmarks/README.md; under 40 minutes"
	@echo "make reliability  try the promises with faults and keep the figures; takes minutes"
	@echo "make sanitize  drive the native kernels under the address and undefined-behaviour sanitizers"
	@echo "make format  format the code and mend what the linter can mend"
	@echo "make docs    build the documentation site into site/"
	@echo "make clean   remove the virtual environment and everything built"
	@echo "Arguments go on with ARGS, as in: make demo ARGS=article.txt"

demo: $(READY)
	@$(BIN)/parrot demo $(ARGS)

test: $(READY)
	@$(BIN)/python -m pytest $(ARGS)

check: $(READY)
	@$(BIN)/python tools/check.py $(ARGS)

format: $(READY)
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

bench: $(VENV)/.ready-plots
	@$(BIN)/python tools/bench.py $(ARGS)

reliability: $(READY)
	@$(BIN)/python tools/reliability_campaign.py $(ARGS)

sanitize:
	@$(PYTHON) tools/sanitize_kernels.py build/sanitize

docs: $(VENV)/.ready-docs
	@$(BIN)/python tools/write_reference.py
	@$(BIN)/zensical build --clean --strict

clean:
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find parrot tests tools examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(READY): pyproject.toml constraints.txt $(wildcard setup.py csrc/*)
	@$(PYTHON) tools/set_up.py $(VENV) engine,postgres,test
	@touch $@

$(VENV)/.ready-plots: $(READY)
	@$(PYTHON) tools/set_up.py $(VENV) engine,postgres,test,plots
	@touch $@

$(VENV)/.ready-docs: $(READY)
	@$(PYTHON) tools/set_up.py $(VENV) engine,postgres,test,docs
	@touch $@
