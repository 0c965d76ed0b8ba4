# `make run` and `make test` install what they need when first called. Everything else is plain DVC
# inside the environment: `source .venv/bin/activate`.

PYTHON ?= python3
REV ?= HEAD
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH) # DVC's stages call `python`
FETCH := PYTHONPATH=stages $(BIN)/python -m common.mnist

.PHONY: run install data test bench compare demo format

# Reproduce the pipeline: on MNIST or, where MNIST cannot be had, on the embedded digits.
run: $(VENV)/run.installed
	@if $(BIN)/dvc repro prepare; then exec $(BIN)/dvc repro; fi; \
	$(FETCH) 2> /dev/null; \
	if [ $$? -ne 2 ]; then exit 1; fi; \
	echo; \
	echo '!!! MNIST could not be had (see above): the pipeline now runs on the embedded digits.'; \
	echo; \
	$(BIN)/dvc exp run -S prepare.dataset=digits
	@$(BIN)/dvc metrics show metrics/evaluate.json
	@! grep -q 'dataset: digits' params.yaml || { echo; \
	  echo '!!! These numbers are for the embedded digits, not for MNIST. Back to MNIST:'; \
	  echo '    source $(BIN)/activate'; \
	  echo '    MNIST_MIRROR=<folder or https URL with the four .gz files> dvc exp run -S prepare.dataset=mnist'; }

install: $(VENV)/run.installed

# Only fetch and verify the official files, e.g. before going offline.
data: $(VENV)/run.installed
	@$(FETCH)

# SLOW=1 adds the tests that start servers or run the pipeline several times.
test: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest -n 2 --dist worksteal $(if $(SLOW),,-m 'not slow')

# Measure this pipeline beside the tutorial; ARGS=--quick, or ARGS='--thorough 3' for all of it.
bench: $(VENV)/run.installed data
	@$(BIN)/python benchmarks/bench.py $(ARGS)

# Compare the workspace's predictions with those of a commit: make compare REV=main
compare: $(VENV)/run.installed
	@$(BIN)/python tools/compare.py $(REV) $(ARGS)

# A page to draw digits on, for the model that `make run` has made: make demo ARGS='--port 9000'
demo: $(VENV)/run.installed
	@$(BIN)/python -m predict.demo $(ARGS)

format: $(VENV)/test.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/run.installed: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  f"error: {sys.executable} is Python {v.major}.{v.minor}; Python 3.11 or newer is needed: make PYTHON=<path>")'
	@echo 'Installing the pinned packages into $(VENV): some minutes.'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/test.installed: $(VENV)/run.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
