# Everything is set up by itself: a virtual environment in .venv, with the locked dependencies.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: .venv/ready ## the virtual environment with all dependencies

.venv/ready: requirements-dev.lock pyproject.toml client/pyproject.toml tools/setup tools/install.py
	@PYTHON="$(PYTHON)" sh tools/setup

run: .venv/ready ## the whole exchange, until Ctrl-C (ARGS="--port 8001" and the like)
	@exec "$(BIN)/tcgx" up $(ARGS)

# Modules of tests are shared out to processes: most of them wait for servers.
TEST_PROCESSES ?= 2

test: .venv/ready ## every test, on real servers (TEST_PROCESSES=0: in one process)
	@"$(BIN)/python" -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS) || { \
	    status=$$?; [ $$status = 1 ] || exit $$status; \
	    echo "what failed, once more and alone: bounds on time hold where a test has the machine for itself"; \
	    "$(BIN)/python" -m pytest --last-failed --last-failed-no-failures none $(ARGS); }

quick: .venv/ready ## the tests that need no server: minutes of CPU
	@"$(BIN)/python" -m pytest -m "not server" $(ARGS)

# VALIDATORS= leaves out what other programs say of the deployment files, where these programs can't be installed.
VALIDATORS ?= .validate/ready

check: .venv/ready $(VALIDATORS) ## format, lint, types, deployment files by their validators, and the docs as a site
	@"$(BIN)/ruff" format --check .
	@"$(BIN)/ruff" check .
	@"$(BIN)/mypy"
	@"$(BIN)/hadolint" Dockerfile
	@"$(BIN)/check-jsonschema" --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.observability.yml
	@"$(BIN)/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@"$(BIN)/python" -m deploy.generate --check
	@"$(BIN)/python" -m api.graphql | cmp - api/graphql/schema.graphql
	@"$(BIN)/buf" lint
	@"$(BIN)/buf" breaking --against rpc/v1/released.binpb
	@"$(BIN)/python" -m docs_site --check
	@[ -z "$(VALIDATORS)" ] || "$(BIN)/python" -m deploy.validate

docs: .venv/ready ## the pages that are made from the source, and the site that the API serves at /docs
	@"$(BIN)/python" -m docs_site.pages
	@"$(BIN)/python" -m docs_site

validate: .venv/ready .validate/ready ## the validators of deployment files, and whether they find planted errors
	@"$(BIN)/python" -m deploy.validate
	@"$(BIN)/python" -m pytest tests/deploy/test_validators.py

.validate/ready: requirements-validate.lock requirements-checkov.lock
	@"$(PYTHON)" -m venv .validate && .validate/bin/python tools/install.py requirements-validate.lock --no-deps --require-hashes
	@"$(PYTHON)" -m venv .checkov && .checkov/bin/python tools/install.py requirements-checkov.lock --no-deps --require-hashes
	@touch .validate/ready

containers: .venv/ready .validate/ready ## builds the image, runs it with compose, kills every container under load (root on Debian, or Docker)
	@exec "$(BIN)/python" -m testing.containers $(ARGS)

format: .venv/ready ## puts the code into its format
	@"$(BIN)/ruff" format .
	@"$(BIN)/ruff" check --fix .

cloud: .venv/ready ## the CloudFormation template on an emulator of AWS
	@"$(BIN)/python" -m testing.cloud

grpc: .venv/ready ## generates rpc/v1 and the messages of the client from the contract
	@"$(BIN)/python" -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. rpc/v1/exchange.proto
	@cp rpc/v1/exchange_pb2.py rpc/v1/exchange_pb2.pyi client/tcgx_client/contract/

graphql: .venv/ready ## writes the schema of GraphQL
	@"$(BIN)/python" -m api.graphql > api/graphql/schema.graphql

bench: .venv/ready ## the benchmarks, all of them (ARGS="match --orders 100000" and the like)
	@exec "$(BIN)/tcgx" bench $(or $(ARGS),all)

chaos: .venv/ready ## faults on purpose, under load (ARGS="--rounds 100 --seed 7" and the like)
	@exec "$(BIN)/tcgx" chaos $(ARGS)

lock: .venv/ready ## resolves the dependencies anew
	@"$(BIN)/python" -m pip install --quiet uv
	@"$(BIN)/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra grpc --extra graphql --output-file requirements.lock pyproject.toml
	@"$(BIN)/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --group dev --output-file requirements-dev.lock pyproject.toml
	@"$(BIN)/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --group build --output-file requirements-build.lock
	@"$(BIN)/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --group checkov --output-file requirements-checkov.lock
	@"$(BIN)/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --group validate --output-file requirements-validate.lock \
	    $(foreach name,aws-cdk-lib aws-cdk-asset-awscli-v1 aws-cdk-asset-node-proxy-agent-v6 aws-cdk-cloud-assembly-schema constructs jsii publication,--no-emit-package $(name))

clean: ## removes the virtual environment
	rm -rf .venv .validate .checkov

.PHONY: help setup run test quick check docs validate cloud containers format grpc graphql bench chaos lock clean
