# The whole of the daily work. Paths are relative, so the checkout may live anywhere, also under a name with a space.
#
#   make quick  set up once, then a guided first run of three minutes that ends with a page of figures
#   make run    set up once, run every notebook, write build/site/ and build/figures/
#   make publish      write read/, the chapters with their results as Markdown; runs only those whose code has changed
#   make check  set up once, lint, types of the public surface, unit tests that need no real model: the inner loop
#   make test   set up once, all of that, tests on the real model, browser tests, every notebook at smoke scale
#   make lab    set up once, open JupyterLab
#   make federation        set up Flower once, run hospitals as real processes on this machine
#   make test-federation   set up Flower once, run the tests that need it, with real processes and a tiny model
#   make grade  set up nbgrader once, grade hand-ins of the exercises: make grade GRADE_ARGS="hand-ins/*"
#
# Variables: PYTHON=python3.12         the Python that the environment is made from (3.11 or later)
#            TORCH_INDEX=URL           install torch from this index first: .../whl/cpu spares gigabytes of CUDA libraries
#            FLEKE_SCALE=smoke         smoke, lesson (the default of make run) or full
#            FLEKE_MODEL=name-or-folder   run chapters 00 to 06b on another model (make run, make lab)
#            NOTEBOOKS="a.ipynb ..."   run only these (make run)
#            FEDERATION_ARGS="--hospitals 2"   what make federation is given; --help lists it
#            AGAIN=1                   run every chapter anew (make publish), as after a change of the library
#            GRADE_ARGS="--release handout 02"   what make grade is given; --help lists it
#            WORKERS=2                 processes that run tests and notebooks side by side; each may load the model, 1.5 GB

PYTHON ?= python3
TORCH_INDEX ?=
NOTEBOOKS ?=
PYTEST_ARGS ?=
WORKERS ?= 2

# An environment is ready when a finished installation left a stamp with the hash of all that it depends on:
# the pins, the bounds, and the place, since the editable installation points to it.
PINS := requirements.lock requirements-model.lock requirements-data.lock pyproject.toml
READY := .venv/.ready-$(shell (pwd -P; cat $(PINS)) | cksum | cut -d ' ' -f 1)
VENV_PYTHON := .venv/bin/python

.PHONY: quick run publish check test test-federation lab federation grade lint types format setup lock clean
.DEFAULT_GOAL := run

quick: setup
	@FLEKE_MODEL= $(VENV_PYTHON) -m tools.quick

run: setup
	@$(VENV_PYTHON) -m tools.prepare
	@$(VENV_PYTHON) -m tools.run_notebooks $(NOTEBOOKS)

publish: setup
	@$(VENV_PYTHON) -m tools.prepare
	@$(VENV_PYTHON) -m tools.publish $(if $(AGAIN),--again)

# Processes share the cores; without this each would start as many threads as there are cores, and wait for the others.
check test: export OMP_NUM_THREADS := $(shell $(PYTHON) -c 'import os; print(max(1, (os.cpu_count() or 1) // $(WORKERS)))')
check test: export HF_HUB_OFFLINE := 1
check test: export FLEKE_MODEL :=

# Each stage runs even when the one before it failed, so that one call shows everything that is wrong.
check: setup
	@status=0; \
	$(MAKE) --no-print-directory lint types || status=1; \
	HYPOTHESIS_PROFILE=quick $(VENV_PYTHON) -m pytest -n $(WORKERS) -m "not model and not slow" $(PYTEST_ARGS) tests || status=1; \
	exit $$status

# Notebooks come first, since they are the longest; each worker takes the next one when it is done.
test: export FLEKE_SCALE := $(or $(FLEKE_SCALE),smoke)
test: export FLEKE_FIGURES := $(CURDIR)/build/test-figures
test: setup
	@mkdir -p build/test-figures
	@$(VENV_PYTHON) -m tools.prepare
	@status=0; \
	$(MAKE) --no-print-directory lint types || status=1; \
	$(VENV_PYTHON) -m pytest -n $(WORKERS) --maxschedchunk 1 --nbmake --nbmake-timeout=1800 $(PYTEST_ARGS) notebooks tests \
		|| status=1; \
	exit $$status

lab: setup
	@$(VENV_PYTHON) -m jupyterlab notebooks/00_start_here.ipynb

# The stamp of an environment beside .venv, which sees all that is in .venv: $(call beside,NAME), from requirements-NAME.lock.
beside = .venv-$(1)/.ready-$(shell (pwd -P; cat $(PINS) requirements-$(1).lock 2>/dev/null) | cksum | cut -d ' ' -f 1)

# Flower's bounds contradict the notebooks'. nbgrader is for teachers only.
FLOWER_READY := $(call beside,flower)
NBGRADER_READY := $(call beside,nbgrader)

$(FLOWER_READY) $(NBGRADER_READY): | setup
	@echo "set-up: installing $(patsubst .venv-%,%,$(@D)) in $(@D)" >&2
	@$(VENV_PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		-r requirements-$(patsubst .venv-%,%,$(@D)).lock
	@$(VENV_PYTHON) -c 'import site; print(*site.getsitepackages(), sep="\n")' \
		> "$$($(@D)/bin/python -c 'import site; print(site.getsitepackages()[0])')/base.pth"
	@touch $@

federation: setup $(FLOWER_READY)
	@.venv-flower/bin/python -m tools.federation $(FEDERATION_ARGS)

# One at a time: each test has a process for every hospital already.
test-federation: export OMP_NUM_THREADS := 1
test-federation: export HF_HUB_OFFLINE := 1
test-federation: setup $(FLOWER_READY)
	@.venv-flower/bin/python -m pytest -m flower $(PYTEST_ARGS) tests/federation

grade: setup $(NBGRADER_READY)
	@.venv-nbgrader/bin/python -m tools.grade $(GRADE_ARGS)

lint: setup
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m ruff format --check .
	@$(VENV_PYTHON) -m check_jsonschema --builtin-schema vendor.github-workflows $(wildcard .github/workflows/*.yml)
	@$(VENV_PYTHON) -m check_jsonschema --builtin-schema vendor.github-issue-forms \
		$(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	@$(VENV_PYTHON) -m check_jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	@$(VENV_PYTHON) -m check_jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@$(dir $(VENV_PYTHON))zizmor --offline --strict-collection --quiet .github

types: setup
	@$(VENV_PYTHON) -m ty check --no-progress --python .venv tests/public_surface.py

format: setup
	@$(VENV_PYTHON) -m ruff check --fix .
	@$(VENV_PYTHON) -m ruff format .

setup: $(READY)

$(READY):
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python %d.%d is too old: fleke needs 3.11 or later, so name one, as in make run PYTHON=python3.12" % sys.version_info[:2])'
	@"$(PYTHON)" tools/install.py --stamp $@ --torch-index "$(TORCH_INDEX)"

# For maintainers: resolve the bounds of pyproject.toml anew, in a clean environment.
lock: setup
	@$(VENV_PYTHON) -m tools.lock

clean:
	rm -rf build .pytest_cache .ruff_cache .hypothesis
	@echo "Left .venv in place; remove it by hand to install everything anew."
