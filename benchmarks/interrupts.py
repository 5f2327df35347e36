"""What Ctrl-C does to the simulated robot's graph on a busy machine.

source ./env.sh
python benchmarks/interrupts.py --trials 20 --busy 20 --json output/interrupts.json
python benchmarks/interrupts.py --trials 20 --busy 20 --after 0.5 1 2 4

Each trial starts `vla launch sim.launch.xml`, waits until every node is active, starts processes
that do nothing but compute, and sends SIGINT to the launcher. seconds: from the signal until the
launcher has ended. escalated: nodes that the launcher had to send SIGTERM or SIGKILL. failed: what
it says of nodes that did not end cleanly. cut_short: nodes that came to rest, but whose cleaning up
took so long that they ended without it. status: its own exit status. --after interrupts so many
seconds after the start instead, in turn, when nodes may still be importing. Each trial is added to
the JSON file at once, and what is there counts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vla_cli.graph import enter_domain
from vla_cli.result_files import write_result

# The launcher kills what is left 6.5 s after the signal; this bounds a launcher that hangs [s].
LONGEST_END = 60.0
SETTLING = 3.0  # From the start of the busy processes to the signal [s].
ESCALATED = re.compile(r"\[([\w-]+)\]: process did not end: sending (\w+)")
FAILED = re.compile(r"\[([\w-]+)\]: process has died \[pid \d+, (exit code -?\d+)")
CLEAN = re.compile(r"\[([\w-]+)\]: process has finished cleanly")
RESTED = re.compile(r"\[(\w+)\]: deactivated")
CLEANED = re.compile(r"\[(\w+)\]: cleaned up")


@contextmanager
def busy(count: int) -> Iterator[None]:
    """That many processes which compute without end, each in a session of its own.

    Linux may share the processor out by session: those of one session would count as one program.
    """
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def interrupted(
    given: list[str], folder: Path, number: int, count: int, after: float | None
) -> dict:
    """One trial. given: arguments of the launch file. after: when to interrupt, None if active."""
    from vla_nodes.client.demo import DemoClient

    log = folder / f"{number}.log"
    command = [sys.executable, "-m", "vla_cli", "launch", "sim.launch.xml", *given]
    with log.open("wb") as stream:
        launcher = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        if after is None:
            with DemoClient() as client:
                client.wait_until_active(300.0, lambda: None)
            with busy(count):
                time.sleep(SETTLING)
                seconds = end(launcher)
        else:
            with busy(count):
                time.sleep(after)
                seconds = end(launcher)
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
    said = log.read_text(errors="replace")
    return {
        "after": after,
        "busy": count,
        "seconds": seconds,
        "status": launcher.returncode,
        "clean": len(CLEAN.findall(said)),
        "escalated": [" ".join(found) for found in ESCALATED.findall(said)],
        "failed": [" ".join(found) for found in FAILED.findall(said)],
        "cut_short": sorted({*RESTED.findall(said)} - {*CLEANED.findall(said)}),
    }


def end(launcher: subprocess.Popen) -> float:
    """Interrupts the launcher and returns how long it took to end [s]."""
    signalled = time.monotonic()
    launcher.send_signal(signal.SIGINT)
    launcher.wait(LONGEST_END)
    return round(time.monotonic() - signalled, 2)


def main() -> None:
    """Runs the trials that are missing, and writes what came of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/nano"))
    parser.add_argument("--trials", type=int, default=20, help="earlier ones too (20)")
    parser.add_argument("--busy", type=int, default=20, help="processes that compute (20)")
    parser.add_argument(
        "--after",
        type=float,
        nargs="+",
        metavar="SECONDS",
        help="from the start to the signal",
    )
    parser.add_argument("--json", type=Path, default=Path("output/interrupts.json"))
    arguments = parser.parse_args()
    # A trial that is ended must end its launcher.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    enter_domain(None)
    folder = Path(tempfile.mkdtemp(prefix="interrupts_"))
    trials = json.loads(arguments.json.read_text()) if arguments.json.exists() else []
    given = [f"checkpoint:={arguments.checkpoint.resolve()}", f"bag_directory:={folder}/bags"]
    while len(trials) < arguments.trials:
        number = len(trials)
        after = arguments.after[number % len(arguments.after)] if arguments.after else None
        trials.append(interrupted(given, folder, number, arguments.busy, after))
        print(json.dumps(trials[-1]), flush=True)
        write_result(arguments.json, trials)
    seconds = [trial["seconds"] for trial in trials]
    print(
        f"{len(trials)} trials: {np.median(seconds):.1f} s in the median, {max(seconds):.1f} s at "
        f"most; escalated in {sum(bool(trial['escalated']) for trial in trials)}, failed in "
        f"{sum(bool(trial['failed']) for trial in trials)}, cut short in "
        f"{sum(bool(trial['cut_short']) for trial in trials)}; the nodes' output: {folder}"
    )


if __name__ == "__main__":
    main()
