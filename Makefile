# make demo    sets up .venv once, trains and evaluates on an embedded corpus, leaves runs/demo/
# make test    units, seams between the stages, parity with other libraries
# make help    all targets and their settings

.DELETE_ON_ERROR:
.PHONY: help setup demo demo-mt4ssl spoken-digits speechocean schedules branches few-pairs speech-branches bench test lint clean distclean
SHELL := /bin/bash

VENV ?= .venv
BIN := $(VENV)/bin
# What pip is told about torch. On Linux PyPI's build carries CUDA (gigabytes); for the small CPU build where
# its index can be reached:  make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
OUT ?=
FRESH ?=
RECORDINGS ?=
TEST_SPEAKERS ?=
SPEECH ?=
MORE ?=
DATA ?=
UPDATES ?=
SEEDS ?=

# OpenMP threads that wait by spinning slow each other down many times over as soon as a core is shared.
export GOMP_SPINCOUNT ?= 100

help:
	@echo 'make demo           [OUT=runs/demo] [FRESH=1]   train, evaluate and picture (W2V2, VGS) and VGS; no download'
	@echo 'make demo-mt4ssl    [OUT=runs/mt4ssl] [FRESH=1] labels, MT4SSL, CTC fine-tuning, decoding; no download'
	@echo 'make spoken-digits  RECORDINGS=DIR [TEST_SPEAKERS=a,b] [OUT=runs/digits] [FRESH=1]   the same on real speech'
	@echo 'make speechocean    SPEECH=DIR MORE=DIR [SEEDS=1,2,3] [OUT=runs/speechocean] [FRESH=1] [ARGS="--record DIR"]'
	@echo '                    MT4SSL on real speech: both kinds of targets against each alone, unseen speakers'
	@echo 'make schedules      [SEEDS=1,2,3] [UPDATES=N] [DATA=DIR] [OUT=runs/schedules] [FRESH=1] [ARGS=…]'
	@echo '                    the nine schedules of the paper: Tables I and II, Figures 2 and 3; no download'
	@echo 'make branches       [as schedules]   the nine and HuBERT, data2vec and MT4SSL in place of wav2vec 2.0'
	@echo 'make few-pairs      [SEEDS=1,2,3] [UPDATES=N] [DATA=DIR] [OUT=runs/few_pairs] [FRESH=1] [ARGS=…]'
	@echo '                    VGS on a part of the pairs, self-supervision on all captions; no download'
	@echo 'make speech-branches [SEEDS=1,2,3] [UPDATES=N] [OUT=runs/branches] [FRESH=1] [ARGS=…]'
	@echo '                    wav2vec 2.0, HuBERT, data2vec, MT4SSL and BEST-RQ on speech alone; no download'
	@echo 'make bench          [OUT=runs/bench] [ARGS="--only mt4ssl --rounds 1"]   ours against fairseq'"'"'s modules'
	@echo 'make test           [ARGS="-k retrieval"]       all tests'
	@echo 'make lint           ruff and mypy'
	@echo 'make setup          only $(VENV); PYTHON=python3.12 and TORCH=… choose its interpreter and its torch'
	@echo 'make clean          caches and builds; make distclean also removes $(VENV) and runs/'

# --- set-up: each stamp is one finished step, so nothing is done twice ------------------------------------

SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3 python; do \
	"$$p" -c '$(SUPPORTED)' 2>/dev/null && { echo "$$p"; break; }; done)

setup: $(VENV)/.installed

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo 'No Python 3.10, 3.11 or 3.12 found ('"$$(python3 --version 2>&1)"' is python3).' \
		'Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11' >&2; exit 1; }
	@"$(PYTHON)" -c '$(SUPPORTED)' || { echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1); fairseq and this package" \
		'need Python 3.10, 3.11 or 3.12. Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11' >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

# torch first and by itself: fairseq compiles against it, and left alone pip would fetch a second one for that
$(VENV)/.torch: $(VENV)/.created
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install $(TORCH)
	@touch $@

# No isolated build, hence the torch above. Its six small extensions are compiled without debug symbols and with
# light optimisation: a third of the time, and training does not run through them.
$(VENV)/.fairseq: $(VENV)/.torch
	@echo 'Compiling fairseq (one to three minutes, once) …'
	$(BIN)/pip install -q -c constraints.txt setuptools wheel cython numpy
	PATH="$(abspath $(BIN)):$$PATH" CFLAGS='-g0 -O1' \
		$(BIN)/pip install -q --no-build-isolation -c constraints.txt 'fairseq-fixed==0.12.3.*'
	@touch $@

$(VENV)/.installed: setup.py pyproject.toml constraints.txt $(wildcard fairseq_mtssl/kernels/native*.[ch]*) | $(VENV)/.fairseq
	$(BIN)/pip install -q --no-build-isolation -c constraints.txt -e '.[demo,dev]'
	@touch $@

# An oracle of the tests alone. It asks for a torchaudio that does not load beside a CPU torch, hence --no-deps;
# where it cannot be fetched or compiled, the tests that want it skip and say so.
$(VENV)/.oracles: $(VENV)/.installed
	$(BIN)/pip install -q --no-deps zerospeech-libriabx2==0.9.8 && touch $@ \
		|| echo 'zerospeech-libriabx2 did not install: its ABX tests will skip'

# --- the main job ------------------------------------------------------------------------------------------

demo: $(VENV)/.installed
	$(BIN)/python examples/demo/run.py --out '$(or $(OUT),runs/demo)' $(if $(FRESH),--fresh)

demo-mt4ssl: $(VENV)/.installed
	$(BIN)/python examples/mt4ssl/run.py --out '$(or $(OUT),runs/mt4ssl)' $(if $(FRESH),--fresh)

spoken-digits: $(VENV)/.installed
	@test -n '$(RECORDINGS)' || { echo 'Which recordings? make spoken-digits RECORDINGS=DIR, a folder of' \
		'{digit}_{speaker}_{take}.wav files (Free Spoken Digit Dataset, folder recordings/)' >&2; exit 1; }
	$(BIN)/python examples/spoken_digits/run.py --recordings '$(RECORDINGS)' --out '$(or $(OUT),runs/digits)' \
		$(if $(TEST_SPEAKERS),--test-speakers '$(TEST_SPEAKERS)') $(if $(FRESH),--fresh)

# A day's work of two cores; run again, it goes on.
speechocean: $(VENV)/.installed
	@test -n '$(SPEECH)' -a -n '$(MORE)' || { echo 'Which recordings? make speechocean SPEECH=DIR MORE=DIR, the folders' \
		'of aligned speech (wav, text.tsv, phones.tsv) and of further speech (audio, text.tsv)' >&2; exit 1; }
	$(BIN)/python examples/speechocean/run.py --speech '$(SPEECH)' --more '$(MORE)' \
		--out '$(or $(OUT),runs/speechocean)' $(if $(SEEDS),--seeds '$(SEEDS)') $(if $(FRESH),--fresh) $(ARGS)

schedules branches: $(VENV)/.installed
	PYTHON='$(BIN)/python' bash examples/schedules/run.sh --out '$(or $(OUT),runs/schedules)' \
		$(if $(filter branches,$@),--branches) \
		$(if $(SEEDS),--seeds '$(SEEDS)') $(if $(UPDATES),--updates '$(UPDATES)') \
		$(if $(DATA),--data '$(DATA)') $(if $(FRESH),--fresh) $(ARGS)

few-pairs: $(VENV)/.installed
	$(BIN)/python examples/few_pairs/run.py --out '$(or $(OUT),runs/few_pairs)' \
		$(if $(SEEDS),--seeds '$(SEEDS)') $(if $(UPDATES),--updates '$(UPDATES)') \
		$(if $(DATA),--data '$(DATA)') $(if $(FRESH),--fresh) $(ARGS)

speech-branches: $(VENV)/.installed
	$(BIN)/python examples/branches/run.py --out '$(or $(OUT),runs/branches)' \
		$(if $(SEEDS),--seeds '$(SEEDS)') $(if $(UPDATES),--updates '$(UPDATES)') $(if $(FRESH),--fresh) $(ARGS)

# About 20 minutes on two quiet cores; whatever else runs there meanwhile shows in the table.
bench: $(VENV)/.installed
	$(BIN)/python examples/benchmark/run.py --out '$(or $(OUT),runs/bench)' $(ARGS)

# --- developing --------------------------------------------------------------------------------------------

test: $(VENV)/.installed $(VENV)/.oracles
	$(BIN)/python -m pytest -q $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis outputs multirun
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

distclean: clean
	rm -rf $(VENV) runs
