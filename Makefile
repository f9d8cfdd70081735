# Needs Python 3.11 or newer, git and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: cards demo test test-processes test-slow test-golden lint bench bench-speed bench-costs bench-strength format clean

demo: .venv/installed  ## Train a small classroom on handwritten digits and write a report.
	$(BIN)/classroomkd demo --out runs/demo

test: .venv/installed  ## The tests that decide whether a change lands.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-processes: .venv/installed  ## Several processes train and evaluate: these decide, too.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m processes --durations=5 tests/engine tests/tasks

test-slow: .venv/installed  ## The tests that take minutes.
	$(BIN)/python -m pytest -q -m slow

test-golden: .venv/installed  ## Tiny runs end bit for bit as recorded: for changes of shape alone.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m golden tests/golden

lint: .venv/installed  ## Style, types, and which room may import which.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: .venv/installed  ## Speed of the training step, and what each method costs.
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.costs

bench-speed bench-costs bench-strength: bench-%: .venv/installed  ## One of the measurements.
	$(BIN)/python -m benchmarks.$*

cards: .venv/installed  ## docs/cards.md, from docstrings, options and tables.
	$(BIN)/python docs/make_cards.py

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --progress-bar off --quiet -c constraints.txt -e . --group dev
	@touch $@

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache
