"""Worker processes end with the process that started them."""

import os
import signal
import subprocess
import sys
import time

import pytest

# Tells the ids of two workers that then have an hour's work, one each.
PARENT = """
import os, time
from vla.core.processes import worker_pool

def work(_):
    print(os.getpid(), flush=True)
    time.sleep(3600)

if __name__ == "__main__":
    with worker_pool(2) as pool:
        pool.map(work, range(2), chunksize=1)
"""


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, number):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        # A shell in the background has its children ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    assert all(is_running(pid) for pid in workers)
    parent.send_signal(number)
    assert parent.wait() != 0
    while any(is_running(pid) for pid in workers):
        time.sleep(0.01)
