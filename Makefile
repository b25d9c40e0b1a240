# One venv, made once: `make test` or `make explain` on a machine with nothing but Python >= 3.11 and pip.

PYTHON ?= python3
VENV   ?= .venv
# Installed first, so that you choose the build. For one without CUDA on Linux:
#   make test TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH  ?= torch==2.13.0
MODEL  ?= meadow
PROMPT ?= When Mary and John went to the store, John gave a drink to
REPORT ?= report.html
INPUTS ?= 500

BIN := $(VENV)/bin
export PROMPT

.DEFAULT_GOAL := help
.PHONY: help explain test test-marked bad-inputs quick lint format pages bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

explain: $(VENV)/.package ## why did MODEL continue PROMPT as it did? writes REPORT
	$(BIN)/caseback explain "$$PROMPT" --model $(MODEL) --html $(REPORT)

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q
REST   := slow or browser or ray
# What quick looks at: modules and pages that differ from HEAD, new ones too; a few where none does.
CHANGED = { git diff --name-only --diff-filter=d HEAD -- src docs; git ls-files --others --exclude-standard -- src docs; } \
	2>/dev/null | grep -E '^src/.*[.]py$$|^docs/[^/]*[.]md$$'
A_FEW  := src/caseback/errors.py src/caseback/lexicon.py src/caseback/model/anatomy src/caseback/model/results.py

test: $(VENV)/.dev ## the test suite, doctests included, without what `make test-marked` runs
	$(PYTEST) -n auto --dist worksteal -m "not ($(REST))"

# A selection without a test is pytest's exit status 5, and no failure.
test-marked: $(VENV)/.dev ## the tests that take long or need a browser or Ray
	$(PYTEST) -n auto --dist worksteal -m "$(REST)" || [ $$? -eq 5 ]

bad-inputs: $(VENV)/.dev ## INPUTS bad inputs at every door, and how many were tried at each
	PYTHONPATH=tests HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m bad_inputs --inputs $(INPUTS)

quick: $(VENV)/.dev ## within a minute: a few families' identities, doctests of the files that you changed
	$(PYTEST) --families few --within 40 -m "not ($(REST))" tests/model/test_identities.py $$($(CHANGED) || echo $(A_FEW))

lint: $(VENV)/.dev ## style, format, types, and which folder may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/.dev ## rewrite the files as `make lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pages: frontend/node_modules ## the pages' scripts and styles, from frontend/ (needs npm)
	cd frontend && npm run build

bench: $(VENV)/.peers ## caseback against its peers, in one run
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

clean: ## remove the venv and what the tools left behind
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache

frontend/node_modules: frontend/package-lock.json
	cd frontend && npm ci
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "caseback needs Python 3.11 or newer, and this is %d.%d. Name one: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv --without-pip $(VENV)

# Pip is brought by `pip --python`, since Debian's Python comes without the ensurepip that venv would use.
$(VENV)/.torch: $(VENV)/bin/python
	$(PYTHON) -m pip --python $(BIN)/python install --quiet pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	@touch $@

$(VENV)/.package: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.package
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

$(VENV)/.peers: $(VENV)/.package
	$(BIN)/python -m pip install --quiet -e '.[peers]'
	@touch $@
