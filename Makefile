# jitgrad's commands. Needs git, Python >= 3.11 and make; everything else goes into .venv, a part at a time.
# `make help` lists the targets. PYTHON=python3.12 picks another interpreter, JOBS=4 runs the tests on four processes.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
OUT ?= out

PY := $(VENV)/bin/python
# A stamp says which extras are installed, and for which checkout: an editable install points into one folder.
STAMPS := $(VENV)/stamps-$(shell pwd | cksum | cut -d' ' -f1)
# It means nothing without a working interpreter, as after an upgrade of the system's Python.
ifneq ($(shell $(PY) -c 'print(1)' 2>/dev/null),1)
  $(shell rm -rf $(VENV)/stamps-*)
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-fast bench notebooks docs lint package clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(STAMPS)/demo ## train a small classifier and plot it; results under out/
	@echo "--- demo: results go to $(OUT)/"
	@mkdir -p $(OUT)
	MPLBACKEND=Agg $(VENV)/bin/jitgrad demo --out $(OUT)

test: $(STAMPS)/test ## the whole test suite, slow tests included
	@echo "--- test: the whole suite on $(JOBS) processes"
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-fast: $(STAMPS)/test ## the test suite without the tests marked slow
	@echo "--- test-fast: everything not marked slow, on $(JOBS) processes"
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow" $(PYTEST_ARGS)

bench: $(STAMPS)/bench ## the benchmarks (BENCH_ARGS are passed on)
	@echo "--- bench: close other programs, timings share this machine"
	$(PY) -m benchmarks $(BENCH_ARGS)

notebooks: $(STAMPS)/test ## run the notebooks of the documentation and keep what they show
	@echo "--- notebooks: docs/notebooks/, with this machine's timings"
	$(PY) docs/gen_notebooks.py

docs: $(STAMPS)/docs ## the documentation, built strictly into site/
	@echo "--- docs: building site/"
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

lint: $(STAMPS)/lint ## ruff and mypy
	@echo "--- lint: ruff and mypy"
	@failed=0; $(PY) -m ruff check . || failed=1; $(PY) -m mypy || failed=1; exit $$failed

package: $(STAMPS)/lint ## build sdist and wheel, then use the wheel in an empty environment
	@echo "--- package: building the sdist, and the wheel from it, into dist/"
	@rm -rf dist build
	$(PY) -m build
	@echo "--- package: installing the wheel in an empty environment outside the checkout"
	$(PY) .ci/package_check.py dist

clean: ## remove everything generated, except .venv
	rm -rf build dist site $(OUT) ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find jitgrad kernels tests benchmarks examples docs .ci -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove .venv as well
	rm -rf $(VENV)

# --- the environment ---------------------------------------------------------------------------------------------------

# Each part is installed once, and again when pyproject.toml changes.
$(STAMPS)/%: pyproject.toml | $(STAMPS)
	@echo "--- setup: installing jitgrad[$*] into $(VENV) (the first time can take a few minutes)"
	@$(PY) -m pip install --disable-pip-version-check -e ".[$*]"
	@touch $@

# An environment that works is kept, with whatever else is in it.
$(STAMPS):
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	    echo "make: no '$(PYTHON)' on PATH; install Python >= 3.11, or say PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "make: '$(PYTHON)' is $$($(PYTHON) --version 2>&1); jitgrad needs Python >= 3.11 (PYTHON=python3.11 picks one)" >&2; \
	    exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "make: '$(PYTHON)' cannot make environments; install its venv module (Debian: python3-venv)" >&2; exit 1; }
	@if ! $(PY) -m pip --version >/dev/null 2>&1; then \
	    echo "--- setup: creating $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv --clear $(VENV); fi
	@mkdir -p $@
