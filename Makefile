# The commands of the house; the work is in scripts/, so that each target stays a line or two.
PYTHON ?= python3
ROOM ?=
ARGS ?=
PY = .venv/bin/python
.PHONY: setup dev demo test check bench bless size soak

setup: .venv/.setup
.venv/.setup: pyproject.toml scripts/setup.sh
	PYTHON=$(PYTHON) scripts/setup.sh

dev: .venv/.dev
.venv/.dev: pyproject.toml scripts/setup.sh
	PYTHON=$(PYTHON) scripts/setup.sh dev

demo: setup
	$(PY) scripts/demo.py $(ARGS)

test: dev
	scripts/oracles.sh
	$(PY) scripts/fetch_guests.py
	$(PY) -m pytest -n 2 $(ARGS)

check: dev
	$(PY) scripts/check.py $(ROOM)

bench: dev
	scripts/oracles.sh
	$(PY) scripts/bench_engine.py $(ARGS)

bless: dev
	HARTWOOD_BLESS=1 $(PY) -m pytest -q tests/unit -k "golden or bless" $(ARGS)

size: dev
	$(PY) scripts/size.py

soak: dev
	HARTWOOD_SOAK=1 $(PY) -m pytest -n 2 --timeout=7200 $(ARGS)
