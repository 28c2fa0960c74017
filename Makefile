# Two commands are enough: `make run`, then `make test`.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# made fresh unless an earlier installation was finished
CLEAR := $(if $(wildcard $(READY)),,--clear)
# Tiny ImageNet cannot be downloaded: its chapter runs where the data set is
TINY := $(shell test -d "$${LINF_DATA:-data}/tiny-imagenet-200" && echo there)
CHAPTERS = $(filter-out $(if $(TINY),,book/tiny_imagenet.ipynb),$(wildcard book/*.ipynb))

# as `import lib` has it, for what imports torch first
ifndef OMP_WAIT_POLICY
export GOMP_SPINCOUNT ?= 10000
endif

.PHONY: help setup run test lint tables bench book book-full

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s%s\n", $$1, $$2 }' Makefile

setup: $(READY)  ## make .venv and install what constraints.txt pins

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit("Python is %d.%d, expected 3.11 to 3.13: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(CLEAR) .venv
	@rm -f $(READY)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[book,sweep,test]'
	@touch $(READY)

run: $(READY)  ## one row end to end on real digits: train, certify, attack, compare
	@mkdir -p runs
	$(BIN)/papermill book/quickstart.ipynb runs/quickstart.ipynb
	@$(BIN)/python -m lib show runs/digits/linf-dist-net/quick-0.json
	@echo "notebook: runs/quickstart.ipynb"

test: lint  ## everything that has to hold before a change goes in
	$(BIN)/pytest tests --cov --cov-report=term:skip-covered --cov-fail-under=90
	$(BIN)/pytest --ignore-glob='*.py' # the chapters of testpaths, apart: nbval measures coverage in a way of its own, and hangs
	$(MAKE) book

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tables: $(READY)  ## rewrite book/_generated/ from the ledger
	$(BIN)/python -m lib tables

bench: $(READY)  ## measure the operations on this machine, which should be quiet: bench/results/
	$(BIN)/python -m bench
	$(BIN)/python -m bench.gpu_code

book: $(READY)  ## the site, from the committed outputs: book/_build/html/index.html
	$(BIN)/jupyter-book build --all -W --keep-going book/

book-full: $(READY)  ## run every chapter at its default size, then the site
	@mkdir -p runs/book
	set -e; for chapter in $(CHAPTERS); do $(BIN)/papermill $$chapter runs/$$chapter; done
	$(MAKE) book
