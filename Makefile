# What each of these does is said in README.md. `make setup` does nothing once it is done.
SHELL := /bin/bash
IN_ENVIRONMENT := source ./env.sh &&

.PHONY: setup demo teach-demo train test faults fuzz lint clean

setup:
	@tools/setup.sh

demo: setup
	@$(IN_ENVIRONMENT) vla demo

teach-demo: setup
	@$(IN_ENVIRONMENT) vla teach-demo

train: setup
	@$(IN_ENVIRONMENT) vla train

# Node tests start several processes each, so they run one at a time.
test:
	@tools/setup.sh --tests
	$(IN_ENVIRONMENT) OMP_NUM_THREADS=1 pytest -n 2 -m "not nodes"
	$(IN_ENVIRONMENT) pytest -m nodes

faults:
	@tools/setup.sh --tests
	@$(IN_ENVIRONMENT) tools/run_faults.py

fuzz:
	@tools/setup.sh --tests
	@$(IN_ENVIRONMENT) PYTHONPATH="test:$$PYTHONPATH" OMP_NUM_THREADS=1 python -m fuzz

lint: setup
	$(IN_ENVIRONMENT) ruff check . && ruff format --check --quiet .
	xmllint --noout package.xml launch/*.xml

clean:
	rm -rf .venv build install build_test install_test log
