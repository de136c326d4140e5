# make quickstart | test | lint | bench | docs | gpu-bundle | release. The first one run creates .venv and installs; later ones
# start at once.
#   make test VENV=path/to/venv     uses another virtual environment (created when absent)
#   make quickstart PYTHON=python3.12 SEED=1

PYTHON ?= python3
VENV ?= .venv
SEED ?= 0
EXTRAS ?= test,viz,fast-eval,tensorboard
ARGS ?=

DATA := output/shapes
RUN := output/quickstart
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.detrex_ext-installed
LINTER := $(VENV)/.detrex_ext-linter
SITE := $(VENV)/.detrex_ext-docs
PACKER := $(VENV)/.detrex_ext-packer

# This checkout is what runs, also where VENV is shared with another one.
export PYTHONPATH := $(CURDIR)

# Of the machine that gpu-bundle is for: versions of its Python with commas, its processor.
GPU_PYTHON ?= 3.12
GPU_MACHINE ?= x86_64
GPU_BUNDLE ?= dist/gpu-bundle

.PHONY: help install quickstart test lint bench docs gpu-bundle release
.DELETE_ON_ERROR:

help:
	@sed -n '1,4s/^# \{0,1\}//p' Makefile

install: $(INSTALLED)

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	@$(PYTHON) -m venv $(VENV)

$(INSTALLED): setup.py | $(PY)
	@echo "Installing into $(VENV), once (torch is large: some minutes) ..."
	@$(PY) -m pip install -q --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

$(LINTER): setup.py | $(PY)
	@$(PY) -m pip install -q --disable-pip-version-check ruff
	@touch $@

$(SITE): setup.py | $(PY)
	@$(PY) -m pip install -q --disable-pip-version-check -e '.[docs]'
	@touch $@

# The commands are shown as they run: they are the ones to use on other data.
quickstart: $(INSTALLED)
	$(PY) -m detrex_ext.data.shapes $(DATA)
	$(PY) tools/train_net.py --config-file configs/quickstart.py train.output_dir=$(RUN) train.overwrite=true train.seed=$(SEED) $(ARGS)
	$(PY) tools/predict.py $(RUN) '$(DATA)/images/val_0000*.png' --ground-truth $(DATA)/val.json --threshold 0.4 --output $(RUN)/images
	$(PY) tools/plot_curves.py $(RUN)
	@$(PY) -c 'import json; r = json.load(open("$(RUN)/evaluation.json"))["results"]["bbox"]; \
		print("\nvalidation " + "  ".join(f"{k} {v:.1f}" for k, v in r.items() if v is not None))'
	@echo "predictions beside ground truth: $(RUN)/images/*.png    curves: $(RUN)/curves.png"

test: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -m 'not slow' $(ARGS)

# Layout is written by hand at 120 columns: `ruff format` is not part of the check.
lint: $(LINTER)
	@$(PY) -m ruff check .

bench: $(INSTALLED)
	@$(PY) tools/benchmark.py $(or $(SUITE),criterion) $(ARGS)

# Of the Markdown files and the docstrings; a link that leads nowhere is an error. Nothing is imported or fetched.
docs: $(SITE)
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict $(ARGS)
	@echo "output/site/index.html"

# For a machine with a GPU and without a package index: copy the folder, then `sh run.sh` there.
gpu-bundle: $(INSTALLED)
	@$(PY) -m detrex_ext.gpu_check.bundle $(GPU_BUNDLE) --python $(GPU_PYTHON) --machine $(GPU_MACHINE) $(ARGS)

$(PACKER): setup.py | $(PY)
	@$(PY) -m pip install -q --disable-pip-version-check build twine
	@touch $@

# sdist and wheel in dist/, tried in a fresh environment; PACKAGES=DIR takes those of a folder in place of a download
release: $(PACKER)
	@.ci/release $(PY) $(PACKAGES)
