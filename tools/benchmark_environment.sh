#!/usr/bin/env bash
# Makes the Python environment of a benchmark that can't run in ours, below build/benchmarks:
#
#     tools/benchmark_environment.sh calvin|simpler|metaworld|libero
#
# It needs a Python of the benchmark's version (named by VLA_CALVIN_BASE and so on where it is not on the
# path) and the network; for calvin and simpler git and a compiler, too.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
name=${1:-}

case $name in
  calvin)
    python=${VLA_CALVIN_BASE:-python3.8}
    repository=https://github.com/mees/calvin
    commit=fa03f01f19c65920e18cf37398a9ce859274af76
    submodules=(calvin_env)
    packages=(calvin_env calvin_models)
    ;;
  simpler)
    python=${VLA_SIMPLER_BASE:-python3.10}
    repository=https://github.com/simpler-env/SimplerEnv
    commit=4ab7178e83e84ee06894034ec6dbf9e7aad1e882
    submodules=(ManiSkill2_real2sim)
    packages=(ManiSkill2_real2sim .)
    ;;
  metaworld)
    python=${VLA_METAWORLD_BASE:-python3}
    repository=
    packages=()
    ;;
  libero)
    python=${VLA_LIBERO_BASE:-python3.10}
    repository=
    packages=()
    ;;
  *)
    echo "usage: $0 calvin|simpler|metaworld|libero" >&2
    exit 2
    ;;
esac

if ! "$python" -c '' 2> /dev/null; then
  echo "$name needs $python, which does not run here: install it, or name it," \
    "as in VLA_${name^^}_BASE=/path/to/python make $name" >&2
  exit 1
fi

folder=$root/build/benchmarks/$name
lock=$root/environments/$name/requirements.lock
source=$folder/source
mkdir -p "$folder"
if [ -n "$repository" ]; then
  [ -d "$source/.git" ] || git clone --no-checkout "$repository" "$source"
  git -C "$source" checkout --quiet "$commit"
  git -C "$source" submodule update --init "${submodules[@]}"
fi

"$python" -m venv --clear "$folder/environment"
pip=("$folder/environment/bin/pip" install --quiet --disable-pip-version-check)
# What builds the others comes first, and in the locked versions: old packages need old tools.
mapfile -t builders < <(grep -E '^(setuptools|wheel|numpy|pybind11)==' "$lock")
"${pip[@]}" setuptools wheel "${builders[@]}"
"${pip[@]}" --no-build-isolation --no-deps --requirement "$lock"
for package in "${packages[@]}"; do
  "${pip[@]}" --no-build-isolation --no-deps --editable "$source/$package"
done
echo "$name is installed: $folder/environment/bin/python"
