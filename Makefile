# Each target works alone on a fresh clone; a second run starts in seconds.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

STAGE ?= tokenizer
CORPUS ?= $(firstword $(wildcard data/speech ../*/data/speech)) $(patsubst %/manifest.tsv,%,$(wildcard build/dialogues/manifest.tsv build/listening/manifest.tsv))
WORDNET ?= /usr/share/wordnet
RESULTS ?= $(wildcard ../*/gpu)

.PHONY: serve test fast dialogues listening gpu-pack test-gpu bench-gpu clean

serve: $(VENV)/.serve
	$(BIN)/speechgpt-gen serve

# The whole suite; `make fast` leaves out what takes more than a few seconds.
test: $(VENV)/.test web_client/node_modules tests/e2e/agents/node_modules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p speechgpt_gen
	$(BIN)/lint-imports
	npm --prefix web_client run --silent check
	$(BIN)/pytest

fast: $(VENV)/.test
	$(BIN)/pytest -m "not slow and not browser"

# The GPU's tests, exactness first, on a machine with nothing but Python, torch, Triton, transformers and pytest: no
# network is asked, nothing is installed. Without a GPU they run in Triton's interpreter or say why they don't.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
GPU_TESTS := $(sort $(wildcard tests/kernels/test_gpu_*.py)) $(sort $(filter-out tests/kernels/%,$(wildcard tests/*/test_gpu_*.py tests/*/*/test_gpu_*.py)))
test-gpu:
	PYTHONPATH=. $(GPU_PYTHON) -m pytest -rs --durations=5 $(GPU_TESTS)

# Every benchmark of the GPU engine, each in a process of its own, in under nine minutes; results go to OUT. Needs
# Python, torch, Triton, numpy and transformers as they are on the machine: no virtual environment, no network.
bench-gpu: OUT ?= gpu-results
bench-gpu:
	PYTHONPATH=$(CURDIR) $(GPU_PYTHON) -m speechgpt_gen.streaming.bench all --out $(OUT)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@ $(VENV)/.serve

%/node_modules: %/package.json %/package-lock.json
	npm --prefix $* ci --silent
	touch $@

# The package's own dialogues, read aloud: twenty minutes on two cores, resumed if stopped. Packs take them along.
dialogues: $(VENV)/.serve
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[synthesise]"
	$(BIN)/speechgpt-gen train prepare build/dialogues --run build/dialogues-run --synthesise --mixtures 300 --exercises 150 --jobs 2

# More to hear: WordNet's examples, and the corpus' questions in other words, read by an engine that is quick.
listening: $(VENV)/.serve
	@test -n "$(CORPUS)" || { echo "error: no corpus to reword: make listening CORPUS=FOLDER" >&2; exit 1; }
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[synthesise]"
	mkdir -p build/listening-texts
	cp $(firstword $(CORPUS))/pairs.tsv build/listening-texts
	$(BIN)/python -m speechgpt_gen.models.training.synthesis.wordnet $(WORDNET) build/listening-texts --beside $(firstword $(CORPUS))
	$(BIN)/speechgpt-gen train prepare build/listening --run build/listening-run --synthesise --engines pico --texts build/listening-texts --reworded 11000 --exercises 150 --jobs 2

# What a bare GPU machine needs to train STAGE, in folders of at most 60 MiB; models/training/gpu_slice.sh takes them.
gpu-pack: $(VENV)/.serve
	$(BIN)/python -m speechgpt_gen.models.training.slices.pack $(CORPUS) build/gpu/$(STAGE) --earlier $(RESULTS)

clean:
	rm -rf $(VENV) web_client/node_modules tests/e2e/agents/node_modules build *.egg-info
