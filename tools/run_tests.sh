#!/usr/bin/env bash
# Runs all tests. The node tests start several processes each and wait for them most of the time, so they run one at a
# time; the tests of the library run meanwhile, in what those leave of the processor. A machine that does other work at
# that moment can make a node test fail: those that fail run again, once, with nothing beside them.
set -uo pipefail
cd "$(dirname "$0")/.."

printed=$(mktemp)
# Linux may share the processor out by session, whatever the priorities within one: this one backs off to all others.
# It keeps no cache: that is where the node tests write which of them failed.
setsid bash -c '{ echo 19 > /proc/self/autogroup; } 2> /dev/null
  OMP_NUM_THREADS=1 exec nice -n 19 pytest -p no:cacheprovider -n 2 -m "not nodes"' > "$printed" 2>&1 &
library=$!
trap 'kill -- "-$library" 2> /dev/null; rm -f "$printed"' EXIT

echo "The tests of the library run in the background; what they print comes last."
pytest -m nodes
nodes=$?
wait "$library"
others=$?
if [ "$nodes" = 1 ]; then
  echo "The node tests that failed run again:"
  pytest -m nodes --last-failed --last-failed-no-failures=none
  nodes=$?
fi
cat "$printed"
[ "$nodes" = 0 ] && [ "$others" = 0 ]
