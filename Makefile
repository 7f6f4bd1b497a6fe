# make help lists the targets.
#   ARGS      options for train.py or pytest; they come last, so they win over the defaults below
#   PYTHON    the interpreter for a new environment (default: the first of python3.11, python3.12, python3 that fits)
#   MUJOCO_GL MuJoCo's rendering backend (default: egl)

VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=
MUJOCO_GL ?= egl
export MUJOCO_GL PYTHON

INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs
PACKAGE_LISTS := setup.cfg setup.py constraints.txt scripts/create_venv.sh $(wildcard diffreplay/*/*.c diffreplay/codecs/delta/*.[ch])

.DEFAULT_GOAL := help
.PHONY: help setup rendering train test lint format docs clean clean-env

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## create .venv and install the pinned packages (only when their lists have changed)

$(INSTALLED): $(PACKAGE_LISTS)
	scripts/create_venv.sh $(VENV) drqv2,atari,ray,datasets,torchrl,benchmarks,dev
	@touch $@

rendering: setup ## check that MuJoCo can render without a screen
	@$(PY) scripts/check_rendering.py

train: rendering ## train DrQ-v2 from compressed RAM; pass options as ARGS="task=quadruped_walk seed=2"
	$(PY) train.py task=walker_walk full_compress=true $(ARGS)

test: rendering ## run the tests; pass pytest options as ARGS="-k lossless"
	$(PY) -m pytest -n auto --dist worksteal $(ARGS)

lint: setup ## check style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: setup ## sort imports and format the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

$(INSTALLED_DOCS): $(INSTALLED)
	scripts/create_venv.sh $(VENV) drqv2,atari,ray,datasets,torchrl,benchmarks,dev,docs
	@touch $@

docs: $(INSTALLED_DOCS) ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

clean: ## remove caches and built files; runs in exp_local/ stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-env: clean ## also remove .venv
	rm -rf $(VENV)
