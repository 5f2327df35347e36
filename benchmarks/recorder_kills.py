"""What a SIGKILL of the recorder costs, at random moments while messages flow.

source ./env.sh
python benchmarks/recorder_kills.py --kills 200 --json output/recorder_kills.json

Two 640x480 cameras at 30 Hz, joint states at 1 kHz and the policy's topics are published all the
time (see recording_load.py). Each round starts the recorder and an episode, kills the recorder at a
random moment, in some rounds while it closes the bag, and reads what is on the disk: with our
reader, with rosbags and with the mcap library, before anything repairs it. lost_ms is the time from
the newest message in the bag, or the start where there is none, to the kill. The next recorder
begins to complete the bag, and may be killed while it does; the bag must then be whole, with the
same messages, and is deleted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
from recording import start_episode, start_recorder
from recording_load import Load

from vla_cli.graph import free_domain_id

LONGEST_LOSS = 1000.0  # ms
STOPPED_SHARE = 0.2


def newest_by(bag: Path) -> dict[str, tuple[int, int] | str]:
    """Messages and newest receive time [ns] that each reader finds, or why it finds none."""
    from mcap.reader import make_reader
    from rosbags.highlevel import AnyReader

    from vla.bags.reader import read_messages

    def ours() -> list[int]:
        return [message.receive_time for message in read_messages(bag, allow_truncated=True)]

    def rosbags() -> list[int]:
        with AnyReader([bag]) as reader:
            return [time_ for _, time_, _ in reader.messages()]

    def mcap() -> list[int]:
        with (bag / f"{bag.name}.mcap").open("rb") as stream:
            return [message.log_time for _, _, message in make_reader(stream).iter_messages()]

    found: dict[str, tuple[int, int] | str] = {}
    for name, read in (("ours", ours), ("rosbags", rosbags), ("mcap", mcap)):
        try:
            times = read()
            found[name] = (len(times), max(times, default=0))
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def kill_once(directory: Path, log, longest: float) -> tuple[dict, Path]:
    """One episode and its end; what was found, and the bag."""
    from vla.bags.reader import read_metadata

    recorder = start_recorder(directory, log)
    try:
        bag = start_episode(recorder, directory)
        started = time.time_ns()
        time.sleep(random.uniform(0.0, longest))
        stopped = random.random() < STOPPED_SHARE
        if stopped:
            closer = threading.Thread(target=_stop, daemon=True)
            closer.start()
            time.sleep(random.uniform(0.2, 0.8))
    finally:
        killed = time.time_ns()
        recorder.kill()
        recorder.wait()
    if stopped:
        closer.join()
    found = newest_by(bag)
    failures = {name: entry for name, entry in found.items() if isinstance(entry, str)}
    lost = {
        name: round((killed - (entry[1] or started)) * 1e-6, 1)
        for name, entry in found.items()
        if not isinstance(entry, str)
    }
    round_ = {
        "seconds": round((killed - started) * 1e-9, 3),
        # What an episode that was stopped before the kill lacks, it has not lost.
        "lost_ms": {} if stopped else lost,
        "while_closing": stopped,
        "complete": read_metadata(bag).custom_data["complete"] == "true",
        "messages": found["ours"][0],
        "opened_by": list(lost),
        "failures": failures,
    }
    return round_, bag


def _stop() -> None:
    from vla_ros.srv import StopEpisode

    from vla_nodes.client.graph import RobotClient, UnreachableError

    # The answer may never come: the recorder is killed meanwhile.
    with contextlib.suppress(UnreachableError), RobotClient() as client:
        request = StopEpisode.Request(outcome="success")
        client.call(StopEpisode, "vla/stop_episode", request, timeout=0.5)


def main() -> int:
    """Kills the recorder again and again; exit status 0 when nothing more than 1 s was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--longest", type=float, default=2.5, help="longest episode [s] (2.5)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (0)")
    parser.add_argument("--directory", type=Path, default=Path("output/recorder_kills"))
    parser.add_argument("--json", type=Path, default=Path("output/recorder_kills.json"))
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    os.environ |= {
        "ROS_DOMAIN_ID": str(free_domain_id()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    directory = arguments.directory.resolve()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    rounds: list[dict] = []
    before, loads = None, []
    with (directory / "recorder.log").open("w") as log, Load():
        for _ in range(arguments.kills):
            result, bag = kill_once(directory, log, arguments.longest)
            if before is not None:
                complete(rounds[-1], before)
            rounds.append(result)
            loads.append(os.getloadavg()[0])
            print(json.dumps(result), flush=True)
            before = bag
    complete(rounds[-1], before)
    shutil.rmtree(directory)
    figures = figures_of(rounds) | {
        "load_average": {"mean": round(float(np.mean(loads)), 2), "max": round(max(loads), 2)},
        "cores": os.cpu_count(),
        "rounds": rounds,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps({name: value for name, value in figures.items() if name != "rounds"}))
    worst = max((entry["max"] for entry in figures["lost_ms"].values()), default=0.0)
    return 0 if worst <= LONGEST_LOSS and not figures["failures"] else 1


def complete(result: dict, bag: Path) -> None:
    """Completes a bag, if the next recorder has not got to that, checks all of it, deletes it."""
    from vla.bags.reader import recover_bag
    from vla.bags.writer import BagError

    try:
        count = recover_bag(bag).message_count
        if count != result["messages"]:
            result["failures"]["completed"] = f"{count} messages instead of {result['messages']}"
    except BagError as error:
        result["failures"]["completed"] = str(error)
    shutil.rmtree(bag)


def figures_of(rounds: list[dict]) -> dict:
    """The distribution of losses, and how often each reader opened the bag before any repair."""
    readers = ("ours", "rosbags", "mcap")
    distribution = {}
    for name in readers:
        lost = [result["lost_ms"][name] for result in rounds if name in result["lost_ms"]]
        if lost:
            percentiles = {
                f"p{p}": round(float(np.percentile(lost, p)), 1) for p in (5, 50, 95, 99)
            }
            distribution[name] = percentiles | {"max": max(lost)}
    return {
        "kills": len(rounds),
        "while_closing": sum(result["while_closing"] for result in rounds),
        "opened_by": {
            name: sum(name in result["opened_by"] for result in rounds) for name in readers
        },
        "lost_ms": distribution,
        "failures": [result["failures"] for result in rounds if result["failures"]],
    }


if __name__ == "__main__":
    sys.exit(main())
