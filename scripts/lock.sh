#!/usr/bin/env bash
# Remake requirements.lock with uv, in a throw-away venv. Arguments go to `uv pip compile` (--upgrade, say).
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet uv

# setuptools and wheel: what `pip install --no-build-isolation` builds the project with.
[ ! -f requirements.lock ] || cp requirements.lock "$scratch/lock"
printf '%s\n' setuptools wheel | "$scratch/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 \
  --all-extras --no-header --no-annotate --no-emit-index-url "$@" -o "$scratch/lock" pyproject.toml - >/dev/null

# "On Linux, macOS or Windows" is true of all that we support: drop that marker.
everywhere="sys_platform == 'darwin' or sys_platform == 'linux' or sys_platform == 'win32'"
{
  echo "# Every package of the core and of all extras, for Python 3.11-3.13 on Linux, macOS and Windows."
  echo "# Made from pyproject.toml by \`make lock\` (uv pip compile --universal); do not edit."
  sed -e "s/ ; $everywhere\$//" -e "s/ and ($everywhere)\$//" "$scratch/lock"
} >requirements.lock
echo "requirements.lock: $(grep -c == requirements.lock) pins"
