# make reproduce   execute the notebooks, write a report            make test      lint, types, unit tests, notebooks
# make lab         open the notebooks in JupyterLab                 make test-all  with the slow tests and the browser, too
# make notebooks   execute the notebooks in place, to commit them   make bench     time the networks on this machine
# make nbval       run them and compare texts and figures           make docs      the API as web pages, in docs/
# make audit       compile the kernels with every Triton that users have, and read their machine code; needs no GPU
# make lock        add to requirements.lock what pyproject.toml names (ARGS=--upgrade: newer versions of everything)
# make bench-gpu   test and time the kernels on one GPU in 9 minutes (MINUTES=...); results go to data/results/ops (OUT=...)
#                  PY=python3 installs nothing: a Python with torch, triton and pytest will do; DEVICE=cpu rehearses it
# make clean       remove .venv, runs and docs
#
# Everything is installed into .venv, nowhere else; where .venv is a link to another environment, nothing is installed.
# Options: PYTHON=python3.12, PAPERS="bsrn", PROFILE=quick, ARGS=...

PYTHON  ?= python3
PAPERS  ?=
PROFILE ?= quick
ARGS    ?=
BIN     := .venv/bin
EXTRAS  := notebooks native sweep train triton test
NOTEBOOKS = $(wildcard notebooks/*.ipynb)
MODULES = $(subst /,.,$(patsubst %/__init__,%,$(basename $(shell find nsrlib -path '*/template/*' -o -name '*.py' -print))))

# Processes share the cores; OpenMP threads that spin for work would starve each other.
export OMP_WAIT_POLICY ?= PASSIVE
# Where it is set, as in many container images, every process would compile PyTorch's Python files again: 3 to 5 s each.
unexport PYTHONDONTWRITEBYTECODE
# uv reads its own variable; and it picks the PyTorch build that fits this machine's GPU driver, or the small CPU build.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
TORCH_BACKEND ?= $(if $(UV_FIND_LINKS),,auto)
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest

READY := .venv/installed
UV    := $(BIN)/uv
ifneq ($(shell test -L .venv && echo link),)
READY := linked
UV    := linked
export PYTHONPATH := $(CURDIR)$(PYTHONPATH:%=:%)
endif

.PHONY: reproduce test test-all test-browser lint types unit slow timing nbval lab docs bench bench-gpu audit notebooks lock linked clean

reproduce: $(READY)
	$(BIN)/nsr reproduce $(PAPERS) --profile $(PROFILE) $(ARGS)

# Every step runs, also after one that failed; the last lines say which did.
test: STEPS = lint types unit timing nbval
test-all: STEPS = lint types unit slow timing nbval test-browser
test test-all: $(READY)
	@report=; status=0; for step in $(STEPS); do \
	    start=$$(date +%s); result=passed; $(MAKE) --no-print-directory $$step || { result=FAILED; status=1; }; \
	    report="$$report$$(printf '%-12s  %s  %5d s' $$step $$result $$(($$(date +%s) - start)))\n"; \
	done; printf "\n$$report"; exit $$status

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(PYTEST) -n 2 --dist loadfile -m "not slow and not timing and not browser" $(ARGS)

slow: $(READY)
	$(PYTEST) -n 2 --dist loadfile -m "slow and not timing and not browser" $(ARGS)

timing: $(READY)
	$(PYTEST) -m timing

# Cells marked NBVAL_CHECK_OUTPUT must print what the committed notebook shows and every figure must look the same
# (notebooks/conftest.py); all other cells must run. What changed on purpose is stored by make notebooks.
nbval: $(READY)
	$(PYTEST) -p no:cacheprovider --nbval-lax --nbval-current-env --nbval-sanitize-with notebooks/nbval.cfg \
	    --nbval-cell-timeout 600 -n 2 --dist loadfile notebooks

# Skipped, with the reason, where Chromium is neither here nor to be had.
test-browser: $(READY)
	@sh tests/browser/install.sh
	$(PYTEST) -p no:cacheprovider -n 2 --dist load tests/browser $(ARGS)

# pdoc cannot evaluate the types of a NamedTuple's constructor; it meets the modules of a package with the package, too.
docs: $(READY)
	PYTHONWARNINGS="ignore:Error parsing type annotation,ignore:The module specification" $(BIN)/python -m pdoc \
	    --docformat google --output-directory docs $(MODULES)

lab: $(READY)
	$(BIN)/jupyter lab notebooks

# ARGS="3.6.0 --only adder2d --no-tests" takes a part of it.
audit: $(READY)
	$(BIN)/python -m nsrlib.bench.tritons $(ARGS)

bench: $(READY)
	$(BIN)/nsr bench models

# Nobody's results are those of a rehearsal.
PY      ?= $(BIN)/python
DEVICE  ?= cuda
MINUTES ?= 9
OUT     ?= $(if $(filter cpu,$(DEVICE)),runs/bench-cpu,data/results/ops)
bench-gpu: $(if $(filter $(BIN)/python,$(PY)),$(READY))
	PYTHONPATH=$(CURDIR)$(PYTHONPATH:%=:%) $(PY) -m nsrlib.cli bench all --device $(DEVICE) --budget $(MINUTES) \
	    --out $(OUT)

notebooks: $(READY)
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
	    --ExecutePreprocessor.store_widget_state=False $(NOTEBOOKS)

clean:
	rm -rf .venv runs docs .pytest_cache .mypy_cache .ruff_cache .hypothesis

# CUDA's libraries belong to PyTorch's build.
lock: $(UV)
	$(BIN)/uv pip compile -q pyproject.toml $(EXTRAS:%=--extra %) -c constraints.txt --universal --python-version 3.11 \
	    --generate-hashes --annotation-style line --custom-compile-command "make lock" --no-emit-package torch \
	    -o requirements.lock $(ARGS)
	sed -E '/^(cuda|nvidia)-/,/# via/d' requirements.lock > requirements.part && mv requirements.part requirements.lock

# The lock first, by hash; then PyTorch, whose build differs by machine and of which only CUDA's libraries are missing.
.venv/installed: pyproject.toml constraints.txt requirements.lock | $(BIN)/uv
	@echo "installing nsrlib and what it needs into .venv (once, a few minutes at most)"
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --require-hashes -r requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt torch \
	    $(if $(TORCH_BACKEND),--torch-backend=$(TORCH_BACKEND))
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	    f"nsrlib needs Python 3.11 to 3.13, $(PYTHON) is {v[0]}.{v[1]}; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv --clear || { rm -rf .venv; exit 1; }
	@sed -n '/^uv==/,/# via/p' requirements.lock > .venv/uv.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r .venv/uv.txt

# Somebody else's environment is used as it is, with the nsrlib of this folder.
linked:
	@for tool in nsr ruff mypy pytest pdoc jupyter uv; do test -x $(BIN)/$$tool || { echo \
	    ".venv is a link, and nothing is installed through a link: $$(readlink .venv) has no $$tool. Without the link," \
	    "make builds an environment here." >&2; exit 1; }; done
