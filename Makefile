# Two commands do everything on a fresh machine: `make demo` and `make test`.
# The environment stands in .venv; `make VENV=/elsewhere demo` puts it elsewhere.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow test-thorough lint docs install second-device clean

demo: install
	$(BIN)/postdiff run

# What answers soon; what takes long is marked `slow`, and of the largest grids two thirds are left to `thorough`.
test: install lint
	$(BIN)/python -m pytest -n 2 -m "not slow and not thorough"

test-slow: install
	$(BIN)/python -m pytest -n 2 -m slow

test-thorough: install
	$(BIN)/python -m pytest -n 2 -m thorough

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages of methods in docs/methods, the tables of docs/which_cache.md, and all pages as a site in `site`.
docs: install
	$(BIN)/python docs/program/method_pages.py
	$(BIN)/python docs/program/which_cache.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]"
	touch $@

# Every method by XLA on the CPU against torch: writes docs/second_device.md. In an environment of its own, for
# torch_xla is built for one torch; --fresh does again what has been done, see experiments/second_device.py.
SECOND ?= .venv-second
second-device: $(SECOND)/.installed
	$(SECOND)/bin/python -m experiments.second_device $(WORDS)

$(SECOND)/.installed: pyproject.toml constraints.txt
	test -x $(SECOND)/bin/python || $(PYTHON) -m venv $(SECOND)
	grep -Ev '^(torch|nvidia|triton|cuda)' constraints.txt > $(SECOND)/constraints.txt
	$(SECOND)/bin/python -m pip install --quiet -c $(SECOND)/constraints.txt torch==2.9.0 torch_xla==2.9.0 -e .
	touch $@

clean:
	rm -rf $(VENV) $(SECOND) dist site .pytest_cache .ruff_cache .mypy_cache
