# make study: the deep retrieval study on the embedded data. make test: every check. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: study test clean

study: .venv/installed
	$(BIN)/twotower study --out study

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "twotower needs Python 3.11 or later; name one with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build study study.partial .mypy_cache .ruff_cache .pytest_cache
