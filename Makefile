# Everything people do here. `make` or `make help` lists it.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# shapes in signatures are checked while tests run
SHAPES := --jaxtyping-packages="vitlab,beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
# files of tests side by side, one thread each: faster than one after the other with many
JOBS ?= 2
PARALLEL := -n $(JOBS) --dist loadfile --no-loadscope-reorder
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready ## make .venv and install vitlab with its development tools into it

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vitlab needs Python 3.11 or newer; name one with make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; } \
	  || { echo "no venv with pip could be made; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --compile-bytecode -c constraints.txt -e '.[dev]'
	touch $@

demo: setup ## draw the embedded data, train on them for some minutes, print a table
	$(BIN)/vitlab fit --config configs/dino_entmax.yaml --config configs/demo.yaml --run-dir runs/demo-$$(date +%Y%m%d-%H%M%S)

test: setup ## run the tests; JOBS=4 as many files side by side
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(PARALLEL) $(SHAPES) tests

test-fast: setup ## run the tests that take no longer than a few seconds each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" $(PARALLEL) $(SHAPES) tests

bench: setup ## measure speed against named peers, in the same run; OUT=FILE.md keeps it
	$(BIN)/python -m benchmarks $(if $(OUT),--out $(OUT))

chaos: setup ## stop a small run of two ranks 30 times, damage its checkpoints, compare; SEED=N for others
	$(BIN)/python tests/chaos.py --seed $(or $(SEED),0) --stops $(or $(STOPS),30)

golden: setup ## rewrite the golden losses; read the diff before committing it
	rm -f tests/references/demo.json
	-$(BIN)/python -m pytest -q tests/test_configs.py -k golden
	git --no-pager diff --stat tests/references

notebooks: setup ## execute the notebooks and keep their outputs
	$(BIN)/python tests/notebook_outputs.py

format: setup ## format and repair the code
	$(BIN)/ruff format vitlab benchmarks tests notebooks
	$(BIN)/ruff check --fix vitlab benchmarks tests notebooks

lint: setup ## check format, style and types
	$(BIN)/ruff format --check vitlab benchmarks tests notebooks
	$(BIN)/ruff check vitlab benchmarks tests notebooks
	$(BIN)/mypy

clean: ## remove what tools leave behind; data and runs stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info

.PHONY: help setup demo test test-fast bench chaos golden notebooks format lint clean
