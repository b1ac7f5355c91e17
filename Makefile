# make demo | test | lint | bench | fuzz | survival | pictures | venv   (needs Python 3.11 to 3.13; everything else goes into .venv)
# The first of these that runs and is supported creates .venv. 3.11 comes first because all results so far are from it.
PYTHON ?= python3.11 python3.12 python3.13 python3 python
IS_SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
FOUND = $(shell for name in $(PYTHON); do $$name -c '$(IS_SUPPORTED)' 2>/dev/null && echo $$name && break; done)
NO_PYTHON = no Python 3.11 to 3.13 in $(PYTHON) (gensim has no wheels for 3.14); install one, or name it: make PYTHON=PATH
VENV_PACKAGE = $(shell $(FOUND) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
BIN := .venv/bin
DEMO := --conf conf_demo.yaml

.PHONY: venv demo test lint bench fuzz survival pictures

venv: .venv/installed

$(BIN)/pip:  # venv writes pip last; without pip, .venv is unfinished or was created by uv
	$(if $(FOUND),,$(error $(NO_PYTHON)))
	$(if $(shell $(FOUND) -c 'import ensurepip' 2>/dev/null || echo no),$(error $(FOUND) lacks venv; on Debian or Ubuntu: sudo apt install $(VENV_PACKAGE)))
	$(BIN)/python -m ensurepip --default-pip 2>/dev/null || $(FOUND) -m venv --clear .venv

.venv/installed: requirements.txt | $(BIN)/pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt requirements-sweep.txt requirements-pretrained.txt .venv/installed
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

demo: .venv/installed
	$(BIN)/python preprocessing/0_demo_dataset.py $(DEMO)
	$(BIN)/python preprocessing/1_text_cleaning.py $(DEMO)
	$(BIN)/python preprocessing/2_clotho_dataset.py $(DEMO)
	$(BIN)/python preprocessing/3_word2vec_embeddings.py $(DEMO)
	$(BIN)/python preprocessing/4_audio_logmel.py $(DEMO)
	$(BIN)/python main.py $(DEMO)
	$(BIN)/python postprocessing/1_xmodal_scores.py $(DEMO)
	$(BIN)/python postprocessing/2_xmodal_retrieval.py $(DEMO)
	$(BIN)/python postprocessing/3_report.py $(DEMO)
	$(BIN)/python postprocessing/5_explore.py $(DEMO)

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

bench: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.bench
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.growth
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.search
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.commands

fuzz: .venv/installed-dev
	$(BIN)/python -m tests.fuzz

survival: .venv/installed-dev
	$(BIN)/python -m tests.kill
	$(BIN)/python -m tests.full_disk

# The README's pictures, from the newest demo trial; needs Chromium
pictures: .venv/installed-dev
	$(BIN)/python docs/pictures.py $(DEMO)

lint: .venv/installed-dev
	$(BIN)/ruff check .
