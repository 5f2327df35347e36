"""How many CPU threads a policy computes with: as many as gain something here, as measured once.

Small layers lose more where threads meet than they gain: at the size of the shipped policy one
thread is the fastest. So the number is doubled as long as an inference becomes a tenth faster.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from vla.core.kept import user_cache
from vla.core.processes import usable_cores
from vla.core.replacing import replace_text
from vla.policies.compiled import plain_passes

GAIN = 0.9  # of the time with half as many threads, which more threads must not exceed
RUNS = 3  # of which the fastest counts, behind one that does not


def settle_threads(given: int, run: Callable[[], object], part: str) -> int:
    """Sets torch's number of threads, and returns it.

    given: the number; 0 for OMP_NUM_THREADS, or where that is not set, for what is measured with
    `run`, an inference. part: what runs: the number that was found for it is kept in the user's
    cache, so that later runs compute the same.
    """
    threads = given or _set_for_all() or _kept(part)
    if not threads:
        with plain_passes():
            threads = fastest_threads(lambda count: _seconds_with(run, count), usable_cores())
        with suppress(OSError):  # It is measured again the next time.
            _file(part).parent.mkdir(parents=True, exist_ok=True)
            replace_text(_file(part), f"{threads}\n")
    torch.set_num_threads(threads)
    return threads


def fastest_threads(seconds_with: Callable[[int], float], most: int) -> int:
    """1, doubled up to `most` while that gains. seconds_with(threads): the time of a run."""
    threads, seconds = 1, seconds_with(1)
    while threads < most:
        more = min(2 * threads, most)
        if (found := seconds_with(more)) > GAIN * seconds:
            break
        threads, seconds = more, found
    return threads


def _set_for_all() -> int:
    """What the environment says; 0 for nothing."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdecimal() else 0


def _seconds_with(run: Callable[[], object], threads: int) -> float:
    torch.set_num_threads(threads)
    times = []
    for _ in range(1 + RUNS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _file(part: str) -> Path:
    """Where the number is kept: it holds for a part on a machine with a version of torch."""
    facts = (part, platform.node(), str(usable_cores()), torch.__version__)
    return user_cache() / "threads" / hashlib.sha256("\n".join(facts).encode()).hexdigest()[:24]


def _kept(part: str) -> int:
    """The number that was found before; 0 for none."""
    with suppress(OSError, ValueError):
        return max(0, min(int(_file(part).read_text()), usable_cores()))
    return 0
