#!/usr/bin/env bash
# Finds a Python that really runs (a version manager's shim may not) and starts the set-up with it.
# VLA_PYTHON names another one.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
usable='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'

find_python() {
  local candidate
  for candidate in ${VLA_PYTHON:-"$root/.venv/bin/python" python3.12 python3.11 python3.10 python3}
  do
    if "$candidate" -S -c "$usable" > /dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

if ! python=$(find_python); then
  if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    echo "vla_ros set-up: installing Python"
    { apt-get update && apt-get install -y --no-install-recommends python3; } > /dev/null
    python=$(find_python) || true
  fi
  if [ -z "${python:-}" ]; then
    echo "vla_ros set-up: no Python 3.10, 3.11 or 3.12 found. Install one, for example" \
      "'sudo apt-get install python3', or name it: VLA_PYTHON=/path/to/python3.12 make setup" >&2
    exit 1
  fi
fi
# -S: the set-up needs only the standard library, and the environment's start-up hooks take time.
exec "$python" -S "$root/tools/setup_environment.py" "$@"
