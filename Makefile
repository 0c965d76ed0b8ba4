# Everything here is plain DVC in the environment: `source .venv/bin/activate`. The targets install what
# they need when first called.

VENV := .venv
# DVC's stages call `python`.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# DVC needs the name and the home of the user, who may have no entry in /etc/passwd, as in a container.
export USER ?= $(shell id -un 2> /dev/null)
export HOME ?= $(shell eval cd ~$$(id -un 2> /dev/null) 2> /dev/null || cd /; pwd)
# The caller's settings of Python; and GIT_DIR and others, which Git sets for its hooks.
unexport $(filter PYTHON%,$(.VARIABLES)) \
	$(filter-out GIT_CONFIG%,$(shell git rev-parse --local-env-vars 2> /dev/null))

# Vulnerabilities without a release that repairs them (docs/supply-chain.md); this one is CVE-2025-69872.
KNOWN := GHSA-w8v5-vhqr-4h9v
OSV := https://api.osv.dev

.DEFAULT_GOAL := help
.PHONY: help run check install data worker test lint format audit lock bench reproduce torture digests \
	arm64 mobile container doctor compare experiments seeds push restore plots demo FORCE

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/run.installed ## Reproduce the pipeline (on the embedded digits if its data cannot be downloaded)
	@sh tools/run.sh

check: $(VENV)/run.installed ## Check params.yaml and the names of the data set's files (does not build the networks)
	@python -m tools.check

install: $(VENV)/run.installed ## Create or update .venv; PYTHON=<path> selects the interpreter

data: $(VENV)/run.installed ## Download and verify MNIST, for example before going offline
	@python -m stages.datasets.idx

worker: $(VENV)/run.installed ## Join another host's `dvc repro`: PET_NNODES=2 PET_RDZV_ENDPOINT=<host>:29400 make worker
	@python -m stages.train --worker

test: lint ## Lint, then test; SLOW=1 adds tests that start servers or run the pipeline several times
	python -m pytest -n 3 --dist worksteal -m 'not network$(if $(SLOW),, and not slow)'

lint: $(VENV)/test.installed ## Run ruff and mypy
	ruff check .
	ruff format --check .
	mypy

format: $(VENV)/test.installed ## Format the code and fix what ruff can
	ruff check --fix .
	ruff format .

audit: $(VENV)/test.installed ## Check the pinned packages for known vulnerabilities (docs/supply-chain.md)
	@python -c 'import requests; requests.get("$(OSV)/v1/vulns/$(firstword $(KNOWN))", timeout=15).raise_for_status()' \
		2> /dev/null || { echo 'note: $(OSV) does not answer; nothing was audited'; exit 0; }; \
	pip-audit --vulnerability-service osv --osv-url $(OSV)/v1/query --disable-pip --no-deps --strict \
		--progress-spinner off $(KNOWN:%=--ignore-vuln %) \
		-r stages/requirements.txt -r requirements.txt -r requirements-dev.txt -r mobile/requirements.txt

lock: $(VENV)/test.installed ## Update the lock files after changing a pin (docs/supply-chain.md)
	@sh tools/lock.sh

bench: $(VENV)/run.installed ## Benchmark the pipeline and the tutorial; ARGS=--quick, or ARGS='--thorough 3'
	@python -m benchmarks.bench $(ARGS)

# On Arm64, it also runs what the tests run.
reproduce: $(VENV)/$(if $(filter aarch64,$(shell uname -m)),test,run).installed ## Run the last commit in a temporary clone and compare all files, byte for byte
	@python -m tools.reproduce

torture: $(VENV)/test.installed ## Kill stages at random moments and check the files they leave; KILLS=20
	@python -m tests.pipeline.torture $(or $(KILLS),200)

arm64: $(VENV)/test.installed $(VENV)/arm64/python ## Compare bytes on emulated Arm64 processors; PROCESSORS='cortex-a53 neoverse-n2'
	python -m pytest -n 2 -m network tests/pipeline/test_arm64.py

$(VENV)/arm64/python: tests/pipeline/arm64.sh stages/requirements.txt requirements.txt requirements-dev.txt | $(VENV)/test.installed
	sh $< $(@D)

container: $(VENV)/test.installed ## Build the image of the Dockerfile and run it (docs/container.md)
	python -m pytest -m network tests/pipeline/test_container.py

mobile: run ## Export for phones by ExecuTorch, in an environment of its own (docs/mobile.md)
	@cd mobile && sh ../tools/install.sh requirements.txt $(PYTHON)
	@cd mobile && dvc repro

digests: $(VENV)/test.installed ## Record the checksums that the tests compare, and list the changes
	@python -m tests.pipeline.digests --write

doctor: $(VENV)/run.installed ## Find damage from a crash or a bad disk; FIX=1 repairs it
	@sh tools/site_cache.sh
	@python -m tools.doctor $(if $(FIX),--fix)

experiments: $(VENV)/run.installed ## List the experiments by accuracy, with the parameters that differ
	@python -m tools.experiments $(ARGS)

seeds: $(VENV)/run.installed ## Train under several seeds as GROUP-1, …; GROUP=seed N=5 ARGS='-S KEY=VALUE'
	@dvc exp run --queue --name $(or $(GROUP),seed) -S 'train.seed=range($(or $(N),5))' $(ARGS)
	@dvc exp run --run-all
	@python -m tools.seeds $(or $(GROUP),seed)

compare: $(VENV)/run.installed ## Test whether the difference in accuracy is significant; REV=main, or SEEDS='NAME OTHER'
	@python -m tools.$(if $(SEEDS),seeds $(SEEDS),compare $(or $(REV),HEAD) $(ARGS))

push: $(VENV)/run.installed ## Send all results to the team's store, also those not committed; REMOTE=<name>
	@python -m tools.push $(REMOTE)

# After a `dvc exp run` that failed, Git's index says of changed files that they are unchanged. So their
# entries are removed and added again.
restore: $(VENV)/run.installed ## Go back to the last commit's params.yaml, dvc.lock, metrics, data and models
	@git rm --quiet --cached --force -r --ignore-unmatch params.yaml dvc.lock metrics
	@git reset --quiet -- params.yaml dvc.lock metrics
	@git restore params.yaml dvc.lock metrics
	@dvc checkout

plots: $(VENV)/run.installed ## Draw all charts on one page and open it; REV=main, ARGS=--watch while a stage runs
	@python -m tools.plots $(REV) --open $(ARGS)

demo: $(VENV)/run.installed ## Draw in the browser and see the model's predictions; ARGS='--port 9000'
	@python -m predict.demo $(ARGS) || [ $$? -eq 130 ]

# .venv is made again if the folder was moved, or for another PYTHON=<path>.
ifneq ($(shell sh tools/venv.sh check $(PYTHON)),usable)
$(VENV)/run.installed: FORCE
endif

$(VENV)/run.installed: requirements.txt stages/requirements.txt tools/site_cache.sh
	@sh tools/install.sh requirements.txt $(PYTHON)
	@touch $@

$(VENV)/test.installed: $(VENV)/run.installed requirements-dev.txt
	@sh tools/install.sh requirements-dev.txt $(PYTHON)
	@touch $@
