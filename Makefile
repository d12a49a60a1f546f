# Everything runs from .venv, which is made when missing. VENV=DIR uses another one, PYTHON=... another interpreter.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.fastlane-ready
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := pyproject.toml constraints.txt integrations/langchain/pyproject.toml integrations/llama_index/pyproject.toml

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup demo test test-all pytest lint format reproduce wheels clean

help:
	@echo "make demo      index real passages and answer questions through LangChain and LlamaIndex"
	@echo "make test      lint, types and the quick tests; make test-all adds the slow ones"
	@echo "make reproduce measure every figure of the documents again (PARTS=quality DATA=DIR LIMIT=queries DATASETS=a,b)"
	@echo "make setup     only the virtual environment;  make format, wheels, clean"

setup: $(READY)

$(READY): $(SOURCES)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, this is {v.major}.{v.minor}; give another with PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q --upgrade "pip>=25.1"
	$(PIP) install -q -c constraints.txt --group dev \
		-e ".[cpu,eval,train]" -e integrations/langchain -e integrations/llama_index
	@touch $@

demo: $(READY)
	@$(BIN)/fastlane demo

test: lint pytest

pytest: $(READY)
	$(BIN)/python -m pytest

test-all: lint
	$(BIN)/python -m pytest -m ""

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reproduce: $(READY)
	$(BIN)/python benchmarks/reproduce.py $(PARTS) $(if $(DATA),--data $(DATA)) $(if $(LIMIT),--limit $(LIMIT)) \
		$(if $(DATASETS),--datasets $(DATASETS))
	$(BIN)/python benchmarks/render_readme.py

wheels: $(READY)
	for package in . integrations/langchain integrations/llama_index; do \
		$(BIN)/python -m build --no-isolation --outdir dist $$package || exit 1; \
	done

clean:
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
