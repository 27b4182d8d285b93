# Everything a developer runs. Needs Python 3.11 or later and make; the rest comes from requirements/dev.txt.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-fast lint bench bench-kubernetes lock clean
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh

BIN := .venv/bin
LOCK := requirements/dev.txt
READY := .venv/.ready
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
# As many test processes as cores: `make test WORKERS=1` for one.
WORKERS ?= auto
# Tests that wait for pods leave the cores to others.
CLUSTER_WORKERS ?= 4
ARGS ?=
PYTEST = $(BIN)/python -m pytest --dist loadgroup
EXTRAS := dev kubernetes notebooks store tune widgets
# These would let the machine's own packages in.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
# pip trusts the certificates that the machine trusts; with this, uv does too.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export UV_SYSTEM_CERTS ?= 1
endif

help:
	@echo "make setup      make .venv with every development dependency (PYTHON=python3.12 chooses the interpreter)"
	@echo "make demo       train a model from notebooks/01_quickstart.ipynb on this machine and print what comes back"
	@echo "make test-fast  the inner loop: no slow tests, no linters (ARGS='-k name' chooses)"
	@echo "make test       format, lint, types, import contracts and all tests that this machine can run"
	@echo "make lint       the same without the tests"
	@echo "make bench      the benchmarks, as a table"
	@echo "make bench-kubernetes  the same for jobs on the cluster of KUBECONFIG (ARGS=--help)"
	@echo "make lock       pin the development dependencies anew (UPGRADE=1: at their newest versions)"
	@echo "make clean      remove what the other targets made"

setup: $(READY)

# Keeps the environment it finds unless PYTHON is given, else takes the first interpreter that will do. Then pip installs
# the locked uv and uv the rest, each file checked against its hash; hatchling comes from the lock too.
$(READY): $(LOCK) pyproject.toml
	@if [ -n "$(PYTHON)" ] || ! $(BIN)/python -c '$(SUPPORTED)' 2>/dev/null; then \
		for py in $(or $(PYTHON),python3.13 python3.12 python3.11 python3.14 python3) ''; do \
			if [ -n "$$py" ] && $$py -c '$(SUPPORTED)' 2>/dev/null; then break; fi; \
		done; \
		if [ -z "$$py" ]; then \
			echo "no Python 3.11 to 3.14 found$(if $(PYTHON), as $(PYTHON)); say make setup PYTHON=/path/to/python" >&2; \
			exit 1; \
		fi; \
		$$py -m venv --clear --without-pip .venv; \
	fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null 2>&1 \
		|| $(BIN)/python requirements/fetch_pip.py
	@sed -n '/^uv==/,/[^\\]$$/p' $(LOCK) > .venv/uv.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.txt
	@VIRTUAL_ENV=.venv $(BIN)/uv pip sync -q --compile-bytecode --require-hashes $(LOCK)
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install -q --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY)
	@$(BIN)/python notebooks/run.py notebooks/01_quickstart.ipynb

lint: $(READY)
	@$(BIN)/ruff format --quiet --check || { echo "make lint: run .venv/bin/ruff format" >&2; exit 1; }
	@$(BIN)/ruff check --quiet
	@$(BIN)/pyright --warnings
	@$(BIN)/lint-imports --no-logo

# With a cluster: first what needs none, then what waits for it most of the time, then what breaks or fills it, alone.
# What a busy machine, or a busy cluster, was too slow for is tried again, once or twice, counted and named as RERUN.
test: lint
	@if [ -z "$$KUBECONFIG" ]; then \
		$(PYTEST) -n $(WORKERS) --reruns 1 -rR $(ARGS); \
	else \
		failed=; \
		$(PYTEST) -n $(WORKERS) -m "not cluster" --reruns 1 -rR $(ARGS) || failed=1; \
		$(PYTEST) -n $(CLUSTER_WORKERS) -m "cluster and not alone" --reruns 2 -rR --timeout 300 $(ARGS) || failed=1; \
		$(PYTEST) -n 0 -m "alone" --reruns 2 -rR $(ARGS) || failed=1; \
		[ -z "$$failed" ]; \
	fi

test-fast: $(READY)
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup -m "not slow" --hypothesis-profile=fast $(ARGS)

bench: $(READY)
	@$(BIN)/python benchmarks/core.py $(ARGS)

bench-kubernetes: $(READY)
	@$(BIN)/python -m benchmarks.cluster $(ARGS)

lock: $(READY)
	@$(BIN)/uv pip compile -q pyproject.toml $(addprefix --extra ,$(EXTRAS)) $(if $(UPGRADE),--upgrade) \
		--universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links -o $(LOCK)

clean:
	@rm -rf .venv build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
