# Every command of the project; `make help` lists them.
PYTHON ?= $(shell scripts/find-python)
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.ready

.PHONY: run test test-long check fix bench bench-peers docs lock help clean

run: $(SETUP)  ## Start the gateway against two built-in sandbox providers
	@$(BIN)/keymux serve --config config/config-sandbox.json

test: check  ## Run the whole suite, checks first
	@scripts/install-test-packages
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not alone"
	$(BIN)/python -m pytest -m alone

test-long:  ## The same with a minute of outage and many more kills
	KEYMUX_TEST_LONG=1 $(MAKE) test

check: $(SETUP)  ## Lint, types, import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(SETUP)  ## Format, and mend what a tool can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(SETUP)  ## Measure speed and memory against nginx and LiteLLM, in one run
	$(BIN)/python bench/run.py

docs: $(SETUP)  ## Write the generated parts of docs/ anew
	$(BIN)/python scripts/generate_docs.py

lock: $(SETUP)  ## Resolve the dependencies anew and pin them with hashes
	$(BIN)/python scripts/lock.py

clean:  ## Remove what make has made
	rm -rf $(VENV) .venv-peers bench/build .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(SETUP): requirements/dev.txt pyproject.toml scripts/make-venv
	@scripts/make-venv "$(PYTHON)" $(VENV) requirements/dev.txt
	@touch $@

help:  ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
