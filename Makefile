# Sluice from a host's side: everything runs in containers; this only starts it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
COMPOSE := docker compose $(if $(SLUICE_ENV_DIR),--env-file $(SLUICE_ENV_DIR)/stack.env)
ENV_FILE := $(or $(SLUICE_ENV_DIR),infra/env)/stack.env
# What builds, looks or stops needs no setting but which servers there are, so it works whatever is
# in the env file.
INSTANCES := $(if $(shell test -f $(ENV_FILE) && grep -sx POSTGRES_INSTANCES=3 $(ENV_FILE)),3,1)
LOOK := POSTGRES_INSTANCES=$(INSTANCES) docker compose --env-file infra/env/presets/laptop.env
# Whatever the env file says now, all that was started.
EVERYTHING := POSTGRES_INSTANCES=3 docker compose --env-file infra/env/presets/laptop.env --profile '*'
RUN := $(LOOK) --progress quiet run --rm --no-deps
# The optional services of the env file; Compose reads them itself where no profile is named.
PROFILES = $(shell test -f $(ENV_FILE) && sed -n 's/^COMPOSE_PROFILES=//p' $(ENV_FILE) 2>/dev/null)
VENV := .venv
# What operators' commands take. Of the command line alone: a shell can have variables of these names.
SWITCHES := CA DUE FULL JSON NEW_CLUSTER NEW_REPOSITORY REPLACE RESTART SWAP WATCH
VALUES := CLUSTER CONFIRM FILE FOLLOW FROM INTO KEEP LINES N NAME REQUEST SINCE SQL TABLE TIMELINE TO TYPE
$(foreach one,$(SWITCHES) $(VALUES),$(if $(filter environment,$(origin $(one))),$(eval $(one) :=)))
$(foreach one,$(SWITCHES),$(if $(filter-out yes no,$($(one))),$(error $(one)=$($(one)): must be yes or no)))
option = $(if $(filter yes,$($(1))),$(2))
# For programs: JSON=yes prints one JSON document on standard output, the rest on standard error.
AS_JSON = $(call option,JSON,--json)
HOST_CA_BUNDLE := $(firstword $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem))
export CA_BUNDLE ?= $(HOST_CA_BUNDLE)
export BASE_IMAGE ?= debian:trixie-slim
ifeq ($(CA_BUNDLE),)
unexport CA_BUNDLE
endif

.PHONY: help assess up build check project plan apply preset client client-url down destroy logs ps status doctor restart-postgres switchover restart-pgbouncer restart-app rotate-passwords rotate-certificates restore-secrets scale-pgbouncer backup backups backup-key verify-backup restore restore-swap drill reconnect load-reference psql free-disk lint test test-all chaos test-unit engine bench-pool bench-writes load load-sql compare isolation tune soak report results swarm-up swarm-images swarm-apply swarm-status swarm-down test-swarm

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'JSON=yes                 one JSON document, of what shows or changes'

assess: up ## From nothing to a finished assessment of eight sites
	@$(COMPOSE) exec api python -m app.client http://127.0.0.1:8000 --public-url "$$(infra/host/operate.sh url)"

up: build ## Install Docker if missing, build, start; output: V=1
	@infra/host/operate.sh check --warn
	@echo 'starting the stack, waiting until every tier is healthy' >&2
	@infra/host/operate.sh compile
	@$(COMPOSE) --progress $(if $(V),auto,quiet) up --detach --wait --remove-orphans || { $(LOOK) ps --all >&2; exit 1; }
	@infra/host/operate.sh remove-disabled
	@$(RUN) --no-TTY ops pgbouncer reconnect --if-changed --wait 30 </dev/null \
		|| echo 'if the schema changed: make reconnect' >&2
	@! docker logs --since 10m "$$($(COMPOSE) ps --all --quiet config)" 2>&1 | grep --count '^renewed:' >/dev/null || infra/host/operate.sh rotate-certificates --due
	@echo "healthy: $$(infra/host/operate.sh url)" >&2

engine:
	@infra/host/docker-engine.sh ensure
	@infra/host/base-image.sh

build: engine project ## Build every image
	@echo 'building the images' >&2
	@$(LOOK) --profile ops $(if $(filter observability,$(PROFILES)),--profile observability) build $(if $(V),,--quiet)

check: engine
	@infra/host/operate.sh check $(AS_JSON)

project:
	@infra/host/operate.sh check project

plan: engine ## What the env file would change; whole budget: FULL=yes
	@infra/host/operate.sh plan $(AS_JSON) $(call option,FULL,--full)

apply: check ## Apply the env file, live; with restarts: RESTART=yes
	@infra/host/operate.sh apply $(AS_JSON) $(call option,RESTART,--restart)

preset: engine ## Make a preset the env file, its plan first: NAME=small
	@infra/host/operate.sh preset $(AS_JSON) $(NAME)

down: project ## Stop the stack; volumes (the data) stay
	@$(EVERYTHING) down --remove-orphans

destroy: project ## Delete all: CONFIRM=yes; but the backups: KEEP=backups
	@infra/host/destroy.sh "$(CONFIRM)" "$(KEEP)"

logs: project ## Every log: [LINES=] [SINCE=10m] [FOLLOW=no] [REQUEST=]
	@infra/host/logs.sh $(AS_JSON) $(if $(LINES),--lines "$(LINES)") $(if $(SINCE),--since "$(SINCE)") $(if $(filter no,$(FOLLOW)),--no-follow) $(if $(REQUEST),--request "$(REQUEST)")

ps: project ## Show every container and its health
	@$(LOOK) ps --all

status: project ## The whole path on one screen; repeatedly: WATCH=yes
	@SLUICE_CONTAINERS="$$(infra/host/containers.sh)" $(RUN) --env SLUICE_CONTAINERS ops status $(AS_JSON) $(call option,WATCH,--watch)

doctor: project ## What breaks behind the pool, live or in files: SQL=path
	@infra/host/operate.sh doctor $(AS_JSON) $(if $(SQL),"$(SQL)")

restart-postgres: check ## Apply and restart PostgreSQL; no request fails
	@infra/host/operate.sh restart-postgres $(AS_JSON)

switchover: project ## Make a standby the primary, none fails: [TO=postgres-2]
	@infra/host/operate.sh switchover $(AS_JSON) $(if $(TO),--to "$(TO)")

restart-pgbouncer: check ## Restart every PgBouncer replica; no request fails
	@infra/host/operate.sh restart-pgbouncer $(AS_JSON)

restart-app: check ## Apply and restart api and workers; no request fails
	@infra/host/operate.sh restart-app $(AS_JSON)

rotate-passwords: project ## New passwords and tokens, live [FROM=directory]
	@infra/host/operate.sh rotate-passwords $(AS_JSON) $(if $(FROM),--from "$(abspath $(FROM))")

rotate-certificates: project ## New certificates [CA=yes] [DUE=yes] [FROM=directory]
	@infra/host/operate.sh rotate-certificates $(AS_JSON) $(call option,CA,--ca) $(call option,DUE,--due) $(if $(FROM),--from "$(abspath $(FROM))")

client: engine ## The file of an application: NAME=billing
	@infra/host/operate.sh client $(AS_JSON) $(NAME)

client-url: project ## How it connects: NAME=billing; secrets: TO=directory
	@infra/host/operate.sh client-url $(AS_JSON) $(if $(TO),--to "$(abspath $(TO))") $(NAME)

restore-secrets: project ## Write a lost secrets volume back
	@infra/host/operate.sh restore-secrets $(AS_JSON)

scale-pgbouncer: ## Run another number of PgBouncer replicas: N=3
	@infra/host/operate.sh scale-pgbouncer $(AS_JSON) $(N)

bench-pool: check ## What a checkout costs against three other ways
	@$(COMPOSE) --progress quiet run --rm --no-deps --no-TTY api python -m app.pool.benchmark --settings /etc/sluice/api.json

bench-writes: check ## What storing results costs against a COPY of their rows
	@$(COMPOSE) --progress quiet run --rm --no-deps --no-TTY worker python -m app.assessments.benchmark --settings /etc/sluice/worker.json

load: check ## Load on the api: [USERS=20] [SHAPE=spike] [WEB_PORT=N]
	@loadtest/run load

load-sql: check ## pgbench through PgBouncer and direct: [CLIENTS=8,64]
	@loadtest/run load-sql

compare: check ## The incident before and after, results checked equal
	@loadtest/run compare

isolation: check ## Latency of requests while the batch pool is full
	@loadtest/run isolation

tune: check ## Find pool sizes by measuring: [MINUTES=15] [RESUME=yes]
	@loadtest/run tune

soak: check ## Mixed load for long; fails on growth: [MINUTES=60]
	@loadtest/run soak

report: engine ## Open the list of load test reports
	@loadtest/run report

results: engine ## Write docs/results.md from the latest load tests
	@loadtest/run document

backup: check ## Backup: [TYPE=full] [NEW_CLUSTER=] [NEW_REPOSITORY=]
	@infra/host/backup.sh make $(AS_JSON) $(call option,NEW_CLUSTER,--new-cluster) $(call option,NEW_REPOSITORY,--new-repository) $(TYPE)

backups: project ## List the backups, and the moments a restore can go to
	@infra/host/backup.sh list $(AS_JSON)

backup-key: project ## Print the key of backups; put: FROM=dir [REPLACE=yes]
	@infra/host/backup.sh key $(if $(FROM),--from "$(FROM)") $(call option,REPLACE,--replace)

verify-backup: project ## Read every backup; name what a restore would miss
	@infra/host/backup.sh verify $(AS_JSON)

restore: project ## Restore beside: [TO=time] [INTO=volume] [SWAP=yes]
	@infra/host/backup.sh restore $(AS_JSON) $(if $(TO),--to "$(TO)") $(if $(INTO),--into "$(INTO)") $(if $(CLUSTER),--cluster "$(CLUSTER)") $(if $(TIMELINE),--timeline "$(TIMELINE)") $(call option,SWAP,--swap)

restore-swap: project ## Make what was restored the server's data: FROM=volume
	@infra/host/backup.sh swap $(AS_JSON) "$(FROM)"

drill: project ## Restore as if the server were lost; what and how long
	@infra/host/backup.sh drill $(AS_JSON)

reconnect: project ## New server connections of PgBouncer, after DDL
	@$(RUN) ops pgbouncer reconnect $(AS_JSON)

load-reference: project ## Load a CSV: TABLE=buildings FILE=b.csv [REPLACE=yes]
	@infra/host/operate.sh load-reference $(AS_JSON) $(call option,REPLACE,--replace) "$(TABLE)" "$(FILE)"

swarm-up: build ## Several machines: build, distribute, deploy to a swarm
	@infra/host/swarm.sh images
	@infra/host/swarm.sh apply

swarm-images: ## Bring this host's images to every node of the swarm
	@infra/host/swarm.sh images

swarm-apply: ## Apply the env file to the swarm, tier by tier
	@infra/host/swarm.sh apply

swarm-status: ## Nodes, services and the whole path on several machines
	@infra/host/swarm.sh status

swarm-down: ## Remove the stack from the swarm; volumes stay
	@infra/host/swarm.sh down

psql: ## A superuser's psql inside the PostgreSQL container
	@infra/host/psql.sh

free-disk: ## The way back from a full data volume
	@infra/host/free-disk.sh

$(VENV)/.installed: requirements/dev.txt infra/host/python-env.sh
	@infra/host/python-env.sh $(VENV) requirements/dev.txt
	@touch $@

lint: engine $(VENV)/.installed ## ruff, mypy, shellcheck, hadolint, yamllint, Compose
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy --no-error-summary .
	@$(VENV)/bin/shellcheck --external-sources $$(git ls-files '*.sh' .ci/run loadtest/run)
	@$(VENV)/bin/hadolint $$(git ls-files '*Dockerfile')
	@$(VENV)/bin/yamllint --strict compose.yaml infra/postgres/*.yaml loadtest/*.yaml loadtest/topologies/*.yaml
	@$(LOOK) --profile '*' config --quiet
	@$(EVERYTHING) config --quiet
	@$(LOOK) --file compose.yaml --file loadtest/compose.loadtest.yaml --file loadtest/topologies/lab.yaml --profile loadtest config --quiet
	@echo 'lint: clean'

test-unit: $(VENV)/.installed ## Tests that need no container
	@$(VENV)/bin/pytest tests/unit

# Building the images and the tests of the stack wait half of their time: those that need no container
# run beside them. (Not the variable MAKE: make -n would run the line.)
test: lint ## Lint, units, stack, a fault and operation of each kind
	@$(VENV)/bin/pytest -m 'not slow' -p no:cacheprovider tests/unit >$(VENV)/unit.log 2>&1 & units=$$!; status=0; \
	make --no-print-directory up || { status=$$?; kill $$units; exit $$status; }; \
	$(VENV)/bin/pytest -m 'not slow' --ignore tests/unit || status=$$?; \
	wait $$units || status=$$?; cat $(VENV)/unit.log; exit $$status

test-all: test ## Every test
	@$(VENV)/bin/pytest -m slow --ignore tests/unit

chaos: check $(VENV)/.installed ## Faults under load: [MINUTES=10|EACH=n] [ONLY=] [SEED=1]
	@[[ "$(or $(MINUTES),10)" =~ ^([1-9]|[1-5][0-9]|60)$$ ]] || { echo "MINUTES=$(MINUTES): must be a whole number from 1 to 60" >&2; exit 2; }
	@[[ -z "$(EACH)" || -z "$(MINUTES)" ]] || { echo "EACH=$(EACH) takes as long as its rounds take; leave MINUTES out" >&2; exit 2; }
	@[[ "$(or $(EACH),1)" =~ ^([1-9]|[1-4][0-9]|50)$$ ]] || { echo "EACH=$(EACH): must be a whole number from 1 to 50" >&2; exit 2; }
	@[[ "$(or $(SEED),1)" =~ ^[0-9]{1,9}$$ ]] || { echo "SEED=$(SEED): must be a whole number of at most nine digits" >&2; exit 2; }
	@why=$$(CHAOS_ONLY="$(ONLY)" $(VENV)/bin/python -c 'from tests.chaos import faults; print(faults.why_not_here())'); [[ -z $$why ]] || { echo "chaos: $$why" >&2; exit 2; }
	@CHAOS_MINUTES="$(if $(EACH),,$(or $(MINUTES),10))" CHAOS_EACH="$(EACH)" CHAOS_ONLY="$(ONLY)" CHAOS_SEED="$(or $(SEED),1)" $(VENV)/bin/pytest --quiet -s -m slow tests/chaos

# Beside test-all: it has three Docker engines run, each with the images, for about ten minutes.
test-swarm: $(VENV)/.installed engine ## Several machines, as three Docker hosts on this one
	@$(MAKE) --no-print-directory build INSTANCES=3
	@$(VENV)/bin/pytest tests/swarm
