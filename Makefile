# make study: the deep retrieval study on the embedded data. make test: every check. make docs: the site.
# Each makes .venv first.
# make fuzz MINUTES=2: malformed input for everything that reads files or requests, see docs/benchmarks/fuzzing.md.
# make torture: a fault at every call that writes, for an hour at most (TORTURE_MINUTES=10); needs Linux and a C compiler.
# make dist: wheel and sdist in dist/, each installed in a clean environment and tried; EXTRAS=all (or some names) tries
# each extra alone, too.
# make bench-tfrs: beside TensorFlow Recommenders, in an environment of its own (1.6 GB), and its test cases.
# DATA=simulated takes the embedded data, FULL=1 the whole tutorial.
# make race LOG=log.parquet: beside other libraries, in environments of their own (4.5 GB), and their page of the docs.
PYTHON ?= python3
BIN := .venv/bin
DATA ?= movielens-100k
MINUTES ?= 2
PEERS := rectools librecommender torch-rechub jax

.PHONY: study test types tests fuzz docs dist bench-tfrs race torture clean

study: .venv/installed
	$(BIN)/twotower study --out study

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs src tests examples benchmarks scripts
	+$(MAKE) --no-print-directory --jobs 2 types tests

types: .venv/installed
	$(BIN)/mypy

tests: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 4 --dist worksteal

# Coverage-guided, each target for so many minutes; Linux.
fuzz: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris==3.0.0
	$(BIN)/python benchmarks/fuzz.py --minutes $(MINUTES)

docs: .venv/installed
	$(BIN)/mkdocs build --strict

dist: .venv-dist/installed
	.venv-dist/bin/python scripts/check_dist.py $(if $(EXTRAS),--extras $(EXTRAS))

bench-tfrs: .venv/installed .venv-tfrs/installed
	$(BIN)/python benchmarks/tfrs/compare.py --data $(DATA) $(if $(FULL),--full)
	$(BIN)/python benchmarks/tfrs/large.py
	$(BIN)/python benchmarks/tfrs/replay.py

# A library that cannot be installed is left out.
race: .venv/installed
	-$(MAKE) --keep-going $(PEERS:%=.venv-%/installed)
	$(BIN)/python benchmarks/peers/race.py $(if $(LOG),--log $(LOG))
	$(BIN)/python benchmarks/peers/race_page.py

torture: .venv/installed
	nice $(BIN)/python benchmarks/torture.py --minutes $(or $(TORTURE_MINUTES),60) --out benchmarks/results/torture.json

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "twotower needs Python 3.11 or later; name one with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv-dist/installed:
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet --disable-pip-version-check build twine
	touch $@

.venv-tfrs/installed: benchmarks/tfrs/requirements.txt
	$(PYTHON) -m venv .venv-tfrs
	.venv-tfrs/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	touch $@

# Its other packages would bring a second TensorFlow; only PyTorch needs its own.
.venv-librecommender/installed: benchmarks/peers/requirements-librecommender.txt
	$(PYTHON) -m venv .venv-librecommender
	.venv-librecommender/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	.venv-librecommender/bin/python -m pip install --quiet --disable-pip-version-check --constraint $< torch
	touch $@

.venv-%/installed: benchmarks/peers/requirements-%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

clean:
	rm -rf .venv .venv-dist .venv-tfrs $(PEERS:%=.venv-%) build dist site study study.partial .mypy_cache .ruff_cache .pytest_cache
