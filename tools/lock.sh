#!/usr/bin/env bash
# Writes requirements/*.lock and environments/*/requirements.lock again from the .in files there. Versions in the old locks are kept where
# they still fit; "tools/lock.sh --upgrade" moves everything forward. Needs uv (pip install uv).
set -euo pipefail
cd "$(dirname "$0")/../requirements"

compile() {  # LOCK COMMENT ARGUMENT...
  local lock=$1 comment=$2
  shift 2
  uv pip compile --quiet --universal --python-version 3.10 --no-annotate --no-header \
    --output-file "$lock" "$@" > /dev/null
  # uv repeats on every line that this is for Linux and for the Pythons that ROS's wheels are for.
  sed -i -e "s/ and sys_platform == 'linux'//g" -e "s/ ; sys_platform == 'linux'$//" \
    -e "s/ and python_full_version < '3.15'//g" -e "s/ ; python_full_version < '3.15'$//" \
    -e "1i # Written by tools/lock.sh: $comment. Do not edit." "$lock"
}

for distribution in jazzy kilted; do
  compile "$distribution.lock" "every package of the environment but torch" \
    --excludes excluded.txt "$@" python.in "ros-$distribution.in"
done
compile docs.lock "every package that builds the site of docs/" "$@" docs.in

benchmark() {  # NAME PYTHON ARGUMENT...
  local folder=../environments/$1 python=$2
  shift 2
  uv pip compile --quiet --python-version "$python" --python-platform x86_64-manylinux_2_28 \
    --no-annotate --no-header --output-file "$folder/requirements.lock" "$@" \
    "$folder/requirements.in" > /dev/null
}

benchmark calvin 3.8 "$@"
# uv can't read what these say of themselves; tools/benchmark_environment.sh builds them with old tools.
printf '%s\n' gym==0.21.0 pyhash==0.9.3 >> ../environments/calvin/requirements.lock
LC_ALL=C sort -o ../environments/calvin/requirements.lock{,}
benchmark simpler 3.10 "$@"  # And simpler_instruct, whose files are links to these.
benchmark metaworld 3.10 "$@"
benchmark libero 3.10 "$@"
