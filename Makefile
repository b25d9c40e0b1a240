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
.PHONY: help docs pictures explain test test-marked bad-inputs quick quick-oldest lint format pages bench operations clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

explain: $(VENV)/.package ## why did MODEL continue PROMPT as it did? writes REPORT
	$(BIN)/caseback explain "$$PROMPT" --model $(MODEL) --html $(REPORT)

# The oldest transformers that pyproject.toml allows, in a second venv over the first: only what differs is installed.
OLDEST := $(VENV)-oldest
OLDEST_TRANSFORMERS := transformers==5.0.0

PYTEST  = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q
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

QUICK   = $(PYTEST) --families few --within 40 -m "not ($(REST))" tests/model/test_identities.py $$($(CHANGED) || echo $(A_FEW))

quick: $(VENV)/.dev ## within a minute: a few families' identities, doctests of the files that you changed
	$(QUICK)

quick-oldest: BIN := $(OLDEST)/bin
quick-oldest: $(OLDEST)/.dev ## the same with the oldest transformers that is supported
	$(QUICK)

lint: $(VENV)/.dev ## style, format, types, those of the docs' examples too, and which folder may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python docs/typed_examples.py build/examples
	$(BIN)/pyright -p docs/typed_examples.json --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/.dev ## rewrite the files as `make lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pages: frontend/node_modules ## the pages' scripts and styles, from frontend/ (needs npm)
	cd frontend && npm run build

docs: $(VENV)/.dev ## the documentation site, into build/site; NOTEBOOKS=run shows what their cells show, in minutes
	NO_MKDOCS_2_WARNING=1 NOTEBOOKS=$(NOTEBOOKS) $(BIN)/mkdocs build --quiet

pictures: $(VENV)/.dev ## the pictures of pages in docs/pictures, by headless Chromium
	$(BIN)/python docs/pictures.py

bench: $(VENV)/.peers ## caseback against its peers, in one run
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

operations: $(VENV)/.dev ## tensor operations and read-backs of each job, held to their bounds
	$(BIN)/python benchmarks/operations.py --check

clean: ## remove the venv and what the tools left behind
	rm -rf $(VENV) $(OLDEST) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache

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

# Behind its own packages the second venv has all of the first one's.
$(OLDEST)/.dev: $(VENV)/.dev
	$(PYTHON) -m venv --without-pip --clear $(OLDEST)
	$(OLDEST)/bin/python -c "import site, sysconfig; \
		first = sysconfig.get_path('purelib', vars={'base': '$(abspath $(VENV))'}); \
		open(site.getsitepackages()[0] + '/first.pth', 'w').write(f'import site; site.addsitedir({first!r})\n')"
	$(VENV)/bin/python -m pip --python $(OLDEST)/bin/python install --quiet '$(OLDEST_TRANSFORMERS)'
	@touch $@

$(VENV)/.peers: $(VENV)/.package
	$(BIN)/python -m pip install --quiet -e '.[peers]'
	@touch $@
