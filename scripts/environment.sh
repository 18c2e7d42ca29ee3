# Sourced by demo.sh, docs.sh and test.sh: makes .venv if it is absent and installs the package into it.
# Needs a Python (3.10 or newer) with the modules pip and venv, and nothing else.
# Choose the Python with PYTHON=/path/to/python3; choose another folder with VENV=/path.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV="${VENV:-.venv}"

say() { printf '\n== %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# is_new_enough PYTHON: true when it runs and is 3.10 or newer.
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

# find_python: the first Python on this machine that is new enough.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        if is_new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "Python 3.10 or newer is needed; ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1 || true)." \
        "Install one, or name it: PYTHON=/path/to/python3.12 bash $0"
}

# install EXTRAS: an editable install with these extras, skipped when setup.cfg has not changed since.
install() {
    local stamp
    if [ ! -x "$VENV/bin/python" ]; then
        local python
        python="$(find_python)"
        say "making the virtual environment $VENV with $("$python" --version 2>&1)"
        "$python" -m venv "$VENV" || fail "could not make $VENV: on Debian and Ubuntu, apt install python3-venv"
    elif ! is_new_enough "$VENV/bin/python"; then
        fail "$VENV holds $("$VENV/bin/python" --version 2>&1); 3.10 or newer is needed. Remove it and run again."
    fi
    stamp="$(cksum < setup.cfg) $PWD"
    if [ "$(cat "$VENV/.installed-$1" 2>/dev/null || true)" = "$stamp" ]; then
        return
    fi
    say "installing tvm_cavs with its dependencies ($1) into $VENV: some 150 MB the first time"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$1]" ||
        fail "pip could not install the dependencies (see above). Is the network reachable?"
    printf '%s\n' "$stamp" > "$VENV/.installed-$1"
}
