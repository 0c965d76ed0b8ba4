# `make run` and `make test` install what they need when first called. Everything else is plain DVC
# inside the environment: `source .venv/bin/activate`.

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: run install data test compare format

# Reproduce the pipeline: on MNIST or, where MNIST cannot be had, on the embedded digits.
run: $(VENV)/run.installed
	@if dvc repro prepare; then dvc repro; \
	elif $(MAKE) --no-print-directory data 2> /dev/null; then exit 1; \
	else echo; \
	  echo '!!! MNIST could not be had (see above): the pipeline now runs on the embedded digits.'; \
	  echo; \
	  dvc exp run -S prepare.dataset=digits; \
	fi
	@dvc metrics show metrics/evaluate.json
	@! grep -q 'dataset: digits' params.yaml || { echo; \
	  echo '!!! These numbers are for the embedded digits, not for MNIST. Back to MNIST:'; \
	  echo '    git restore params.yaml dvc.lock metrics'; \
	  echo '    MNIST_MIRROR=<folder or https URL with the four .gz files> make run'; }

install: $(VENV)/run.installed

# Only fetch and verify the official files, e.g. before going offline.
data: $(VENV)/run.installed
	@PYTHONPATH=stages python -m common.mnist

# SLOW=1 adds the tests that start servers or run the pipeline several times.
test: $(VENV)/test.installed
	ruff check .
	ruff format --check .
	pytest -n 2 --dist loadgroup $(if $(SLOW),,-m 'not slow')

# Compare the workspace's predictions with those of a commit: make compare REV=main
compare: $(VENV)/run.installed
	@python tools/compare.py $(REV) $(ARGS)

format: $(VENV)/test.installed
	ruff check --fix .
	ruff format .

$(VENV)/run.installed: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  f"error: {sys.executable} is Python {v.major}.{v.minor}; Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=<path>")'
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/test.installed: $(VENV)/run.installed requirements-dev.txt
	pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
