#!/bin/sh
# Reads a data set with lerobot itself, in an environment of its own, and compares it with its files.
#
#   tools/check_with_lerobot.sh DATASET
#
# The environment is made once, in $LEROBOT_ENVIRONMENT or the user's cache; this project's own is
# not touched. Builds of torch without CUDA are taken where their index can be reached. Prints OK, or
# what differs, and then exits with a status other than 0.
set -eu

LEROBOT_VERSION=0.4.4
# The newest that this lerobot allows.
TORCH_VERSION=2.10.0
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

if [ $# -ne 1 ] || [ ! -d "$1" ]; then
  echo "usage: tools/check_with_lerobot.sh DATASET (a folder in LeRobot's layout)" >&2
  exit 2
fi
environment=${LEROBOT_ENVIRONMENT:-${XDG_CACHE_HOME:-$HOME/.cache}/vla_ros/lerobot-$LEROBOT_VERSION}
if [ ! -e "$environment/complete" ]; then
  python3 -m venv "$environment"
  "$environment/bin/python" -m pip install --quiet --retries 1 --index-url "$TORCH_CPU_INDEX" \
    "torch==$TORCH_VERSION" 2> /dev/null \
    || echo "no CPU build of torch can be reached; taking the one with CUDA" >&2
  "$environment/bin/python" -m pip install --quiet "lerobot==$LEROBOT_VERSION" \
    "torch==$TORCH_VERSION"
  touch "$environment/complete"
fi
# Only this data set is read: nothing is asked of a hub, no path of this project gets in, and what
# lerobot keeps of the data is thrown away.
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT
HF_HOME=$cache HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 PYTHONPATH="" PYTHONWARNINGS=ignore \
  "$environment/bin/python" "$(dirname "$0")/check_with_lerobot.py" "$1"
