# What there is to run; `make` alone lists it. PROFILE=dev builds without optimisation (faster to build, slower to run), CUDA=1 for
# NVIDIA's GPUs (which needs the CUDA toolkit), CUDAARCHS=90 for those of that architecture, where none is at hand to ask.

PROFILE ?= release
SHELL := /bin/bash

TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
BIN_DIR := $(TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
# The dev binaries are built together with the tests: one set of dependency features, hence one build of everything.
BUILD := $(if $(filter 1,$(CUDA)),CMAKE_TOOLCHAIN_FILE="$(abspath scripts/cuda.cmake)") \
	cargo build --workspace --bins $(if $(filter dev,$(PROFILE)),--tests,--profile $(PROFILE)) \
	$(if $(filter 1,$(CUDA)),--features fusion-server/cuda --features fusion-llama/cuda)

.DEFAULT_GOAL := help
.PHONY: help setup build models demo test test-servers test-mongo lint bench test-clients soak chaos fuzz

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install the build tools that are missing (apt; asks unless root or YES=1)
	@YES="$(YES)" scripts/setup.sh

build: | setup ## build fusiond and its engines (CUDA=1: for NVIDIA's GPUs)
	$(BUILD)

models: | setup ## fetch the demo models, checked by SHA-256 (QWEN=1: a 1.1 GB one too; VERIFY=1: hash what is there)
	@python3 scripts/models.py $(if $(QWEN),--qwen) $(if $(VERIFY),--verify)

demo: build models ## build, fetch models, start the server and tour it (DEMO_EXIT=1: end after the tour)
	@FUSIOND_BIN="$(BIN_DIR)/fusiond" python3 demo/tour.py

test-servers:
	@scripts/test_servers.sh

test-mongo: | setup ## every test on MongoDB, on the server that MONGO_URI names (MONGO_CASES=N: sequences of the model)
	@[ -n "$(MONGO_URI)" ] || { echo "MONGO_URI=mongodb://… make test-mongo" >&2; exit 1; }
	cargo build --workspace --bins --tests
	MONGO_URI="$(MONGO_URI)" cargo test --workspace --test it -- mongo redis:: nodes::

test: models test-servers ## every test, those on real engines and real models included
	cargo build --workspace --bins --tests
	cargo test --workspace --doc --quiet
	@if cargo nextest --version >/dev/null 2>&1; then \
		echo cargo nextest run --workspace; cargo nextest run --workspace; \
	else \
		echo cargo test --workspace --bins --lib --tests; cargo test --workspace --bins --lib --tests; \
	fi
	@FUSIOND_BIN="$(TARGET_DIR)/debug/fusiond" python3 scripts/soak.py --seconds 30 --growth 100
	@FUSIOND_BIN="$(TARGET_DIR)/debug/fusiond" python3 scripts/chaos.py --rounds 5

lint: | setup ## formatting, clippy (warnings are errors), whether the documents' paths are true, and whether macOS's build would be
	cargo fmt --all --check
	@python3 scripts/check_docs.py
	cargo clippy --workspace --all-targets -- -D warnings
	@scripts/check_mac.sh

bench: build models ## measure and write bench/RESULTS.md
	@FUSIOND_BIN="$(BIN_DIR)/fusiond" python3 bench/run.py

test-clients: build models ## the official openai Python package against a running server
	@FUSIOND_BIN="$(BIN_DIR)/fusiond" scripts/client-check.sh

soak: build models ## five minutes of everything at once, with engines that crash and hang (FOR=N seconds)
	@FUSIOND_BIN="$(BIN_DIR)/fusiond" python3 scripts/soak.py --seconds $(or $(FOR),300)

chaos: build ## jobs under kills, power cuts and stores that fail (ROUNDS=N kills)
	@FUSIOND_BIN="$(BIN_DIR)/fusiond" python3 scripts/chaos.py --rounds $(or $(ROUNDS),200)

fuzz: ## many hostile bodies, chunks and event streams (CASES=N a property)
	PROPTEST_CASES=$(or $(CASES),20000) cargo test -p fusion-types -p fusion-models --lib --test it -- bodies sse translate
	FUZZ_CASES=$(or $(CASES),20000) cargo test -p fusion-server --test it front_door
