#!/usr/bin/env bash
# Checks everything: makes .venv if it is absent, installs the package, runs ruff, mypy,
# the import rules of setup.cfg and pytest.
# Tests run in one process a core, all of a file in one. Arguments go to pytest:
# bash scripts/test.sh tests/training/test_optim.py -k adagrad
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install test

say "ruff"
"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m ruff format --check .
say "mypy"
"$VENV/bin/python" -m mypy
if "$VENV/bin/python" -c "import importlinter" 2>/dev/null; then # its versions need Python 3.11
    say "import rules"
    "$VENV/bin/lint-imports" setup.cfg
fi
say "pytest"
"$VENV/bin/python" -m pytest --numprocesses auto --dist loadfile "$@"
say "all checks passed"
