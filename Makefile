# g2d-pipeline: one command for each task. `make help` lists them.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
UV := $(shell command -v uv 2>/dev/null)
SHELL := /bin/bash

export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export KEDRO_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONHASHSEED := 0
export PYTHONUNBUFFERED := 1
# Runs and tests start many processes, which import the same modules: they are compiled once.
unexport PYTHONDONTWRITEBYTECODE

ifdef UV
CREATE_VENV = $(UV) venv --quiet --seed --python "$(PYTHON)" $(VENV)
INSTALL = $(UV) pip install --quiet --python $(PY) --constraint requirements.lock
else
CREATE_VENV = "$(PYTHON)" -m venv $(VENV)
INSTALL = $(PY) -m pip install --quiet --constraint requirements.lock
endif

# An empty file in .venv stands for "these extras are installed, from these files, in this folder".
# What `make test` installs includes what `make run` needs, so either may come first.
STATE := $(shell { pwd; cat pyproject.toml requirements.lock; } | cksum | cut -d ' ' -f 1)
RUN_READY := $(VENV)/.ready-$(STATE)-run
RETRAIN_READY := $(VENV)/.ready-$(STATE)-retrain
DEV_READY := $(VENV)/.ready-$(STATE)-dev
# Read before anything is installed: whether there was nothing to do.
RUN_DONE := $(wildcard $(RUN_READY))
DEV_DONE := $(wildcard $(DEV_READY))

.DEFAULT_GOAL := help
.PHONY: help venv venv-run run schedule test coverage lint format lock bench clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

$(PY):
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  echo "g2d-pipeline needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is: $$("$(PYTHON)" --version 2>&1)."; \
	  echo "Name another one, for example: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "==> Creating $(VENV) with $$("$(PYTHON)" --version)$(if $(UV), (uv))"
	@$(CREATE_VENV) || { rm -rf $(VENV); exit 1; }

$(RUN_READY): | $(PY)
	@echo "==> Installing g2d-pipeline; the first time this downloads PyTorch (about 3 GB on Linux) and takes minutes"
	@$(INSTALL) setuptools wheel
	@$(INSTALL) --no-build-isolation --editable '.[viz]'
	@rm -f $(VENV)/.ready-* && touch $@

$(RETRAIN_READY): | $(RUN_READY)
	@echo "==> Installing MLflow and Dagster (about 1 GB)"
	@$(INSTALL) --no-build-isolation --editable '.[viz,retrain]'
	@touch $@

$(DEV_READY): | $(RUN_READY)
	@echo "==> Installing the development tools"
	@$(INSTALL) --no-build-isolation --editable '.[viz,dev,export,retrain,dask,ray,s3]'
	@touch $@ $(RETRAIN_READY)

venv-run: $(RUN_READY)
	@echo "==> $(VENV) is $(if $(RUN_DONE),up to date: nothing to install,ready)"

venv: $(DEV_READY) ## Make .venv with everything that tests and linters need
	@echo "==> $(VENV) is $(if $(DEV_DONE),up to date: nothing to install,ready)"

run: venv-run ## Install what is needed and run the default pipeline (ARGS="--params ...")
	@echo "==> kedro run $(ARGS)"
	@$(PY) -m kedro run $(ARGS)

schedule: $(RETRAIN_READY) ## Start Dagster with the schedules of conf/base/schedules.yml (ARGS="--port 3001")
	@echo "==> kedro schedule start $(ARGS)"
	@$(PY) -m kedro schedule start $(ARGS)

# The tests run in two processes: one thread each is fastest.
test: venv ## Run the whole test suite (ARGS="-k name")
	@echo "==> pytest $(ARGS)"
	@OMP_NUM_THREADS=1 $(PY) -m pytest $(ARGS)

# Following every line takes a quarter of the time again.
coverage: venv ## The same, and which lines it reaches
	@echo "==> pytest --cov $(ARGS)"
	@OMP_NUM_THREADS=1 $(PY) -m pytest --cov --cov-report=term $(ARGS)

lint: venv ## Check style, types and the layering of imports
	@echo "==> ruff check"
	@$(PY) -m ruff check .
	@echo "==> ruff format --check"
	@$(PY) -m ruff format --check .
	@echo "==> mypy"
	@$(PY) -m mypy
	@echo "==> lint-imports"
	@$(VENV)/bin/lint-imports --no-logo

format: venv ## Apply ruff's fixes and format
	@$(PY) -m ruff check --fix-only .
	@$(PY) -m ruff format .

# Keeps the pins that still fit; `make lock LOCK_FLAGS=--upgrade` takes the newest of everything.
lock: ## Remake requirements.lock from pyproject.toml
	@echo "==> Resolving every dependency for Python 3.11-3.13 on Linux, macOS and Windows"
	@PYTHON="$(PYTHON)" bash scripts/lock.sh $(LOCK_FLAGS)

BENCHMARKS := $(filter-out benchmarks/common.py benchmarks/peer.py benchmarks/reference.py,$(wildcard benchmarks/*.py))
bench: venv ## Run every script in benchmarks/ (about a quarter of an hour on 2 cores; BENCHMARKS=benchmarks/flops.py for one)
	@set -e; for script in $(BENCHMARKS); do echo "==> $$script"; $(PY) $$script; done

clean: ## Remove .venv, caches and build output (not data/)
	@echo "==> Removing $(VENV), caches and build output"
	@rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache \
	  .coverage .coverage.* htmlcov
	@find src tests conf -name __pycache__ -type d -prune -exec rm -rf {} +
