# Two commands do everything on a fresh machine: `make demo` and `make test`. Both make .venv by themselves.
#   make demo PORT=auto     free ports instead of 8080, 8081, ...
#   make demo FRONTEND=python   without Java
# Other versions have an environment of their own beside it, .venv-python3.12-torch2.14.1:
#   make test PYTHON=python3.12 TORCH=2.14.1      and TORCHVISION, NUMPY, PILLOW; pip chooses what is not named
#   make test-oldest PYTHON=python3.10            the oldest of everything that setup.py allows

NAMED_PYTHON := $(PYTHON)
# The first interpreter that is new enough; an older python3 may come first on PATH.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then echo $$p; break; fi; done)

# The interpreter tells its version, for it may be named by a path.
VERSION_OF := import sys; print("python{}.{}".format(*sys.version_info))
VENV := .venv$(if $(NAMED_PYTHON),-$(shell $(PYTHON) -c '$(VERSION_OF)'))
VENV := $(VENV)$(TORCH:%=-torch%)$(TORCHVISION:%=-torchvision%)$(NUMPY:%=-numpy%)$(PILLOW:%=-pillow%)$(OLDEST:%=-oldest)$(RAY:%=-ray)
BIN := $(VENV)/bin
# What RUNTIME of setup.py asks for at least, as pip's constraints.
MINIMUMS := sed -n '/^RUNTIME/,/^]/s/^ *"\([^>]*\)>=\([0-9.]*\).*/\1==\2/p' setup.py
# torchvision 0.(N + 15) is made for torch 2.N: pip would try them all.
PAIRED := $(if $(TORCH),0.$(shell expr $(word 2,$(subst ., ,$(TORCH))) + 15).*)
CHOSEN := $(TORCH:%='torch==%') $(patsubst %,'torchvision==%',$(or $(TORCHVISION),$(PAIRED))) \
	$(NUMPY:%='numpy==%') $(PILLOW:%='pillow==%')
PORT ?= 8080
# On two cores: with four they are idle for a sixth of the time, for tests wait for processes and clocks, too.
WORKERS ?= 5
MINUTES ?= 10
ROUNDS ?= 200
REQUESTS ?= 100000

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo demo-ray test test-all test-ray test-with-ray demo-with-ray coverage test-oldest test-versions lint format release-check soak churn fuzz clean help

help:
	@echo 'make demo    train, archive, serve and query the MNIST example'
	@echo 'make test    all checks: ruff, mypy, import-linter, pytest with the real Java frontend'
	@echo 'make test-all  pytest with the slow tests, too: half an hour'
	@echo 'make test-ray  what runs on Ray Serve, with two nodes on this machine'
	@echo 'make demo-ray  MNIST and an embedder on two nodes, under load, while replicas and nodes die'
	@echo 'make coverage  which lines the tests of `make test` reach; TESTS chooses others'
	@echo 'make test-versions  the tests of the SDK, the worker and the archive tool'
	@echo 'make test-oldest    the same with the oldest packages that setup.py allows'
	@echo 'make lint    the checks without pytest'
	@echo 'make format  rewrite the sources in the project style'
	@echo 'make release-check  build wheel and sdist, install each, run the tutorial from it'
	@echo 'make soak    kill worker processes under load for MINUTES ($(MINUTES)): does the server hold? FRONTEND=python'
	@echo 'make churn   register and remove models at once for ROUNDS ($(ROUNDS)): is every one answered?'
	@echo 'make fuzz    send a Python frontend REQUESTS ($(REQUESTS)) that nobody should: is each answered, and none with a 500?'
	@echo 'make clean   remove the environment and the caches'

demo: $(VENV)/.installed
	@$(FRONTEND:%=TORCHMAR_FRONTEND=%) $(BIN)/python examples/mnist/demo.py --port $(PORT)

# Every check runs, whatever the others found; pytest comes last, so that its summary ends the output. The tests start
# hundreds of processes: what is compiled once is not compiled by each, also where the environment forbids to keep it.
# The asserts of the tests are rewritten while the other checks run: that would take each process of pytest 20 seconds.
test: $(VENV)/.installed-dev
	@status=0; \
	$(BIN)/python -m compileall -q archive_tool handlers serving model_defs || status=1; \
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --collect-only -q >/dev/null 2>&1 & \
	$(MAKE) --no-print-directory lint || status=1; \
	wait; \
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder || status=1; \
	exit $$status

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m ""
	$(MAKE) --no-print-directory test-ray

# With an environment of its own, .venv-ray: Ray is large, and nothing else needs it.
test-ray:
	@$(MAKE) --no-print-directory test-with-ray RAY=yes

test-with-ray: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "" tests/integration/test_ray.py tests/integration/test_ray_batch.py tests/serving/frontend/ray

demo-ray:
	@$(MAKE) --no-print-directory demo-with-ray RAY=yes

demo-with-ray: $(VENV)/.installed-dev
	@$(BIN)/python examples/ray_serve/demo.py

# Twice as long as test-all: every process of the tests is traced.
coverage: $(VENV)/.installed-dev
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --timeout 900 $(TESTS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

test-oldest:
	@$(MAKE) --no-print-directory test-versions OLDEST=yes

# What depends on the versions of torch and its kind.
test-versions: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests/handlers tests/serving/worker tests/archive_tool

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

release-check: $(VENV)/bin/python
	@$(BIN)/python tests/release_check.py

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo 'Python 3.10 or newer is needed: make PYTHON=/path/to/python' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo 'python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }

$(VENV)/.installed: $(VENV)/constraints.txt
	@echo 'installing into $(VENV) (PyTorch is large: a few minutes on the first run)'
	$(BIN)/python -m pip install --quiet -e . -c $<
	@touch $@

$(VENV)/.installed-dev: $(VENV)/constraints.txt
	@echo 'installing into $(VENV) (PyTorch is large: a few minutes on the first run)'
	$(BIN)/python -m pip install --quiet -e '.[dev$(RAY:%=,ray)]' -c $<
	@touch $@ $(VENV)/.installed

$(VENV)/constraints.txt: setup.py | $(VENV)/bin/python
	@{ printf '%s\n' $(CHOSEN); $(if $(OLDEST),$(MINIMUMS);) } > $@

soak: $(VENV)/.installed
	@$(BIN)/python benchmarks/soak.py --minutes $(MINUTES) $(FRONTEND:%=--frontend %)

churn: $(VENV)/.installed
	@$(BIN)/python benchmarks/churn.py --rounds $(ROUNDS)

fuzz: $(VENV)/.installed
	@$(BIN)/python benchmarks/fuzz.py --requests $(REQUESTS)

clean:
	rm -rf .coverage* .venv .venv-* build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
