"""The end of a process that nothing holds up."""

import subprocess
import sys

HOLDING = """\
import ctypes, sys, time
from vla_nodes.core.timed_end import end_after
end_after(1)
{}
print("went on", flush=True)
"""


def ended(wait: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", HOLDING.format(wait)], capture_output=True, text=True, timeout=120
    )
    assert not done.stderr
    return done.returncode, done.stdout


def test_a_process_ends_whoever_holds_the_lock():
    assert ended("time.sleep(600)") == (0, "")
    assert ended("ctypes.PyDLL(None).sleep(600)") == (0, ""), "it keeps Python's lock"


def test_a_process_that_ends_by_itself_is_not_waited_for():
    assert ended("sys.stdout.write('soon '); sys.stdout.flush(); sys.exit(3)") == (3, "soon ")
