#!/usr/bin/env bash
# Create the virtual environment and install the pinned packages into it.
# usage: create_venv.sh VENV EXTRAS        (PYTHON=/path/to/python chooses the interpreter)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 extras=$2

# dm_control needs labmaze, which has wheels for these two Pythons only (of those that the pinned NumPy supports).
supported='import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))'

find_python() {
    local candidate
    # A name on PATH need not start (pyenv's shims do not, unless their version is active), so each one is run.
    for candidate in ${PYTHON:-python3.11 python3.12 python3 python}; do
        if "$candidate" -c "$supported" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    local found
    found=$("${PYTHON:-python3}" --version 2>&1) || found="no ${PYTHON:-python3} that starts"
    echo "Expected Python 3.11 or 3.12, found ${found}." \
        "Install one of them, or name one: make PYTHON=/path/to/python3.11 ..." >&2
    return 1
}

if ! "$venv/bin/python" -c "$supported" 2>/dev/null; then
    python=$(find_python)
    echo "Creating $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi

# As environment variables the constraints reach the builds of source packages too (relative: pip splits at spaces).
PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
    "$venv/bin/python" -m pip install -e ".[$extras]" </dev/null
