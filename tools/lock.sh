#!/usr/bin/env bash
# Writes requirements/*.lock anew from requirements/*.in. Versions in the old locks are kept where
# they still fit; "tools/lock.sh --upgrade" moves everything forward. Needs uv (pip install uv).
set -euo pipefail
cd "$(dirname "$0")/../requirements"
for distribution in jazzy kilted; do
  uv pip compile --quiet --universal --python-version 3.10 --no-annotate --no-header \
    --excludes excluded.txt --output-file "$distribution.lock" "$@" \
    python.in "ros-$distribution.in" > /dev/null
  # uv repeats on every line that this is for Linux.
  sed -i -e "s/ ; sys_platform == 'linux'$//" -e "s/ and sys_platform == 'linux'//g" \
    -e '1i # Written by tools/lock.sh: every package of the environment but torch. Do not edit.' \
    "$distribution.lock"
done
