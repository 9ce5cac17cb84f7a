# Two commands do everything on a fresh machine: `make demo` and `make test`. Both make .venv by themselves.
#   make demo PORT=auto     free ports instead of 8080, 8081, ...
#   make demo PYTHON=python3.12

# The first interpreter that is new enough; an older python3 may come first on PATH.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then echo $$p; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8080
WORKERS ?= 2
MINUTES ?= 10
ROUNDS ?= 200

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-all lint format soak churn clean help

help:
	@echo 'make demo    train, archive, serve and query the MNIST example'
	@echo 'make test    all checks: ruff, mypy, import-linter, pytest with the real Java frontend'
	@echo 'make test-all  pytest with the slow tests, too: half an hour'
	@echo 'make lint    the checks without pytest'
	@echo 'make format  rewrite the sources in the project style'
	@echo 'make soak    kill worker processes under load for MINUTES ($(MINUTES)): does the server hold?'
	@echo 'make churn   register and remove models at once for ROUNDS ($(ROUNDS)): is every one answered?'
	@echo 'make clean   remove the environment and the caches'

demo: $(VENV)/.installed
	@$(BIN)/python examples/mnist/demo.py --port $(PORT)

# Every check runs, whatever the others found; pytest comes last, so that its summary ends the output. The tests start
# hundreds of processes: what is compiled once is not compiled by each, also where the environment forbids to keep it.
test: $(VENV)/.installed-dev
	@status=0; \
	$(MAKE) --no-print-directory lint || status=1; \
	$(BIN)/python -m compileall -q archive_tool handlers serving model_defs || status=1; \
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder || status=1; \
	exit $$status

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m ""

lint: $(VENV)/.installed-dev
	@status=0; \
	$(BIN)/ruff check --no-cache . || status=1; \
	$(BIN)/ruff format --check . || status=1; \
	$(BIN)/mypy || status=1; \
	$(BIN)/lint-imports --no-cache || status=1; \
	exit $$status

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo 'Python 3.10 or newer is needed: make PYTHON=/path/to/python' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo 'python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }

$(VENV)/.installed: setup.py | $(VENV)/bin/python
	@echo 'installing into $(VENV) (PyTorch is large: a few minutes on the first run)'
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-dev: setup.py | $(VENV)/bin/python
	@echo 'installing into $(VENV) (PyTorch is large: a few minutes on the first run)'
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.installed

soak: $(VENV)/.installed
	@$(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

churn: $(VENV)/.installed
	@$(BIN)/python benchmarks/churn.py --rounds $(ROUNDS)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
