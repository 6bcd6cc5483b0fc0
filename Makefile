# relayd: `make demo` and `make test` do all their own set-up on a fresh Debian 12+/Ubuntu machine with python3 and make.
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
export PYTHON ?= python3
BIN := .venv/bin
# Tests run side by side; WORKERS=0: one after another.
WORKERS ?= auto
# `make test PYTEST="-k spool -x"` runs a part.
PYTEST ?=

# make deb DEB_ARCH=arm64: for another machine than this one.
DEB_ARCH ?=

# make soak MINUTES=60: how long the relay has to hold out.
MINUTES ?= 10

.PHONY: help demo test lint format types system deb deb-check bench storm soak lock clean venv venv-run

help:                   ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: venv-run          ## a drive through a dead zone, told live and judged; no root, no network beyond the installation
	@$(BIN)/relayd demo

test: venv              ## the gate: style, types, layers, tests (not the system rigs)
	@tools/need test
	@$(MAKE) lint
	$(BIN)/pytest -m "not system" -n $(WORKERS) --maxprocesses 4 --dist worksteal $(PYTEST)

lint: venv              ## ruff, mypy --strict, import-linter
	@failed=0; for tool in "ruff check ." "ruff format --check ." mypy "lint-imports --no-logo"; do \
	    echo "== $$tool"; $(BIN)/$$tool || failed=1; done; exit $$failed

format: venv            ## lay the code out anew
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

system: venv            ## rigs that need root: Prism, radosgw, mounts, a booted Debian; installs its Debian and npm packages
	@[ "$$(id -u)" = 0 ] || { echo "relayd: the system rigs mount and install; run: sudo make system" >&2; exit 1; }
	@tools/need system
	$(BIN)/pytest -m system -p no:xdist $(PYTEST)

deb:                    ## the Debian package, in dist/; DEB_ARCH=arm64 or amd64 for another machine
	@tools/deb $(DEB_ARCH)

deb-check: venv         ## the package for both machines: reproducible, lintian, what is in it
	$(BIN)/pytest -m system -p no:xdist tests/system/test_package.py $(PYTEST)

bench: venv             ## side-by-side measurements; fails where a design number does not hold
	@tools/need bench
	@failed=0; for file in bench/[a-z]*.py; do echo "== $$file"; $(BIN)/python "$$file" --check || failed=1; done; exit $$failed

storm: venv             ## the long storm: kills, lost answers, refusals; nothing lost, altered or doubled
	@tools/need test
	$(BIN)/pytest -m "not system" -p no:xdist tests/crash $(PYTEST)

soak: venv              ## endurance, MINUTES=10: reloads, lost connections, 10,000 failures; nothing may grow
	@tools/need test
	$(BIN)/python -m tests.crash.soak --minutes $(MINUTES)

lock: venv              ## pin the newest versions that pyproject.toml allows, with their hashes
	@tools/lock

clean:                  ## removes what the targets above made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv:
	@tools/venv dev

venv-run:
	@tools/venv run
