# make reproduce   execute the notebooks, write a report            make test    lint, types, unit tests, notebooks
# make lab         open the notebooks in JupyterLab                 make bench   time the networks on this machine
# make notebooks   execute the notebooks in place, to commit them   make clean   remove .venv, runs and docs
# make nbval       run them and compare texts and figures            make docs    the API as web pages, in docs/
# make test-browser   JupyterLab and a report in Chromium, moved as a reader would; screenshots go to runs/browser
# make bench-gpu   test and time the kernels on one GPU, at most 25 minutes; results go to data/results/ops
#
# Everything is installed into .venv, nowhere else. Options: PYTHON=python3.12, PAPERS="bsrn", PROFILE=quick, ARGS=...

PYTHON  ?= python3
PAPERS  ?=
PROFILE ?= quick
ARGS    ?=
BIN     := .venv/bin
EXTRAS  := notebooks,sweep,train,triton,test
NOTEBOOKS = $(wildcard notebooks/*.ipynb)

# Processes share the cores; OpenMP threads that spin for work would starve each other.
export OMP_WAIT_POLICY ?= PASSIVE
# Where it is set, as in many container images, every process would compile PyTorch's Python files again: 3 to 5 s each.
unexport PYTHONDONTWRITEBYTECODE
# uv reads its own variable; and it picks the PyTorch build that fits this machine's GPU driver, or the small CPU build.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
TORCH_BACKEND ?= $(if $(UV_FIND_LINKS),,auto)

.PHONY: reproduce test test-browser lint types unit nbval lab docs bench bench-gpu notebooks clean

reproduce: .venv/installed
	$(BIN)/nsr reproduce $(PAPERS) --profile $(PROFILE) $(ARGS)

test: lint types unit nbval

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

unit: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not timing and not browser" $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m timing

# Cells marked NBVAL_CHECK_OUTPUT must print what the committed notebook shows and every figure must look the same
# (notebooks/conftest.py); all other cells must run. What changed on purpose is stored by make notebooks.
nbval: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:cacheprovider --nbval-lax --nbval-current-env \
	    --nbval-sanitize-with notebooks/nbval.cfg --nbval-cell-timeout 600 -n 2 --dist loadfile notebooks

# Skipped, with the reason, where Chromium is neither here nor to be had.
test-browser: .venv/installed
	@sh tests/browser/install.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:cacheprovider -n 2 --dist load tests/browser $(ARGS)

# pdoc cannot evaluate the types of a NamedTuple's constructor, nor names that a package loads when they are used.
docs: .venv/installed
	PYTHONWARNINGS="ignore:Error parsing type annotation,ignore:Found 'adder2d_int8',ignore:Found 'create_model',ignore:Found 'list_models',ignore:Found 'load_weights'" \
	    $(BIN)/python -m pdoc --docformat google --output-directory docs nsrlib nsrlib.models nsrlib.ops nsrlib.papers \
	    $(subst /,.,$(basename $(wildcard nsrlib/[a-z]*.py)))

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

bench: .venv/installed
	$(BIN)/nsr bench models

# Each step has its share of the time, and none keeps the next from running.
bench-gpu: .venv/installed
	@failed=0; mkdir -p data/results/ops; \
	timeout 420 env -u TRITON_INTERPRET $(BIN)/python -m pytest -q -n 4 tests/ops tests/test_bench.py || failed=1; \
	env -u TRITON_INTERPRET $(BIN)/nsr bench kernels --device cuda --budget 15 $(ARGS) || failed=1; \
	timeout 120 $(BIN)/nsr bench models --device cuda --out data/results/ops/models.json || failed=1; \
	exit $$failed

notebooks: .venv/installed
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
	    --ExecutePreprocessor.store_widget_state=False $(NOTEBOOKS)

clean:
	rm -rf .venv runs docs .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	    f"nsrlib needs Python 3.11 to 3.13, $(PYTHON) is {v[0]}.{v[1]}; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv --clear || { rm -rf .venv; exit 1; }
	@test -x $(BIN)/uv || { echo "installing uv into .venv"; $(BIN)/python -m pip install -q --disable-pip-version-check uv==0.13.9; }
	@echo "installing nsrlib and what it needs into .venv (once, a few minutes at most)"
	@$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]' \
	    $(if $(TORCH_BACKEND),--torch-backend=$(TORCH_BACKEND))
	@touch $@
