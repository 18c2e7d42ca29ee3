#!/usr/bin/env bash
# Checks everything: makes .venv if it is absent, installs the package, runs ruff, mypy and pytest.
# Arguments go to pytest: bash scripts/test.sh tests/training/test_optim.py -k adagrad
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install test

say "ruff"
"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m ruff format --check .
say "mypy"
"$VENV/bin/python" -m mypy
say "pytest"
"$VENV/bin/python" -m pytest "$@"
say "all checks passed"
