# Sluice from a host's side: everything runs in containers; this only starts it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
COMPOSE := docker compose $(if $(SLUICE_ENV_DIR),--env-file $(SLUICE_ENV_DIR)/stack.env)
# What builds, looks or stops needs no setting, so it works whatever is in the env file.
LOOK := docker compose --env-file infra/env/presets/laptop.env
VENV := .venv
# Passwords that an operator has chosen.
GIVEN = $(if $(FROM),--volume "$(abspath $(FROM)):/given:ro")
# For programs: JSON=yes prints one JSON document on standard output, the rest on standard error.
AS_JSON = $(if $(JSON),--json)
HOST_CA_BUNDLE := $(firstword $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem))
export CA_BUNDLE ?= $(HOST_CA_BUNDLE)
export BASE_IMAGE ?= debian:trixie-slim
ifeq ($(CA_BUNDLE),)
unexport CA_BUNDLE
endif

.PHONY: help assess up build check project plan apply preset down destroy logs ps status restart-postgres restart-pgbouncer restart-app rotate-passwords rotate-certificates restore-secrets scale-pgbouncer reconnect psql free-disk lint test test-all test-unit engine bench-pool load load-sql compare isolation tune soak report results

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '       JSON=yes             one JSON document for programs: plan, apply, preset, status, restart-*, rotate-*, restore-*, scale-*, reconnect'

assess: up ## From nothing to a finished risk assessment of eight sites
	@$(COMPOSE) exec api python -m app.client http://127.0.0.1:8000 --public-url "http://$$($(COMPOSE) port api 8000)"

up: build ## Install Docker if missing, build, start, wait until healthy; all output: V=1
	@infra/host/check.sh --warn
	@echo 'starting the stack, waiting until every tier is healthy' >&2
	@$(COMPOSE) --progress $(if $(V),auto,quiet) up --detach --wait || { $(LOOK) ps --all >&2; exit 1; }
	@$(LOOK) run --rm --no-deps --no-TTY ops pgbouncer reconnect --if-changed --wait 30 </dev/null \
		|| echo 'if the schema changed: make reconnect' >&2
	@! $(COMPOSE) logs --no-log-prefix --since 10m config 2>&1 | grep --quiet '^renewed:' || infra/host/rotate-certificates.sh --due
	@echo "healthy: http://$$($(LOOK) port api 8000)" >&2

engine:
	@infra/host/docker-engine.sh ensure
	@infra/host/base-image.sh

build: engine project ## Build every image
	@echo 'building the images' >&2
	@$(LOOK) --profile ops build $(if $(V),,--quiet)

check: engine
	@infra/host/check.sh $(AS_JSON)

project:
	@infra/host/check.sh project

plan: engine ## What the env file would change of what is in force; the whole budget: FULL=yes
	@infra/host/check.sh plan $(AS_JSON) $(if $(FULL),--full)

apply: check ## Put the env file in force, live, no request fails; with restarts: RESTART=yes
	@infra/host/apply.sh $(AS_JSON) $(if $(RESTART),--restart)

preset: engine ## Make a preset the env file, after showing its plan: make preset NAME=small
	@infra/host/preset.sh $(AS_JSON) $(NAME)

down: project ## Stop the stack; volumes (the data) stay
	@$(LOOK) --profile ops down

destroy: project ## Stop the stack and delete its volumes: make destroy CONFIRM=yes
	@[[ "$(CONFIRM)" == yes ]] || { echo "This deletes every assessment, result and secret: make destroy CONFIRM=yes" >&2; exit 2; }
	@$(LOOK) --profile ops down --volumes

logs: project ## Follow every tier's log
	@$(LOOK) logs --follow --tail 100

ps: project ## Show every container and its health
	@$(LOOK) ps --all

status: project ## The whole path on one screen, and its bottleneck: make status WATCH=yes
	@SLUICE_CONTAINERS="$$(infra/host/containers.sh)" $(LOOK) run --rm --no-deps --env SLUICE_CONTAINERS ops status $(AS_JSON) $(if $(WATCH),--watch)

restart-postgres: check ## Put the env file in force and restart PostgreSQL; clients wait, none fails
	@infra/host/restart-postgres.sh $(AS_JSON)

restart-pgbouncer: check ## Restart every PgBouncer replica in turn (new containers after a build)
	@infra/host/restart-pgbouncer.sh $(AS_JSON)

restart-app: check ## Put the env file in force and restart api and workers; no request fails
	@infra/host/restart-app.sh $(AS_JSON)

rotate-passwords: project ## New passwords and tokens while it serves: make rotate-passwords [FROM=directory]
	@$(LOOK) run --rm --no-deps $(GIVEN) ops rotate passwords $(AS_JSON) $(if $(FROM),--from /given)

rotate-certificates: project ## New certificates, whether it serves or is down: make rotate-certificates [CA=yes] [DUE=yes] [FROM=directory]
	@infra/host/rotate-certificates.sh $(AS_JSON) $(if $(CA),--ca) $(if $(DUE),--due) $(if $(FROM),--from "$(abspath $(FROM))")

restore-secrets: project ## Write a lost secrets volume back from what was compiled from it
	@infra/host/restore-secrets.sh $(AS_JSON)

scale-pgbouncer: ## Run another number of PgBouncer replicas: make scale-pgbouncer N=3
	@infra/host/scale-pgbouncer.sh $(AS_JSON) $(N)

bench-pool: check ## What a checkout costs, as ratios: this pool layer against three other ways
	@$(COMPOSE) run --rm --no-deps --no-TTY api python -m app.pool.benchmark --settings /etc/sluice/api.json

load: check ## Load on the api, with a report: make load USERS=20 SHAPE=spike RUN_SECONDS=30 [WEB_PORT=8089]
	@loadtest/run load

load-sql: check ## pgbench through PgBouncer and direct, in a lab of its own: make load-sql CLIENTS=8,64
	@loadtest/run load-sql

compare: check ## The incident before and after, on the same data, results checked equal
	@loadtest/run compare

isolation: check ## Latency of requests while the batch pool is full
	@loadtest/run isolation

tune: check ## Find pool sizes by measuring, live; puts back what was: make tune MINUTES=15 [RESUME=yes]
	@loadtest/run tune

soak: check ## Mixed load for long; fails when memory, files or connections grow: make soak MINUTES=60
	@loadtest/run soak

report: engine ## Open the list of load test reports
	@loadtest/run report

results: engine ## Write docs/results.md from the latest load test runs
	@loadtest/run document

reconnect: project ## New server connections of PgBouncer, after DDL by another way than make up and make psql
	@$(LOOK) run --rm --no-deps ops pgbouncer reconnect $(AS_JSON)

psql: ## A superuser's psql inside the PostgreSQL container
	@infra/host/psql.sh

free-disk: ## The way back from a full data volume: gives back its ballast, shows what fills it
	@infra/host/free-disk.sh

$(VENV)/.installed: requirements/dev.txt infra/host/python-env.sh
	@infra/host/python-env.sh $(VENV) requirements/dev.txt
	@touch $@

lint: engine $(VENV)/.installed ## ruff, mypy, shellcheck, hadolint, yamllint, compose config
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy --no-error-summary .
	@$(VENV)/bin/shellcheck --external-sources $$(git ls-files '*.sh' .ci/run loadtest/run)
	@$(VENV)/bin/hadolint $$(git ls-files '*Dockerfile')
	@$(VENV)/bin/yamllint --strict compose.yaml loadtest/*.yaml loadtest/topologies/*.yaml
	@$(LOOK) --profile ops config --quiet
	@$(LOOK) --file compose.yaml --file loadtest/compose.loadtest.yaml --file loadtest/topologies/lab.yaml --profile loadtest config --quiet
	@echo 'lint: clean'

test-unit: $(VENV)/.installed ## Tests that need no container
	@$(VENV)/bin/pytest tests/unit

test: lint up ## Lint, unit tests, the running stack, a fault and an operation of each kind
	@$(VENV)/bin/pytest -m 'not slow'

test-all: test ## Every test
	@$(VENV)/bin/pytest -m slow
