# Two commands do everything: `make demo` and `make test`. Both set up a .venv first, once.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: setup demo test fast lint model clean

setup:
	@$(PYTHON) tools/setup_env.py --venv $(VENV)

demo: setup
	@$(RUN) -m tools.demo --out runs/demo

test: lint
	$(RUN) -m pytest

fast: setup
	$(RUN) -m pytest -m "not slow"

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# Builds the model that is shipped in tools/tiny_model/model once more.
model: setup
	$(RUN) -m tools.tiny_model.build

clean:
	rm -rf runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
