#!/usr/bin/env bash
# Installs Python's peers where the benchmark looks for them: target/bench-venv.
set -euo pipefail
cd "$(dirname "$0")"

venv=../../target/bench-venv
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check -r python/requirements.txt
