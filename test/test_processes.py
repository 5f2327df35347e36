"""Worker processes end with the process that started them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from vla.core.processes import results_in_order

# Tells the ids of two workers that then have an hour's work, one each.
PARENT = """
import os, time
from vla.core.processes import results_in_order, worker_pool

def work(_):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(3600)

if __name__ == "__main__":
    %s
"""
POOL = "with worker_pool(2) as pool: pool.map(work, range(2), chunksize=1)"
IN_ORDER = "list(results_in_order(work, range(3), 2, ValueError))"


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("work", [POOL, IN_ORDER], ids=["pool", "in order"])
def test_workers_end_with_their_parent(tmp_path, work, number):
    script = tmp_path / "parent.py"
    script.write_text(PARENT % work)
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


def halved(number: int) -> float:
    """A task; that of 4 kills its process, that of 6 fails, and the first takes the longest."""
    if number == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 6:
        raise ArithmeticError("six")
    if number == 0:
        time.sleep(0.2)
    return number / 2


def told(number: int) -> Exception:
    return ValueError(f"the process of {number} was killed")


def test_results_come_in_the_order_of_the_tasks():
    assert list(results_in_order(halved, [0, 1, 2, 3, 5], 3, told)) == [0, 0.5, 1, 1.5, 2.5]


@pytest.mark.parametrize(
    ("tasks", "error"),
    [([1, 2, 3, 4], "the process of 4 was killed"), ([1, 6, 2], "six")],
)
def test_a_task_that_fails_or_kills_its_process_is_named(tasks, error):
    found = results_in_order(halved, tasks, 2, told)
    with pytest.raises((ValueError, ArithmeticError), match=error):
        list(found)
