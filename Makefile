# Two commands do everything on a fresh machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench

.venv/.ready: tinsmith/pyproject.toml mailroom/pyproject.toml requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -e ./tinsmith -e ./mailroom -r requirements-dev.txt
	touch $@

demo: .venv/.ready
	@$(BIN)/mailroom demo --out demo $(ARGS)

test: lint
	$(BIN)/pytest -q

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
