# Two commands do everything on a fresh machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
COOKBOOK := tinker-cookbook==0.6.1

.PHONY: demo test test-long lint bench conformance

.venv/.ready: tinsmith/pyproject.toml mailroom/pyproject.toml requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -e ./tinsmith -e ./mailroom -r requirements-dev.txt
	touch $@

demo: .venv/.ready
	@$(BIN)/mailroom demo --out demo $(ARGS)

test: lint
	$(BIN)/pytest -q

# The long forms of suites that are shorter in `make test`: 200,000 odd requests, 200 kills, a minute without a server,
# every fault of the disk in every way, and 256 clients for LOAD_S seconds. A failure prints its CRASH_SEED, which
# repeats it when it is set.
LOAD_S ?= 3600
test-long: .venv/.ready
	FUZZ_REQUESTS=200000 CRASH_KILLS=200 CRASH_PAUSE_S=60 CRASH_FAULTS=all LOAD_S=$(LOAD_S) \
	  $(BIN)/pytest -q -s tests/abuse/test_fuzzing.py tests/crash tests/load

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# What the benchmarks compare with is installed by the first of them.
.venv/.bench-ready: .venv/.ready requirements-bench.txt
	$(BIN)/pip install --quiet -r requirements-bench.txt
	touch $@

bench: .venv/.bench-ready
	@test -n "$(NAME)" || { echo "make bench NAME=... with a script of benchmarks/README.md"; exit 2; }
	@$(BIN)/python benchmarks/$(NAME).py $(ARGS)

# The cookbook comes without its requirements: one of them is not on PyPI (requirements-conformance.txt says which).
.venv/.conformance-ready: .venv/.ready requirements-conformance.txt
	@$(BIN)/pip install --quiet -r requirements-conformance.txt && \
	  $(BIN)/pip install --quiet --no-deps $(COOKBOOK) || \
	  { echo "$(COOKBOOK) and its requirements come from PyPI: 'make conformance' needs a network the first time."; exit 1; }
	touch $@

conformance: .venv/.conformance-ready
	@$(BIN)/python -m conformance $(ARGS)
