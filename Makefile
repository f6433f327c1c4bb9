# Everything here sets itself up and may be run again. Needs Python 3.11 or later, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests use one thread each: two OpenMP threads on a busy machine can stall.
export OMP_NUM_THREADS ?= 1

.PHONY: quickstart test test-all test-parity lint bench clean

quickstart: $(VENV)/.ready
	env -u OMP_NUM_THREADS $(BIN)/upslope train recipes/quickstart.toml

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2

# Loss and gradient against TRL's own trainers, which stay out of our environment.
test-parity: $(VENV)-parity/.ready
	HF_HUB_OFFLINE=1 $(VENV)-parity/bin/python -m pytest tests/test_parity_trl.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.ready
	env -u OMP_NUM_THREADS $(BIN)/python benchmarks/quickstart.py runs/quickstart

# torch comes first and alone: resolved together with the rest, a looser pin may take a CUDA build.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)-parity/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-parity
	$(VENV)-parity/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(VENV)-parity/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,parity]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-parity build dist
