# Every task of this project; `make help` lists them. CI calls the same targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
PY := $(VENV)/bin/python
# What the machine's python3 cannot do, scripts/setup.sh says in one sentence.
export PYTHON ?= python3

.PHONY: help
help: ## list the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: setup
setup: ## make .venv and install from the lock file (only when it has changed)
	@scripts/setup.sh requirements.lock

.PHONY: setup-dev
setup-dev: ## the same with the tools for tests and checks
	@scripts/setup.sh requirements-dev.lock

.PHONY: setup-torch
setup-torch: setup-dev ## torch and transformers, for the tests that compare with them (large)
	$(PY) -m pip install --quiet --group torch-tests

.PHONY: run
run: setup ## start everything on this machine (MODEL=… PORT=… HOST=…)
	@exec $(PY) app.py

.PHONY: check
check: setup-dev ## formatting, lint, types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	bash -n scripts/*.sh .ci/run

.PHONY: test-fast
test-fast: setup-dev ## unit and contract tests, one to two minutes, no network
	$(PY) -m pytest -q -n 4 --dist loadfile -m "unit or contract" tests/unit tests/contract

.PHONY: test
test: setup-dev ## everything that this machine can run
	scripts/test.sh

# What .env says about a variable, as docker compose reads it from there.
of_env_file = $(shell sed -nE "s/^$(1)=['\"]?([^'\"]*).*/\1/p" .env 2>/dev/null | tail -n 1)

# COMPOSE_FILE, in the environment or in .env, names the files for make and for docker compose alike. Without it: no card
# here means llama.cpp on the CPU, and SCALE=3 so many gateways behind nginx (give it to all targets). COMPOSE_FILES="-f …"
# counts before all that.
NAMED_FILES := $(or $(COMPOSE_FILE),$(call of_env_file,COMPOSE_FILE))
ifdef COMPOSE_FILES
  SCALE_FILE := $(if $(SCALE),-f docker-compose.scale.yml)
else ifneq ($(NAMED_FILES),)
  ifneq ($(and $(SCALE),$(if $(findstring docker-compose.scale.yml,$(NAMED_FILES)),,lacks)),)
    $(error SCALE=$(SCALE) needs docker-compose.scale.yml, which COMPOSE_FILE=$(NAMED_FILES) does not name: add it there)
  endif
else
  COMPOSE_FILES := -f docker-compose.yml $(shell command -v nvidia-smi >/dev/null || echo -f docker-compose.cpu.yml)
  SCALE_FILE := $(if $(SCALE),-f docker-compose.scale.yml)
endif
COMPOSE := docker compose $(COMPOSE_FILES) $(SCALE_FILE) $(if $(OBSERVE),--profile observability)
# Without its profile compose leaves a service alone, on the way down, too.
COMPOSE_ALL := $(COMPOSE) $(if $(OBSERVE),,--profile observability)

# The base image: `make images BASE=…`, or what `make pin-images` has written.
BASE ?= $(call of_env_file,PYTHON_IMAGE)
TAG ?= $(call of_env_file,TAG)
PIP_INDEX_URL ?= $(call of_env_file,PIP_INDEX_URL)
IMAGES := gateway webui cpu app
VERSION := $(shell sed -nE 's/^VERSION = "(.*)"/\1/p' gateway/__init__.py)
DOCKER_BUILD = docker build -f Dockerfile.app $(if $(BASE),--build-arg BASE=$(BASE)) $(if $(PIP_INDEX_URL),--build-arg PIP_INDEX_URL=$(PIP_INDEX_URL))

.PHONY: images
images: ## build the four images of Dockerfile.app (BASE=… another base image)
	for target in $(IMAGES); do \
	  $(DOCKER_BUILD) --target $$target --label org.opencontainers.image.version=$(or $(VERSION),unknown) \
	    --label org.opencontainers.image.revision=$$(git rev-parse --short HEAD 2>/dev/null || echo unknown) \
	    --build-arg SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 0) \
	    -t internlm-stack/$$target:$(or $(TAG),latest) . || exit; \
	done

.PHONY: pin-images
pin-images: ## write the digests of the images that others publish into .env
	@scripts/pin_images.sh

.PHONY: wheelhouse
wheelhouse: ## fill build/wheelhouse with the packages of requirements.lock, for a build without a network
	$(DOCKER_BUILD) --target wheels --output type=local,dest=build/wheelhouse .

.PHONY: sbom
sbom: setup-dev ## list what is in each of the four images in build/sbom (CycloneDX)
	@$(PY) scripts/sbom.py $(or $(TAG),latest) $(IMAGES)

.PHONY: wheel
wheel: setup-dev ## build the last commit as a wheel into dist, and try it in a venv of its own
	@$(PY) scripts/release.py wheel

.PHONY: release
release: setup-dev ## wheel, images and lists of what is in them, checked, with checksums in dist; needs Docker
	@$(PY) scripts/release.py all

.PHONY: audit
audit: setup-dev ## ask PyPI for known vulnerabilities of every locked package; needs a network
	@scripts/audit.sh requirements.lock requirements-dev.lock requirements-clients.lock

.PHONY: up
up: ## start the containers, and wait until the model answers (SCALE=3: so many gateways; OBSERVE=1: Prometheus, Grafana)
	@scripts/up.sh "$(SCALE)" $(COMPOSE)

.PHONY: down
down: ## stop and remove the containers; models, history and keys stay
	$(COMPOSE_ALL) down --remove-orphans

.PHONY: stop
stop: ## stop the containers; `make up` starts them again
	$(COMPOSE_ALL) stop

.PHONY: restart
restart: ## stop the containers that are there, and start them again
	$(COMPOSE) restart

.PHONY: purge
purge: ## remove the containers and all that they stored: models, history, keys; asks first
	@read -r -p "This removes models, history and keys of the containers for good. Type yes: " answer && [ "$$answer" = yes ]
	docker compose -f docker-compose.yml -f docker-compose.scale.yml --profile observability down --volumes --remove-orphans

.PHONY: logs
logs: ## what the containers say, as it comes
	$(COMPOSE_ALL) logs --follow --tail 100

.PHONY: ps
ps: ## the containers and their health
	$(COMPOSE_ALL) ps -a

.PHONY: swarm-stack
swarm-stack: setup-dev ## write deploy/swarm.yml anew from the compose files, which a test compares
	$(PY) deploy/make_swarm.py >deploy/.swarm.yml && mv deploy/.swarm.yml deploy/swarm.yml

# WHERE=containers or WHERE=folder (what `make run` uses); without it, where there is something.
.PHONY: backup
backup: ## save history and keys into a file, while all runs (TO=FILE)
	@scripts/backup.sh backup "$(TO)" "$(WHERE)" $(COMPOSE)

.PHONY: restore
restore: ## put a backup in place (FROM=FILE; FORCE=1 replaces what is there)
	@FORCE="$(FORCE)" scripts/backup.sh restore "$(FROM)" "$(WHERE)" $(COMPOSE)

.PHONY: openapi
openapi: setup-dev ## write docs/openapi.json anew, which a test compares with the app
	$(PY) -m tests.openapi_snapshot

.PHONY: bench
bench: setup-dev ## speed and memory, side by side in one run
	$(PY) -m bench

.PHONY: lock
lock: setup-dev ## write the lock files anew from pyproject.toml
	scripts/lock.sh

.PHONY: clean
clean: ## remove .venv and caches; data/ and models/ stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
