# Each target sets up what it needs by itself. ARGS are passed on: make up ARGS='--port 8000'
UV := sh scripts/uv
ARGS ?=

.PHONY: help up down test lint pins

help:  ## Show the targets
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

up:  ## Serve the model that suits this machine (the main job)
	@$(UV) run --no-dev lemnos up $(ARGS)

down:  ## Stop what `make up` started
	@$(UV) run --no-dev lemnos down $(ARGS)

test:  ## Run the tests; LEMNOS_BEDS=1 adds those of real parts that are installed
	@$(UV) run pytest $(ARGS)

lint:  ## Ruff, mypy --strict, import-linter
	@$(UV) run --quiet ruff check .
	@$(UV) run --quiet ruff format --check .
	@$(UV) run --quiet mypy
	@$(UV) run --quiet lint-imports

pins:  ## Write the pins anew after a change of dependencies (ARGS=--upgrade for newer versions)
	@$(UV) run --quiet --no-project scripts/pin.py $(ARGS)
