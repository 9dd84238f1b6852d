# Everything people do here. `make` or `make help` lists it.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# shapes in signatures are checked while tests run
SHAPES := --jaxtyping-packages="vitlab,beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
# test files in parallel, one thread each: faster than one after the other with many threads
JOBS ?= 2
FILES ?= tests
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder $(SHAPES)
# the fast tests in an environment of their own, without constraints.txt; `ready` keeps setup from it
WITH = folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(BIN)/uv venv --quiet --python $(BIN)/python "$$folder/venv" \
	  && VIRTUAL_ENV="$$folder/venv" $(BIN)/uv pip install --resolution $(ARE) -e '.[dev]' \
	  && touch "$$folder/venv/ready" && $(MAKE) test VENV="$$folder/venv"
CODE := vitlab benchmarks tests notebooks docs/site
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready ## make .venv and install vitlab with its development tools into it

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vitlab needs Python 3.11 or newer; name one with make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; } \
	  || { echo "no venv with pip could be made; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --compile-bytecode -c constraints.txt -e '.[dev,docs]'
	touch $@

demo: setup ## draw the synthetic data, train on them for some minutes, print a table
	$(BIN)/vitlab fit --config configs/dino_entmax_locat.yaml --config configs/demo.yaml --run-dir runs/demo-$$(date +%Y%m%d-%H%M%S)

screenshot: setup ## show a run in TensorBoard and keep the picture; RUN=DIR, OUT=FILE.png, needs chromium
	$(BIN)/python tests/tensorboard_screenshot.py $(RUN) --out $(or $(OUT),docs/results/tensorboard.png)

test: setup ## run the fast tests: a few minutes on two cores; JOBS=4 files in parallel, FILES=tests/data a part
	$(PYTEST) -m "not slow" $(FILES)

test-all: setup ## run all tests: full products of options, every stop, SLURM, notebooks
	$(PYTEST) $(FILES)

test-floors: ARE := lowest-direct
test-floors: setup ## run the fast tests with the oldest versions that pyproject.toml allows, installed into a temporary folder
	$(WITH)

test-newest: ARE := highest
test-newest: setup ## run the fast tests with the newest versions that pyproject.toml allows
	$(WITH)

test-wheel: setup ## build the wheel, and pretrain two steps with it in an empty folder
	PYTHON=$(abspath $(BIN))/python tests/wheel.sh

chaos: setup ## stop a small run of two ranks 30 times, damage its checkpoints, compare; SEED=N, STOPS=N
	$(BIN)/python tests/chaos.py --seed $(or $(SEED),0) --stops $(or $(STOPS),30)

golden: setup ## rewrite golden losses and error messages, FILES=tests/data those of a part; read the diff
	rm -f tests/references/demo.json
	-OMP_NUM_THREADS=1 VITLAB_UPDATE_MESSAGES=1 $(BIN)/python -m pytest -q $(FILES)
	git --no-pager diff --stat tests/references

bench: setup ## measure speed against named peers; ONLY="dino data" some parts, OUT=FILE.md keeps it
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(OUT),--out $(OUT))

notebooks: setup ## execute the notebooks and keep their outputs
	$(BIN)/python tests/notebook_outputs.py

docs: setup ## build the documentation as a site, and check its links; opens from build/docs/site/index.html
	$(BIN)/python docs/site/pages.py build/docs
	$(BIN)/zensical build --strict -f build/docs/mkdocs.yml

format: setup ## format and repair the code
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

lint: setup ## check format, style and types
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

clean: ## remove what tools leave behind; data and runs stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info

.PHONY: help setup demo test test-all test-floors test-newest test-wheel chaos golden bench notebooks screenshot docs format lint clean
