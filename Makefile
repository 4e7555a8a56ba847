# `make help` lists what there is. Everything is set up by itself, into .venv and .node.

TLS ?=
PORT ?= $(if $(TLS),8443,8000)
DEMO ?=
BIN := .venv/bin
SOURCES := $(wildcard ec2spawner launch_cluster tests benchmarks tools jupyterhub_config.py setup.py)

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-clean test test-image test-image-full lint audit docs format bench soak lock picture screenshots clean chromium

help:  ## this list
	@awk -F ':.*##  *' '/^[a-z-]+:.*##/ {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Python packages into .venv and the proxy into .node, as locked
	@tools/setup.sh >&2

demo: setup  ## hub, emulated cloud and real launch command on this computer [PORT=8000; TLS=1: by HTTPS, PORT=8443]
	@$(BIN)/python -m ec2spawner.localcloud.demo --port $(PORT) $(if $(TLS),--tls) --end-with-parent $(DEMO)

demo-clean:  ## forget the demo's users, files and machines
	@tools/demo_clean.sh

test: setup  ## all checks and tests; the browser's need Debian's chromium
	@$(MAKE) --no-print-directory --jobs 3 --output-sync lint docs chromium
	@$(BIN)/python -m pytest --numprocesses 2 --ignore tests/image

chromium:
	@tools/chromium.sh

# Alone: each machine boots as fast as it can.
IMAGE_TESTS := $(BIN)/python -m pytest -o faulthandler_timeout=2400 --durations 5

test-image: setup  ## the worker's image, made and booted for real (root, Debian; some minutes)
	@tools/qemu.sh
	@EC2SPAWNER_TEST_IMAGE=lean $(IMAGE_TESTS) tests/image

test-image-full: setup  ## the same, all that takes longer, and the manager (an hour)
	@tools/qemu.sh full
	@EC2SPAWNER_TEST_IMAGE=full $(IMAGE_TESTS) -rA tests/image tests/manager

lint: setup  ## ruff, mypy --strict, the layers of the modules, and bandit
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tools/audit.py --code

audit: setup  ## our code by bandit, the locks by pip-audit and npm audit, where they can be reached
	@$(BIN)/python tools/audit.py

docs: setup  ## the documentation, into .docs; warnings are errors
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs .docs

format: setup  ## put the code into the one format
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --select I --fix $(SOURCES)

bench: setup  ## the figures of the README, as JSON on stdout
	@$(BIN)/python -m benchmarks

SECONDS ?= 3600
SOAK_SEED ?=

soak: setup  ## stories of a class with random seeds, then a hub under load [SECONDS=3600, each]
	@PYTHONPATH=.:tests $(BIN)/python -m soak --seconds $(SECONDS) $(SOAK_SEED:%=--seed %)
	@$(BIN)/python -m benchmarks.soak --seconds $(SECONDS) --strict

lock: setup  ## newest versions that pyproject.toml and launch_cluster/manager/proxy allow, into the locks
	@tools/lock.sh

picture: docs/architecture.svg  ## the README's picture from its source (needs graphviz)

docs/architecture.svg: docs/architecture.dot
	dot -Tsvg $< -o $@

PICTURES := login not-known denied login-provider-away starting jupyterlab home choice named-servers admin machines not-found \
	announcement no-capacity interruption stopping too-often token \
	idle bad-name authorize refused machine-away not-running login-expired

screenshots: setup  ## the README's, taken anew by the browser test
	@SCREENSHOTS=.test-output/screenshots $(BIN)/python -m pytest tests/browser
	@cd .test-output/screenshots && cp $(PICTURES:%=%.png) ../../docs/images/

clean:  ## remove what setup and the tools made; the demo's state stays
	rm -rf .venv .node .programs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .docs
