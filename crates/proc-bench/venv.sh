#!/usr/bin/env bash
# Installs the peers in Python where the benchmark looks for them: target/bench-venv.
#
#   venv.sh          pools on one machine
#   venv.sh fleets   those, and fleets: Ray, Dask, mpi4py with Open MPI (some 400 MB)
set -euo pipefail
cd "$(dirname "$0")"

venv=../../target/bench-venv
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r python/requirements.txt \
  ${1:+-r "python/requirements-$1.txt"}
