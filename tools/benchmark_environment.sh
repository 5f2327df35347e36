#!/usr/bin/env bash
# Makes the Python environment of a benchmark that can't run in ours, below build/benchmarks:
#
#     tools/benchmark_environment.sh calvin|simpler|simpler_instruct|metaworld|libero
#
# It needs a Python of the benchmark's version (named by VLA_CALVIN_BASE and so on where it is not on the
# path) and the network; for calvin and both of simpler git and a compiler, too.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
name=${1:-}
other=()  # Another repository that the sources need: its place among them, address and commit.

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
  simpler_instruct)
    # The same with the scenes of InstructVLA's authors.
    python=${VLA_SIMPLER_INSTRUCT_BASE:-python3.10}
    repository=https://github.com/simpler-env/SimplerEnv
    commit=4ab7178e83e84ee06894034ec6dbf9e7aad1e882
    submodules=()
    other=(ManiSkill2_real2sim https://github.com/YangS03/my_maniskill
      be7be5206790f1d81e1cc4f5f38b8190bd056417)
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
    echo "usage: $0 calvin|simpler|simpler_instruct|metaworld|libero" >&2
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
fetched() {  # FOLDER REPOSITORY COMMIT
  [ -d "$1/.git" ] || git clone --no-checkout "$2" "$1"
  git -C "$1" checkout --quiet "$3"
}
if [ -n "$repository" ]; then
  fetched "$source" "$repository" "$commit"
  if [ ${#submodules[@]} -gt 0 ]; then
    git -C "$source" submodule update --init "${submodules[@]}"
  fi
fi
if [ ${#other[@]} -gt 0 ]; then
  fetched "$source/${other[0]}" "${other[@]:1}"
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
