# Everything here works on a fresh machine that has Python >= 3.11 and make; nothing is compiled.
# Packages come from locks/ with their hashes. What is installed lives in .venv/ and .cache/.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OPA    := .cache/bin/opa
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --only-binary=:all:

.PHONY: all run test lint types layers check format bench lock opa clean

all: $(VENV)/dev.ok

run: $(VENV)/run.ok          ## set up what running needs, then show what cld does on a real tree
	$(BIN)/cld tour

test: $(VENV)/dev.ok opa     ## set everything up, then run all tests
	$(BIN)/pytest --numprocesses auto --dist worksteal

lint: $(VENV)/dev.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.ok
	$(BIN)/pyright

layers: $(VENV)/dev.ok
	$(BIN)/lint-imports

check: test lint types layers

format: $(VENV)/dev.ok
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.ok        ## every figure, as a ratio against its yardstick in the same run
	for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

# The compiler of the rules. Tests that need it are skipped with a loud reason where it cannot be had,
# and fail in CI; running cld never needs it.
opa: $(VENV)/run.ok
	@test -x $(OPA) || $(BIN)/cld policy install-opa --to $(OPA) || \
		echo "WARNING: no opa, so the tests of the rules' sources are skipped" >&2

$(VENV)/run.ok: locks/run.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r locks/run.lock
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/dev.ok: locks/dev.lock $(VENV)/run.ok
	$(PIP) --require-hashes -r locks/dev.lock
	touch $@

# Needs uv. The locks name versions and hashes, never where they came from.
LOCK = uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links --quiet

lock:
	$(LOCK) --extra knowledge --extra models --group install -o locks/run.lock
	$(LOCK) --all-extras --group dev -o locks/dev.lock

clean:
	rm -rf $(VENV) .cache dist
