# Two commands do everything on a fresh machine: `make demo` and `make test`.
# The environment stands in .venv; `make VENV=/elsewhere demo` puts it elsewhere.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint docs install clean

demo: install
	$(BIN)/postdiff run

test: install lint
	$(BIN)/python -m pytest -n 2

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages of methods in docs/methods, and all pages as a site in `site`.
docs: install
	$(BIN)/python docs/program/method_pages.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) dist site .pytest_cache .ruff_cache .mypy_cache
