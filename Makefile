# make demo | test | lint | bench | fuzz | survival | pictures | venv   (needs Python 3.11 and make; everything else goes into .venv)
PYTHON ?= python3.11
BIN := .venv/bin
DEMO := --conf conf_demo.yaml

.PHONY: venv demo test lint bench fuzz survival pictures

venv: .venv/installed

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
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

fuzz: .venv/installed-dev
	$(BIN)/python -m tests.fuzz

survival: .venv/installed-dev
	$(BIN)/python -m tests.kill
	$(BIN)/python -m tests.full_disk

# the pictures of the README, from the newest demo's report; needs Chromium
pictures: .venv/installed-dev
	$(BIN)/python docs/pictures.py $(DEMO)

lint: .venv/installed-dev
	$(BIN)/ruff check .
