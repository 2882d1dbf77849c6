# One word a target. `make chat` and `make test` set up what they need; a second run finds it there.
PYTHON ?= python3
BIN := .venv/bin

# Kept from make's own reading of `$`, and handed over through the environment, so that any text survives.
Q ?= Name three rivers.
override Q := $(value Q)
export Q

.PHONY: chat test check cover bench soak fuzz docs clean

chat: .venv/local
	@$(BIN)/gpt --base-url local: -- "$$Q" < /dev/null

test: .venv/dev
	$(BIN)/python -m pytest $(ARGS)

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

# Each module of the protocol is covered, every branch of it, by its own test file: no other file's tests count.
PROTOCOL := $(filter-out __init__,$(basename $(notdir $(wildcard src/gpt/protocol/*.py))))
cover: .venv/dev
	@status=0; for module in $(PROTOCOL); do \
		$(BIN)/python -m coverage run --source=src/gpt/protocol -m pytest -q tests/protocol/test_$$module.py && \
		$(BIN)/python -m coverage report --include=src/gpt/protocol/$$module.py --show-missing --fail-under=100 || status=1; \
	done; exit $$status

bench: .venv/bench
	$(BIN)/python -m bench

soak: .venv/dev
	$(BIN)/python -m bench.soak
	$(BIN)/python -m bench.kills

fuzz: .venv/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,fuzz]'
	$(BIN)/python fuzz/answers.py -max_total_time=$(or $(SECONDS),60)
	$(BIN)/python fuzz/streams.py -max_total_time=$(or $(SECONDS),60) -max_len=1000 $$(mktemp -d) tests/dialects

# The links lead somewhere, the examples run, the tables are true.
docs: .venv/dev
	$(BIN)/python -m pytest -q tests/test_docs.py tests/test_readme.py tests/models/test_names.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gpt needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/local: .venv/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[local]'
	@touch $@

.venv/dev: .venv/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/local

.venv/bench: .venv/dev pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@touch $@ .venv/dev .venv/local
