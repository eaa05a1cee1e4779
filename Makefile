# On a fresh machine start with `make run` or `make test`. Each installs what is missing into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help run endpoint test coverage lint format comfyui test-comfyui image test-image faults soak bench clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# The stamp is newer than pyproject.toml if the environment has all packages that pyproject.toml names.
$(VENV)/.run-stamp: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.10 to 3.13 is needed: install it, or name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Python 3.10 to 3.13 is needed; this is $$($(PYTHON) --version). Name another with PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "python3-venv is missing: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test-stamp: pyproject.toml $(VENV)/.run-stamp
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	@touch $@

run: $(VENV)/.run-stamp ## run test_input.json through the real handler and write the images into results/
	$(BIN)/python handler.py

endpoint: $(VENV)/.run-stamp ## start RunPod's API on this machine, with the same worker behind it (ARGS="--port 0")
	@$(BIN)/python -m endpoint $(ARGS)

# Two processes per core, each with a file at a time, in the order of the tree.
SIDE_BY_SIDE := -n auto --dist loadfile --no-loadscope-reorder

test: $(VENV)/.test-stamp ## run lint, then every test
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

coverage: $(VENV)/.test-stamp ## run every test under coverage and print a table by module (ARGS="tests/models": only those)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(SIDE_BY_SIDE) -p tests.support.coverage_end --ignore=tests/image $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered

lint: $(VENV)/.test-stamp ## run ruff, mypy, shellcheck, hadolint and oxlint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd simulator && ../$(BIN)/mypy .
	$(BIN)/shellcheck start.sh .ci/run scripts/*.sh docker/*.sh
	$(BIN)/hadolint Dockerfile
	$(BIN)/oxlint client/web

format: $(VENV)/.test-stamp ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

COMFYUI_REPO ?= https://github.com/comfyanonymous/ComfyUI
COMFYUI_REF ?= v0.29.0
TORCH_INDEX_URL ?=

comfyui: ## install the pinned ComfyUI into ./ComfyUI, with its own virtual environment
	scripts/install-comfyui.sh '$(COMFYUI_REPO)' '$(COMFYUI_REF)' '$(TORCH_INDEX_URL)' '$(PYTHON)'

test-comfyui: $(VENV)/.test-stamp ## run the protocol and integration tests against the ComfyUI at COMFYUI_PATH
	@test -f "$${COMFYUI_PATH:?name a ComfyUI checkout}/main.py" || { echo "COMFYUI_PATH has no main.py" >&2; exit 1; }
	$(BIN)/python -m pytest tests/protocol tests/integration

image: ## build the image with docker, podman or buildah, the first that is installed
	docker/build-image.sh

test-image: $(VENV)/.test-stamp ## build the image on a debootstrap base with buildah and run jobs in it (root)
	TEST_IMAGE=$${TEST_IMAGE:-1} $(BIN)/python -m pytest tests/image

faults: $(VENV)/.test-stamp ## cause every fault and write the outcomes into docs/faults.md
	$(BIN)/python -m pytest tests/faults/assembled --write-faults docs/faults.md

soak: $(VENV)/.test-stamp ## run ten minutes of load with kills (ARGS="--seed 7 --minutes 2")
	$(BIN)/python -m tests.soak $(ARGS)

$(VENV)/.bench-stamp: pyproject.toml $(VENV)/.test-stamp
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

BENCH := env -u COMFYUI_PATH -u COMFYUI_ARGS $(BIN)/python benchmarks

bench: $(VENV)/.bench-stamp ## run the benchmarks and write their tables into docs/benchmarks.md (12 minutes)
	$(BENCH)/warm_job.py --write
	$(BENCH)/warm_ensure.py --write
	$(BENCH)/inline_results.py --write
	$(BENCH)/s3_results.py --write
	$(BENCH)/cold_start.py --runs 4 --write
	test -z "$(COMFYUI_PATH)" || $(BIN)/python benchmarks/cold_start.py --runs 3 --write
	$(BENCH)/cold_job.py --runs 2 --write
	$(BENCH)/downloads.py --write
	$(BENCH)/pollers.py --rounds 4 --write
	$(BENCH)/endpoint_simulation.py --write

clean: ## remove the environment, results and caches; keep ./ComfyUI and the endpoint's jobs in .endpoint/
	rm -rf $(VENV) results .simulator *.egg-info .pytest_cache .mypy_cache simulator/.mypy_cache .ruff_cache .hypothesis
