# Two commands for a newcomer: `make demo` and `make test`. Nothing is needed before them but
# Python 3.10 or newer, make and a Python package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO_OUTPUT ?= output/demo
# Through the environment and unexpanded, so that a path may hold spaces, quotes and dollars.
export DEMO_VIDEO := $(value VIDEO)

.PHONY: demo test test-slow bench check lint format soak api clean

demo: $(VENV)/.demo
	@$(BIN)/python run_stream.py demo --output "$(DEMO_OUTPUT)" -- $${DEMO_VIDEO:+"$$DEMO_VIDEO"}

test: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

soak: $(VENV)/.test
	$(BIN)/python -m benchmarks.soak --minutes 10

# All contenders, one thread each; some forty minutes on two idle cores.
bench: $(VENV)/.bench
	for part in decoding "encoding --blip 2" end_to_end static_scene \
			"live --cameras 1 4 6 8 --seconds 20" "live --scene key-frames --cameras 1 4 8 16" \
			"live --scene still --cameras 1 8 32" "alert_latency --seconds 30" grabbers curves; do \
		echo "== $$part"; \
		OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.$$part || failed="$$failed $${part%% *}"; \
	done; \
	$(BIN)/python -m benchmarks.ratios; \
	test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

# The API reference, from the docstrings.
api: $(VENV)/.api
	$(BIN)/python docs/api.py

check: $(VENV)/.check lint test

lint: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.check
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Each stamp stands for one set of extras, and is made anew when what it was made from changes.
$(VENV)/.base: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV): some 7 GB, minutes the first time"
	$(PIP) --editable .
	@touch $@

$(VENV)/.demo: $(VENV)/.base
	$(PIP) --editable ".[demo]"
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) --editable ".[test,train]"
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	$(PIP) --editable ".[bench]"
	@touch $@

$(VENV)/.api: $(VENV)/.base
	$(PIP) --editable ".[docs]"
	@touch $@

$(VENV)/.check: $(VENV)/.test
	$(PIP) --editable ".[check,keyframes]"
	@touch $@
