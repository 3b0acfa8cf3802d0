# Each target sets up what it needs in .venv, and again only after pyproject.toml or constraints.txt changed.

PYTHON ?= python3
BIN := .venv/bin
# Tests wait for servers and clocks a third of their time.
WORKERS := $(shell echo $$(( $$(nproc) < 8 ? $$(nproc) + 1 : 8 )))
PIP := $(BIN)/python -m pip --disable-pip-version-check

# pyright asks for a newer version of itself otherwise; constraints.txt says which one is used.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: demo demo-llm test proof proof-quick bench bench-peers model-server proto clean

demo: .venv/demo.installed  ## three models, one route: a few minutes from a fresh clone to the first report
	@$(BIN)/servery demo demo

demo-llm: .venv/demo.installed  ## three language models that a vendor on this machine plays: ten seconds
	@$(BIN)/servery demo --llm demo-llm

test: .venv/test.installed  ## every check and every test
	$(BIN)/python -m compileall -q src tests  # or every process that a test starts compiles them, where Python may not keep it
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/pytest -n $(WORKERS) --dist loadfile

proof: .venv/test.installed  ## the tests that take minutes
	$(BIN)/pytest -m proof

proof-quick: .venv/test.installed  ## false verdicts of rollouts and experiments in 500 worlds of each kind
	WORLDS=500 $(BIN)/pytest -q -m proof -n auto --maxprocesses 8 tests/worlds/test_false_verdicts.py tests/worlds/test_experiment_world.py

bench: .venv/test.installed  ## Servery beside the least server that could do the same; needs wrk
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/batching.py

bench-peers: .venv/test.installed  ## Servery beside other model servers, installed in .venv/peers; 25 minutes; needs wrk, nginx and npm
	$(BIN)/python benchmarks/bench_peers.py
	$(BIN)/python benchmarks/bench_llm.py

model-server: .venv/model-server.installed  ## a real server of language models, for one of the proofs; 1.2 GB

PROTO := src/servery/wire/proto
INTO ?= $(PROTO)

proto:  ## compile the gRPC interfaces again; each module gets a descriptor pool of its own
	$(BIN)/python -m grpc_tools.protoc -I$(PROTO) --python_out=$(INTO) --pyi_out=$(INTO) $(PROTO)/*.proto
	sed -i 's/_descriptor_pool\.Default()/_descriptor_pool.DescriptorPool()/' $(INTO)/*_pb2.py

clean:  ## forget the environment and the demo
	rm -rf .venv demo demo-llm

.venv/demo.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt -e '.[examples]'
	@touch $@

.venv/test.installed: .venv/demo.installed
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install -c constraints.txt -e '.[sklearn,redis,remote]' --group dev
	@touch $@

.venv/model-server.installed: tests/model_server/requirements.txt
	$(PYTHON) -m venv --clear .venv/model-server
	.venv/model-server/bin/python -m pip --disable-pip-version-check install -r $<
	@touch $@
