# make quickstart   makes the environment, installs edgevit and runs the quickstart
# make test         lint, types, import rules and the tests of the default tier
# make test-slow    the slow tier
# make coverage     the default tests with the share of lines and branches that they run; a page in htmlcov/
# make dist         the source archive and the wheel in dist/, checked
# make docs         builds the documentation into build/docs
# make figures      fills in the numbers and tables that the README and docs/ cite
# make test-isa     the tests of the default tier twice, in older instruction sets than this CPU's (x86-64 alone)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Each library reads one variable: PyTorch's kernels ATEN_…, its MKL MKL_…, the OpenBLAS of NumPy and SciPy OPENBLAS_…,
# NumPy's sorts and functions NPY_… (names of NumPy 2.4). ONNX Runtime has none; MKL_DEBUG_CPU_TYPE does nothing any more.
# oneDNN (convolutions in PyTorch) is left alone: OpenVINO reads ONEDNN_MAX_CPU_ISA too and then fails.
SSE := ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Nehalem \
	NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR"
AVX2 := ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell \
	NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR"

.PHONY: quickstart test test-default test-slow test-isa coverage dist docs figures lint format clean

quickstart: $(VENV)/installed
	$(BIN)/edgevit run quickstart

test: lint test-default

test-default: $(VENV)/installed-dev
	$(BIN)/pytest -q -m "not slow" -n 2 --dist worksteal

test-slow: $(VENV)/installed-dev
	$(BIN)/pytest -q -m slow

test-isa: $(VENV)/installed-dev
	$(BIN)/pytest -q tests/test_instruction_sets.py
	$(SSE) $(BIN)/pytest -q -m "not slow" -n 2 --dist worksteal
	$(AVX2) $(BIN)/pytest -q -m "not slow" -n 2 --dist worksteal

coverage: $(VENV)/installed-dev
	$(BIN)/pytest -q -m "not slow" -n 2 --dist worksteal --cov --cov-report=term --cov-report=html

dist: $(VENV)/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[release]'
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

docs: $(VENV)/installed-dev
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "open build/docs/index.html"

figures: $(VENV)/installed-dev
	$(BIN)/python -m docs.generate figures

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgevit needs Python 3.11 or later; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist htmlcov .coverage* *.egg-info
