# Each target does its own set-up in .venv; a second run starts at once.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
PRESET ?= demo
SEED ?= 0
RUN := runs/$(PRESET)$(if $(filter-out 0,$(SEED)),-seed$(SEED))
# Threads that wait for one another spin only briefly: on a busy machine they would rob the ones they wait for.
export GOMP_SPINCOUNT ?= 5000
# What one layer frees the next one takes; given back to the system in between, each page would be made anew.
export MALLOC_MMAP_THRESHOLD_ ?= 33554432
export MALLOC_TRIM_THRESHOLD_ ?= 4294967296
PIP := .venv/bin/pip install --disable-pip-version-check
# uv finds out which build of PyTorch the machine needs; without a GPU that is 5 GB less than what pip takes. An index
# given to pip is used by pip.
UV := $(if $(PIP_INDEX_URL),,$(shell command -v uv))
define install
	@$(if $(UV),$(UV) pip install --python .venv/bin/python --torch-backend auto $(1) \
		|| { echo "uv cannot install that from PyTorch's index: pip does it from its own."; $(PIP) $(1); },$(PIP) $(1))
endef
PAPERMILL := .venv/bin/papermill --no-progress-bar --log-output
QUIETLY := grep --line-buffered -vE '^(Input Notebook|Output Notebook|Executing|Ending|Black|\[IPKernelApp|<IPython|dcal_core [0-9a-f]+)|^$$'
EXPORT := .venv/bin/jupyter nbconvert --to html --TagRemovePreprocessor.enabled=True \
	--TagRemovePreprocessor.remove_cell_tags core

.PHONY: demo test test-browser bench bench-deploy gpu ablation lint notebooks outputs docs kaggle clean

.venv/installed: requirements.txt pyproject.toml setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv with $(if $(UV),uv,pip): 2 to 10 minutes, and 2 GB, or 6.5 GB with a CUDA build of PyTorch" \
		"$(if $(UV),(taken only where there is a GPU for it).,(which pip takes on Linux: docs/running.md says how it does not).)"
	$(call install,--editable .)
	touch $@

.venv/installed-tests: .venv/installed tests/requirements.txt requirements-export.txt requirements-faces.txt requirements-page.txt requirements-tensorboard.txt
	$(call install,--editable ".[test]")
	$(call install,--no-deps insightface==2.1)  # only for the photographs that it carries
	touch $@

# Drawn twins, CPU, about 4 minutes: trains, evaluates and explains; SEED=1 for another run beside it, and
# PRESET=adaface_demo for the face network.
demo: .venv/installed
	@.venv/bin/python build_notebooks.py > /dev/null
	@mkdir -p $(RUN)
	@for notebook in train evaluate attention; do \
		echo "== $$notebook.ipynb"; \
		seed=$$([ $$notebook = train ] && echo "-p seed $(SEED)" || true); \
		$(PAPERMILL) notebooks/$$notebook.ipynb $(RUN)/$$notebook.ipynb -p preset $(PRESET) -p run_dir $(RUN) $$seed 2>&1 \
			| $(QUIETLY); \
		$(EXPORT) $(RUN)/$$notebook.ipynb 2> /dev/null; \
	done
	@.venv/bin/python -c 'import json; r = json.load(open("$(RUN)/report.json")); e = r["metrics"]["eer"]; \
		print("Score: EER %.1f %% (95 %% interval %.1f to %.1f) on %d unseen families, %s" % \
		(100 * e["value"], 100 * e["low"], 100 * e["high"], r["metrics"]["counts"]["families"], r["data"]))'
	@echo "Report: $(RUN)/report.html and report.json; notebooks: $(RUN)/evaluate.html, attention.html; figures: $(RUN)/figures/"

# Two processes of one thread each; the tests of a file share what they make, so a file stays in one process. Their
# order is that of tests/conftest.py, the longest files first.
test: .venv/installed-tests
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The attention browser in Chromium under today's JupyterLab and under Kaggle's: the kernel of the latter takes its
# widgets from .venv-kaggle, and all else from .venv. Chromium comes from the system (apt install chromium).
KAGGLE_LAB := jupyterlab==3.6.8 jupyter_server==2.12.5 ipywidgets==8.1.5 jupyterlab_widgets==3.0.13 'ipykernel<7'
.venv-kaggle/installed: .venv/installed-tests
	$(PYTHON) -m venv .venv-kaggle
	.venv-kaggle/bin/pip install --quiet --disable-pip-version-check $(KAGGLE_LAB)
	for folder in .venv-kaggle/lib/python*/site-packages; do \
		.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$folder/after_these.pth; \
	done
	touch $@

test-browser: .venv-kaggle/installed
	.venv/bin/python -m pytest -m browser

# Speed and memory against a plain vision transformer, each as a ratio in this run; BENCH holds its options.
bench: .venv/installed
	.venv/bin/python -m benchmarks.speed $(BENCH)

# Each exported form beside eager PyTorch: speed, size, memory and what 8 bits cost; DEPLOY holds its options.
bench-deploy: .venv/installed-tests
	.venv/bin/python -m benchmarks.deploy $(DEPLOY)

# All that is claimed of a GPU, on one of a data centre, in at most eight minutes; GPU holds its options.
gpu: .venv/installed
	.venv/bin/python -m benchmarks.gpu $(GPU)

# Which part of the method helps, on drawn twins; goes on where it was stopped. ABLATION holds its options.
ablation: .venv/installed
	.venv/bin/python -m benchmarks.ablation $(ABLATION)

lint: .venv/installed-tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

notebooks: .venv/installed
	.venv/bin/python build_notebooks.py

# What the committed notebooks show, from the demo's finished run and a check of its data.
outputs: .venv/installed
	@$(PAPERMILL) notebooks/prepare.ipynb runs/demo/prepare.ipynb -p preset demo -p run_dir runs/prepare 2>&1 | $(QUIETLY)
	.venv/bin/python -m notebooks_src.builder.outputs runs/demo
	.venv/bin/python build_notebooks.py

# What the tool `kaggle` publishes for USER, with DATA, the dataset of faces, attached: docs/running.md.
kaggle: .venv/installed
	@$(if $(filter command line,$(origin USER)),,echo "give your name on Kaggle: make kaggle USER=name"; exit 2)
	@.venv/bin/python -m notebooks_src.builder.kaggle $(USER) $(if $(DATA),--data $(DATA))

# The pages of docs/ that are made from the code.
docs: .venv/installed
	.venv/bin/python docs/list_parameters.py
	.venv/bin/python docs/house.py

# What can be made again: drawn faces, decoded images and the caches of tools. Runs, and what trackers keep, stay.
clean:
	@[ ! -e runs/scratch ] || du -sh runs/scratch
	rm -rf runs/scratch build
	find . -name .venv\* -prune -o -type d \
		\( -name __pycache__ -o -name .pytest_cache -o -name .ruff_cache -o -name .hypothesis -o -name .ipynb_checkpoints \) \
		-prune -exec rm -rf {} +
