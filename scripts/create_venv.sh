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

# The codec `delta` is compiled while the library is installed. Without a compiler it is installed all the same, but slow.
headers='import os, sysconfig; print(os.path.join(sysconfig.get_path("include"), "Python.h"))'
compiler() { "${CC:-cc}" --version >/dev/null 2>&1 && [ -f "$("$venv/bin/python" -c "$headers")" ]; }
if ! compiler; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing a C compiler, for the codec delta"
        { apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev; } || true
    fi
    compiler || echo "Expected a C compiler and Python's headers, without which the codec delta is slow, found none." \
        "Install them (as root: apt-get install gcc libc6-dev python3-dev), then run: make --always-make setup" >&2
fi

# As environment variables the constraints reach the builds of source packages too (relative: pip splits at spaces).
PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
    "$venv/bin/python" -m pip install -e ".[$extras]" </dev/null
