# `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## */\1\t/' | expand -t 10

install: $(VENV)/.installed  ## make .venv from the pinned versions of envs/requirements.txt

$(VENV)/.installed: envs/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed, this is %d.%d; try make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r envs/requirements.txt
	touch $@

report: install  ## run the demo study: from rendered characters to reports/demo/index.html
	$(BIN)/snakemake --cores all --config study=demo
	@echo "report: reports/demo/index.html"

test: install  ## run all tests
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

fidelity: install  ## compare every piece with what the paper did: reports/fidelity/
	$(BIN)/pytest -m fidelity --fidelity reports/fidelity
	$(BIN)/python fidelity/search.py --output reports/fidelity --jobs 2

league: install  ## put the methods of all finished studies on one scale: reports/league/index.html
	$(BIN)/python -m dml.league results/* --output reports/league

index: install  ## list all studies with what was found and their reports: reports/index.html
	$(BIN)/python -m dml.index reports --results results

bench: install  ## measure how fast everything is beside its peers: reports/benchmarks/index.html
	$(BIN)/python -m benchmarks

clean:  ## remove what studies and benchmarks made (results, reports, logs); data stays
	rm -rf results logs $(filter-out reports/README.md reports/example,$(wildcard reports/*))

.PHONY: help install report test fidelity league index bench clean
