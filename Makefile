# make demo      environment, the main job on the rendered sample, scores and pictures
# make test      environment, all tests that fit in ten minutes on two cores
# make test-all  environment, every test
# make fuzz      environment, 100,000 damaged files through every reader (minutes); FUZZ_ARGS for more
# make torture   environment, programs killed, starved and lied to (ten minutes); TORTURE_ARGS for more
# make lint      ruff
# make types     pyright
# make coverage  environment, the tests with the share of lines that they run
# make lock      requirements.lock anew: every package to be had today, with its hashes
# make audit     known vulnerabilities of what the lock names (needs the internet)
# make compat    the tests with the oldest versions that requirements.txt allows, in .venv-oldest, and with the
#                newest ones, in .venv-newest, where there is a Python 3.12 or newer (NEWEST_PYTHON)
# make env       the environment alone: .venv, rebuilt only when a requirement file changes;
#                LOCKED=1 installs exactly what requirements.lock names, as CI does

# The first Python from 3.11 on; `make PYTHON=/path/to/python3.12` chooses another.
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,\
	$(shell $(python) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(python))))
NEWEST_PYTHON ?= $(firstword $(foreach python,python3.14 python3.13 python3.12 python3,\
	$(shell $(python) -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo $(python))))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.requirements-installed
# Two processes share the compilations; `make test PYTEST_ARGS=` runs in one. tests/conftest.py orders the files.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
LOCKED ?=
REQUIREMENTS := $(if $(LOCKED),--require-hashes -r requirements.lock,-r requirements.txt -r requirements-dev.txt)

.PHONY: env demo test test-all fuzz torture lint types coverage lock audit compat compat-oldest compat-newest
.DEFAULT_GOAL := env

env: $(STAMP)

# pip leaves the network alone where everything asked for is installed.
$(STAMP): requirements.txt requirements-dev.txt $(if $(LOCKED),requirements.lock)
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; make PYTHON=/path/to/python3" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): 1.4 GB, some minutes the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(REQUIREMENTS)
	@# So that scripts anywhere find the library.
	@$(BIN)/python -c "import pathlib, sysconfig; \
		pathlib.Path(sysconfig.get_path('purelib'), 'vos_jax.pth').write_text('$(CURDIR)\n')"
	@touch $@

demo: env
	$(BIN)/python eval.py --config demo --overlay

test: env
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-all: env
	$(BIN)/python -m pytest $(PYTEST_ARGS)

fuzz: env
	$(BIN)/python -m tests.fuzz.run --inputs 100000 --keep results/fuzz $(FUZZ_ARGS)

torture: env
	$(BIN)/python -m tests.torture.run $(TORTURE_ARGS)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

coverage: env
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS) --cov=vos_jax --cov-report=term

lock: env
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate \
		--no-header --no-emit-index-url requirements.txt requirements-dev.txt --output-file requirements.lock

audit: env
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --requirement requirements.lock --require-hashes --disable-pip

compat: compat-oldest compat-newest

compat-oldest: env
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	$(BIN)/uv pip install --quiet --upgrade --python .venv-oldest/bin/python --resolution lowest-direct \
		-r requirements.txt -r requirements-dev.txt
	.venv-oldest/bin/python -m pytest -m "not slow" $(PYTEST_ARGS)

# JAX's newest releases take a newer Python than 3.11.
compat-newest:
ifeq ($(NEWEST_PYTHON),)
	@echo "no Python 3.12 or newer found, so the newest releases are not tested; make compat NEWEST_PYTHON=/path/to/python3.13"
else
	test -x .venv-newest/bin/python || $(NEWEST_PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade \
		-r requirements.txt -r requirements-dev.txt
	.venv-newest/bin/python -m pytest -m "not slow" $(PYTEST_ARGS)
endif

types: env
	$(BIN)/pyright --pythonpath $(BIN)/python
