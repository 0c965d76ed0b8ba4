# `make run` and `make test` install what they need when first called. Everything else is plain DVC
# inside the environment: `source .venv/bin/activate`.

VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH) # DVC's stages call `python`

.PHONY: run install data worker test lint format audit lock bench reproduce digests doctor torture compare plots demo FORCE

# Reproduce the pipeline: on MNIST or, where MNIST cannot be had, on the embedded digits.
run: $(VENV)/run.installed
	@sh tools/run.sh

install: $(VENV)/run.installed

# Help a `dvc repro` on another host to train: PET_NNODES=2 PET_RDZV_ENDPOINT=<host>:29400 make worker
worker: $(VENV)/run.installed
	@python -m stages.train --worker

# Only fetch and verify the official files, e.g. before going offline.
data: $(VENV)/run.installed
	@python -m stages.datasets.idx

# SLOW=1 adds the tests that start servers or run the pipeline several times.
test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal $(if $(SLOW),,-m 'not slow')

lint: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/test.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Ask whether a pinned package has a known vulnerability (docs/supply-chain.md).
audit: $(VENV)/test.installed
	@$(BIN)/python -m tools.audit

# Write the lock files anew after a change of a pin (docs/supply-chain.md).
lock: $(VENV)/test.installed
	@sh tools/lock.sh

# Measure this pipeline beside the tutorial; ARGS=--quick, or ARGS='--thorough 3' for all of it.
bench: $(VENV)/run.installed
	@$(BIN)/python -m benchmarks.bench $(ARGS)

# Run the last commit anew in a temporary clone; say whether all bytes are the committed ones.
reproduce: $(VENV)/run.installed
	@$(BIN)/python -m tools.reproduce

# Kill stages at random moments, and look at what is left: about half an hour; make torture KILLS=20
torture: $(VENV)/test.installed
	@$(BIN)/python -m tests.pipeline.torture $(or $(KILLS),200)

# Make the checksums of the short runs anew, which tests compare; say which have changed.
digests: $(VENV)/test.installed
	@$(BIN)/python -m tests.pipeline.digests --write

# Find what a crash or a bad disk has left, and print the commands that mend it; FIX=1 runs them.
doctor: $(VENV)/run.installed
	@$(BIN)/python -m tools.doctor $(if $(FIX),--fix)

# Compare the workspace's predictions with those of a commit: make compare REV=main
compare: $(VENV)/run.installed
	@$(BIN)/python tools/compare.py $(or $(REV),HEAD) $(ARGS)

# Draw all charts on one page and open it, with those of a commit beside them: make plots REV=main
plots: $(VENV)/run.installed
	@$(BIN)/python tools/plots.py $(REV) --open $(ARGS)

# A page to draw on, for the model that `make run` has made: make demo ARGS='--port 9000'
demo: $(VENV)/run.installed
	@$(BIN)/python -m predict.demo $(ARGS)

# Made anew where the folder was moved, or for another PYTHON=<path> than it was made with.
ifneq ($(shell sh tools/venv.sh check $(PYTHON)),usable)
$(VENV)/run.installed: FORCE
endif

$(VENV)/run.installed: requirements.txt stages/requirements.txt tools/site_cache.sh
	@sh tools/install.sh requirements.txt $(PYTHON)
	@touch $@

$(VENV)/test.installed: $(VENV)/run.installed requirements-dev.txt
	@sh tools/install.sh requirements-dev.txt $(PYTHON)
	@touch $@
