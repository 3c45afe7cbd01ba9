# Everything happens in .venv and .cache of this folder; nothing else on the machine is touched, except that a missing
# python3, and RabbitMQ for `make servers` and `make test`, are asked of apt-get where there is one.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv || echo .cache/uv/bin/uv)
export UV_PYTHON_PREFERENCE ?= system
export UV_LINK_MODE ?= copy
# Hospitals and companies put their own certificate authority into the system store.
export UV_SYSTEM_CERTS ?= true
export UV_NATIVE_TLS ?= true

# Two halves of the tests run side by side: those that need real servers, and those that need none.
TESTS := CI=$${CI:-true} $(BIN)/coverage run --parallel-mode -m pytest -q -m "not faults"
SERVERLESS := tests/unit tests/simulation tests/faults

.PHONY: help setup servers airflow demo check test faults lint types unit benchmarks benchmarks-servers benchmarks-airflow contract requirements format clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.run ## Install what the command `wardround` needs

servers: $(VENV)/.python ## Find RabbitMQ, MinIO and Airflow, or set them up; says what it will do first
	UV=$(UV) deploy/servers.sh
	@$(MAKE) --no-print-directory airflow

airflow: $(if $(WARDROUND_AIRFLOW),,.cache/airflow/.installed) ## Install Airflow alone, into .cache/airflow
	@:

demo: $(VENV)/.torch $(if $(filter-out 0,$(STACK)),servers) ## Brain tumours at three clinics, against pooled data; STACK=1: on real servers
	STACK=$(STACK) deploy/demo.sh

check: $(VENV)/.dev lint types unit ## Style, types, layers and all tests that need no server and no torch (some four minutes)

test: $(VENV)/.dev $(VENV)/.torch servers lint types ## Set up everything, RabbitMQ, MinIO and Airflow included, and run all tests
	$(BIN)/coverage erase
	@$(TESTS) $(SERVERLESS) > .cache/tests-without-servers.log 2>&1 & others=$$!; trap "kill $$others 2> /dev/null || true" EXIT; \
	status=0; $(TESTS) tests $(SERVERLESS:%=--ignore=%) || status=$$?; \
	wait $$others || status=$$?; cat .cache/tests-without-servers.log; exit $$status
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --skip-covered --sort=cover | tail -n 25

faults: $(VENV)/.dev $(VENV)/.torch servers ## Kill, freeze, wipe, fill up and cut off real servers, and judge what is left; FAULTS_SEED=n: the same again
	CI=$${CI:-true} $(BIN)/pytest -q tests/server_faults

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PYTHONPATH=services:messages $(BIN)/lint-imports --no-cache

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev
	$(BIN)/pytest -q -m "not slow"

benchmarks: $(VENV)/.dev ## Measure what the documentation states
	$(BIN)/python benchmarks/round_overhead.py
	$(BIN)/python benchmarks/aggregate.py
	$(BIN)/python benchmarks/scale.py

benchmarks-servers: $(VENV)/.dev servers ## The same over real servers
	$(BIN)/python benchmarks/round_overhead.py --servers

benchmarks-airflow: $(VENV)/.dev servers ## The same with an Airflow at each clinic
	$(BIN)/python benchmarks/round_overhead.py --airflow

contract: $(VENV)/.dev ## Write the published schemas anew
	$(BIN)/python -m wardround_messages.asyncapi --write messages

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

requirements: $(VENV)/.dev ## Pin anew what is installed
	$(UV) pip compile pyproject.toml --extra stack --extra dev $(PIN) -o requirements/dev.txt
	$(UV) pip compile pyproject.toml --extra stack -c requirements/dev.txt $(PIN) -o requirements/run.txt
	for set in uv build torch go; do \
	  $(UV) pip compile requirements/$$set.in -c requirements/dev.txt $(PIN) -o requirements/$$set.txt; done
	$(UV) pip compile requirements/airflow.in $(PIN) -o requirements/airflow.txt

clean: ## Remove what this Makefile installed and what runs left
	rm -rf $(VENV) .cache runs .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis

# --- installation -----------------------------------------------------------------------------------------------------

PIN := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --upgrade -q

.cache/uv/bin/uv: requirements/uv.txt
	@command -v python3 >/dev/null || { echo "python3 is missing: installing it with apt-get"; apt-get install -y python3 python3-venv; }
	@python3 -c 'import ensurepip' 2>/dev/null || { echo "python3-venv is missing: installing it with apt-get"; apt-get install -y python3-venv; }
	python3 -m venv .cache/uv
	.cache/uv/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt

$(VENV)/.python: $(if $(shell command -v uv),,.cache/uv/bin/uv)
	test -x $(BIN)/python || $(UV) venv -q --python '>=3.11' $(VENV)
	@command -v uv >/dev/null || ln -sf ../../$(UV) $(BIN)/uv
	@touch $@

$(VENV)/.run: $(VENV)/.python requirements/run.txt requirements/build.txt pyproject.toml
	$(UV) pip install -q --python $(BIN)/python --require-hashes -r requirements/run.txt -r requirements/build.txt
	$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	$(UV) pip install -q --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/.torch: $(VENV)/.run requirements/torch.txt
	$(UV) pip install -q --python $(BIN)/python --require-hashes -r requirements/torch.txt
	@touch $@

# An environment of its own: Airflow pins what it stands on. Without the compiled files each of its processes would
# start five seconds later.
.cache/airflow/.installed: requirements/airflow.txt | $(VENV)/.python
	test -x .cache/airflow/bin/python || $(UV) venv -q --python '>=3.11,<3.14' .cache/airflow
	$(UV) pip sync -q --python .cache/airflow/bin/python --require-hashes --compile-bytecode requirements/airflow.txt
	@touch $@
