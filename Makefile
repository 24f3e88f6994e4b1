# Everything a newcomer needs: `make serve` and `make test`. Nothing is installed outside .venv, .cache and node_modules,
# but for Debian's Chromium where `make test` runs as root and finds no browser.

PYTHON ?= python3
BIN := .venv/bin
# A machine without an NVIDIA card saves 3 GB with: make serve TORCH_FROM="--index-url https://download.pytorch.org/whl/cpu"
TORCH_FROM ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check
NPM := $(BIN)/python tests/tools/npm.py

.PHONY: help install serve chat slack-demo test test-quick lint format lock bench clean

help:
	@echo "make serve      install what is missing and serve the chat on http://127.0.0.1:8080"
	@echo "make chat       the same in this terminal"
	@echo "make slack-demo the Slack channel on a fake Slack, to try by hand on http://127.0.0.1:8090"
	@echo "make test       install what the tests need besides, and run them all"
	@echo "make test-quick between two edits: units and contracts, without the model, a browser or Node.js"
	@echo "make lint       ruff, mypy, and ESLint and the types of the pages' scripts"
	@echo "make bench      the pipeline's speed and memory"

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Myna needs Python 3.11 or newer; set PYTHON=python3.12, for example.")'
	@echo "Installing into .venv (PyTorch is large: this can take some minutes the first time) ..."
	$(PYTHON) -m venv .venv
	$(PIP) install --progress-bar on $(TORCH_FROM) "torch>=2.13,<2.14"
	$(PIP) install --quiet --no-deps --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

.venv/installed-test: .venv/installed requirements-test.lock tests/package-lock.json
	@echo "Installing what the tests need ..."
	$(PIP) install --quiet --no-deps --require-hashes -r requirements-test.lock
	$(NPM) ci --prefix tests --silent --no-fund --no-audit
	$(BIN)/python tests/tools/chromium.py
	@touch $@

serve: install
	@$(BIN)/myna serve

chat: install
	@$(BIN)/myna chat

slack-demo: install
	@$(BIN)/python -m examples.slack_demo

# Two at once, each with half of the cores: more would fight for them with the models that each of them loads. Whoever has
# nothing left takes over half of what waits for the other, from its end.
PYTEST := OMP_NUM_THREADS=$$(( ($$(nproc) + 1) / 2 )) $(BIN)/python -m pytest -n auto --maxprocesses 2 --dist worksteal

test: .venv/installed-test
	$(PYTEST)

test-quick: .venv/installed-test
	$(PYTEST) tests/unit tests/contract -m "not model and not browser and not node and not slow"

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(NPM) run --prefix tests --silent lint

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-test
	$(BIN)/python -m benchmarks.pipeline
	$(BIN)/python -m benchmarks.pipeline --postgresql
	$(BIN)/python -m benchmarks.memory

# The locks leave PyTorch out: its files differ by platform and card, so pip chooses among the 2.13 line.
lock: .venv/installed-test
	$(PIP) install --quiet pip-tools
	$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links --unsafe-package torch --output-file requirements.lock pyproject.toml
	$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links --unsafe-package torch --extra test --constraint requirements.lock --output-file requirements-test.lock pyproject.toml

clean:
	rm -rf .venv .cache tests/node_modules build *.egg-info
