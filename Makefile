# The front door. A fresh machine needs make and Python 3.11 or newer; everything else goes to .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11 python; do \
	if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	echo $$candidate; break; fi; done)
RUN := .venv/bin/python -m
PIP := $(RUN) pip --disable-pip-version-check --no-input
LOCKED := install --quiet --root-user-action=ignore --no-warn-script-location --require-hashes
COMPILE := .venv/bin/uv pip compile --universal --generate-hashes --no-emit-index-url \
	--no-emit-find-links --python-version 3.11 --no-header --quiet
EXTRAS := --extra embedded --extra intl --extra einvoice
BEYOND := --extra clickhouse --extra nats  # past one machine: tested here, installed by who needs them
WORKERS ?= 2

# What runs needs the runtime only; where the developers' tools are installed they are kept current.
USANCE := $(if $(wildcard .venv/dev.stamp),.venv/dev.stamp,.venv/runtime.stamp) .venv/usance.stamp
TOOLS := .venv/dev.stamp .venv/usance.stamp

.PHONY: help demo test serve worker check bench crash kills lint types imports format migrate lock clean
.DELETE_ON_ERROR:

help: ## this list
	@echo "Usance: usage-based subscription billing. Targets:"
	@sed -n 's/^\([a-z]*\):.*## /  make \1@/p' Makefile | awk -F@ '{ printf "%-16s %s\n", $$1, $$2 }'

demo: $(USANCE) ## events in, invoices out, end to end on the embedded database
	@.venv/bin/usance demo

serve: $(USANCE) ## the API and the worker in one process
	@.venv/bin/usance serve

worker: $(USANCE) ## the worker alone: bills what falls due
	@.venv/bin/usance serve --role worker

check: $(USANCE) ## every rule's scenario, as a bookkeeper would read it
	@.venv/bin/usance check tests/scenarios

migrate: $(USANCE) ## bring the database to the current schema
	@.venv/bin/usance migrate

bench: $(TOOLS) ## measure; prints ratios, which travel between machines
	@$(RUN) benchmarks

test: lint types imports ## all gates, then all tests
	@$(RUN) pytest -q -n $(WORKERS)

crash: $(TOOLS) ## kill things and look at the books
	@USANCE_KILLS=$${USANCE_KILLS:-50} $(RUN) pytest -q tests/faults

kills: $(TOOLS) ## a run of 100,000 subscriptions, killed a hundred times: the same books
	@TMPDIR=$${TMPDIR:-/tmp} USANCE_RUN_SUBSCRIPTIONS=$${USANCE_RUN_SUBSCRIPTIONS:-100000} USANCE_RUN_KILLS=$${USANCE_RUN_KILLS:-100} \
		$(RUN) pytest -q -s tests/faults/test_billing_kill_at_scale.py

lint: $(TOOLS) ## ruff: rules and layout
	@$(RUN) ruff check --quiet
	@$(RUN) ruff format --check --quiet || { echo "layout differs: run make format"; exit 1; }

format: $(TOOLS) ## put the layout right, fix what can be fixed safely
	@$(RUN) ruff check --fix --quiet --exit-zero
	@$(RUN) ruff format --quiet

types: $(TOOLS) ## basedpyright, strict
	@$(RUN) basedpyright

imports: $(TOOLS) ## the layers, the pure nouns, the one door to each outside system
	@.venv/bin/lint-imports

lock: $(TOOLS) ## compile requirements/ again from pyproject.toml
	@$(COMPILE) $(EXTRAS) pyproject.toml -o requirements/runtime.txt
	@$(COMPILE) $(EXTRAS) $(BEYOND) --group dev pyproject.toml -o requirements/dev.txt
	@$(COMPILE) --group pyproject.toml:build -o requirements/build.txt

clean: ## forget .venv and every cache
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache usance.egg-info

.venv/created.stamp:
	@test -n "$(PYTHON)" || { echo "Usance needs Python 3.11 or newer;" \
	"name one with make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "This Python cannot make virtual" \
	"environments: install its venv module (Debian, Ubuntu: apt install python3-venv)."; exit 1; }
	@echo "Creating .venv with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv .venv
	@touch $@

.venv/runtime.stamp: requirements/runtime.txt .venv/created.stamp
	@echo "Installing $$(grep -c == $<) locked packages from $< into .venv"
	@$(PIP) $(LOCKED) -r $<
	@touch $@

.venv/dev.stamp: requirements/dev.txt .venv/created.stamp
	@echo "Installing $$(grep -c == $<) locked packages from $< into .venv"
	@$(PIP) $(LOCKED) -r $<
	@touch $@ .venv/runtime.stamp

.venv/usance.stamp: pyproject.toml requirements/build.txt .venv/created.stamp
	@$(PIP) $(LOCKED) -r requirements/build.txt
	@$(PIP) install --quiet --root-user-action=ignore --no-deps --no-build-isolation -e .
	@touch $@
