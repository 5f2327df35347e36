# README.md and docs/first_steps.md say what each of these does. `make setup` does nothing once it is done.
SHELL := /bin/bash
IN_ENVIRONMENT := source ./env.sh &&

.PHONY: setup demo teach-demo train test test-fast coverage faults fuzz lint docs calvin simpler simpler_instruct metaworld libero clean

setup:
	@tools/setup.sh

demo: setup
	@$(IN_ENVIRONMENT) vla demo --runtime openvino

teach-demo: setup
	@$(IN_ENVIRONMENT) vla teach-demo

train: setup
	@$(IN_ENVIRONMENT) vla train --processes 2

test:
	@tools/setup.sh --tests
	@$(IN_ENVIRONMENT) tools/run_tests.sh

# Less than four minutes on two cores: no nodes, and none of the tests marked slow.
test-fast: setup
	$(IN_ENVIRONMENT) OMP_NUM_THREADS=1 pytest -n 2 -m "not nodes and not slow"

coverage:
	@tools/setup.sh --tests
	rm -rf .coverage .coverage.* build/coverage
	$(IN_ENVIRONMENT) OMP_NUM_THREADS=1 coverage run -m pytest -n 2 -m "not nodes"
	$(IN_ENVIRONMENT) coverage run -m pytest -m nodes
	$(IN_ENVIRONMENT) coverage combine --quiet && coverage html --quiet -d build/coverage && \
	  coverage report --skip-covered --sort=cover

faults:
	@tools/setup.sh --tests
	@$(IN_ENVIRONMENT) tools/run_faults.py

fuzz:
	@tools/setup.sh --tests
	@$(IN_ENVIRONMENT) PYTHONPATH="test:$$PYTHONPATH" OMP_NUM_THREADS=1 python -m fuzz

lint: setup
	$(IN_ENVIRONMENT) ruff check . && ruff format --check --quiet .
	$(IN_ENVIRONMENT) lint-imports --no-logo
	$(IN_ENVIRONMENT) mypy
	$(IN_ENVIRONMENT) codespell
	xmllint --noout package.xml launch/*.xml

# The site needs none of the rest: its tools have an environment of their own.
docs: build/docs-venv/installed
	NO_MKDOCS_2_WARNING=1 build/docs-venv/bin/mkdocs build --quiet --strict
	@echo "The site is build/site/index.html"

build/docs-venv/installed: requirements/docs.lock
	$${VLA_PYTHON:-python3} -m venv build/docs-venv
	build/docs-venv/bin/pip install --quiet --requirement requirements/docs.lock
	touch $@

# Benchmarks that need another Python environment than ours; see docs/benchmarks.md.
calvin simpler simpler_instruct metaworld libero:
	@tools/benchmark_environment.sh $@

clean:
	rm -rf .venv build install build_test install_test log
