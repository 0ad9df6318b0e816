# make study: the deep retrieval study on the embedded data. make test: every check. make docs: the site.
# Each makes .venv first. make fuzz MINUTES=2: inputs that strangers and users give, see docs/benchmarks/fuzzing.md.
# make bench-tfrs: beside TensorFlow Recommenders, in an environment of its own (1.6 GB), and its test cases. DATA=simulated takes the
# embedded data, FULL=1 the whole tutorial.
# make torture: faults at every call that writes, for an hour at most (TORTURE_MINUTES=10); needs Linux and a C compiler.
PYTHON ?= python3
BIN := .venv/bin
DATA ?= movielens-100k
MINUTES ?= 2

.PHONY: study test fuzz docs bench-tfrs torture clean

study: .venv/installed
	$(BIN)/twotower study --out study

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs src tests examples benchmarks
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2

# Coverage-guided, each target for so many minutes; Linux.
fuzz: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris==3.0.0
	$(BIN)/python benchmarks/fuzz.py --minutes $(MINUTES)

docs: .venv/installed
	$(BIN)/mkdocs build --strict

bench-tfrs: .venv/installed .venv-tfrs/installed
	$(BIN)/python benchmarks/tfrs/compare.py --data $(DATA) $(if $(FULL),--full)
	$(BIN)/python benchmarks/tfrs/large.py
	$(BIN)/python benchmarks/tfrs/replay.py

torture: .venv/installed
	nice $(BIN)/python benchmarks/torture.py --minutes $(or $(TORTURE_MINUTES),60) --out benchmarks/results/torture.json

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "twotower needs Python 3.11 or later; name one with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv-tfrs/installed: benchmarks/tfrs/requirements.txt
	$(PYTHON) -m venv .venv-tfrs
	.venv-tfrs/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	touch $@

clean:
	rm -rf .venv .venv-tfrs build site study study.partial .mypy_cache .ruff_cache .pytest_cache
