"""Does the recorder lose anything? Two 640x480 cameras at 30 Hz and joint states at 1 kHz.

source ./env.sh
python benchmarks/recording.py --seconds 300 --json output/recording.json

Processes of the benchmark's own publish the cameras, joint states, end-effector pose and what the
policy says (see recording_load.py). Every message that they published between start and stop must
be in the bag, once and in order. Reported by topic; the recorder's share of one CPU core, its
memory and the bag's MB/s besides. The bag, 56 MB for every second, is deleted once it is checked.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from recording_load import RATES, Load, index_of

from vla_cli.graph import free_domain_id

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = ROOT / "config" / "contracts" / "sim_panda.yaml"
START_TIMEOUT = 60.0
# For messages that are on their way when publishing ends [s].
SETTLE = 0.5


def start_recorder(directory: Path, log, **parameters: object) -> subprocess.Popen:
    """The node as a process, writing into `directory`."""
    values = {"contract": CONTRACT, "directory": directory, **parameters}
    command = [sys.executable, str(ROOT / "scripts" / "recorder"), "--ros-args"]
    for name, value in values.items():
        command += ["-p", f"{name}:={value}"]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def start_episode(process: subprocess.Popen, directory: Path) -> Path:
    """Tries until the recorder has heard every topic; folder of the bag. Raises RuntimeError."""
    from vla_ros.srv import StartEpisode

    from vla_nodes.client.graph import RobotClient, UnreachableError

    request = StartEpisode.Request(instruction="measure", note="benchmark")
    deadline = time.monotonic() + START_TIMEOUT
    said = "nothing"
    while time.monotonic() < deadline and process.poll() is None:
        # A client of its own for each try: one that knew a killed recorder may ask that for long.
        try:
            with RobotClient(wait=START_TIMEOUT) as client:
                while time.monotonic() < deadline:
                    answer = client.call(StartEpisode, "vla/start_episode", request, timeout=2.0)
                    said = answer.message
                    if answer.success:
                        return Path(answer.uri)
                    if "is being recorded" in said:
                        # An earlier request came through, only its answer did not.
                        return max(directory.glob("episode_*"))
                    client.spin(0.1)
        except UnreachableError as error:
            said = str(error)
    raise RuntimeError(f"the recorder did not start an episode, it said: {said}")


def usage_of(process: subprocess.Popen) -> tuple[float, float]:
    """CPU time [s] and greatest memory [MiB] of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return ticks / os.sysconf("SC_CLK_TCK"), int(peak.split()[1]) / 1024


def compare(bag: Path, first: dict[str, int], end: dict[str, int]) -> dict[str, dict]:
    """By topic: messages published, and which of them the bag lacks, repeats or has out of order.

    first, end: counts when the episode had begun, and when publishing ended.
    """
    from vla.bags.reader import read_messages

    found: dict[str, list[int]] = {topic: [] for topic in end}
    # Reads every chunk and checks its checksum.
    for message in read_messages(bag, end):
        found[message.topic].append(index_of(message.data))
    result = {}
    for topic, indices in found.items():
        expected = range(first[topic], end[topic])
        inside = [index for index in indices if index in expected]
        missing = sorted(set(expected) - set(inside))
        result[topic] = {
            "published": len(expected),
            "recorded": len(inside),
            "missing": len(missing),
            "first_missing": missing[:10],
            "repeated": len(inside) - len(set(inside)),
            "in_order": all(a < b for a, b in itertools.pairwise(inside)),
        }
    return result


def main() -> int:
    """Records, checks and writes the figures; exit status 0 when nothing is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="length of the episode (300)")
    parser.add_argument("--compression", choices=("none", "zstd", "lz4"), default="none")
    parser.add_argument("--ring-buffer", type=float, default=0.0, help="seconds kept in memory (0)")
    parser.add_argument(
        "--reliability",
        choices=("reliable", "best_effort"),
        default="reliable",
        help="what the drivers offer (reliable)",
    )
    parser.add_argument(
        "--transport",
        choices=("shipped", "default"),
        default="shipped",
        help="Fast DDS with config/fastdds.xml, or as it comes (shipped)",
    )
    parser.add_argument("--directory", type=Path, default=Path("output/recording"))
    parser.add_argument("--keep", action="store_true", help="keep the bag")
    parser.add_argument("--json", type=Path, default=Path("output/recording.json"))
    arguments = parser.parse_args()
    domain = free_domain_id()
    os.environ |= {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    if arguments.transport == "shipped":
        os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(ROOT / "config" / "fastdds.xml")
    from vla_ros.srv import StopEpisode

    from vla_nodes.client.graph import RobotClient

    directory = arguments.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    with (
        (directory / "recorder.log").open("w") as log,
        Load(arguments.reliability) as load,
    ):
        recorder = start_recorder(
            directory,
            log,
            compression=arguments.compression,
            ring_buffer=arguments.ring_buffer,
        )
        try:
            bag = start_episode(recorder, directory)
            first, began = load.counts(), time.monotonic()
            used = usage_of(recorder)[0]
            loads = []
            while time.monotonic() - began < arguments.seconds:
                time.sleep(min(1.0, arguments.seconds))
                loads.append(os.getloadavg()[0])
            used, memory = usage_of(recorder)[0] - used, usage_of(recorder)[1]
            seconds = time.monotonic() - began
            end = load.pause()
            time.sleep(SETTLE)
            stopping = time.monotonic()
            with RobotClient(wait=START_TIMEOUT) as client:
                request = StopEpisode.Request(outcome="success")
                stopped = client.call(StopEpisode, "vla/stop_episode", request, 120.0)
            closing = time.monotonic() - stopping
        finally:
            recorder.send_signal(signal.SIGINT)
            recorder.wait(30.0)
    size = sum(path.stat().st_size for path in bag.iterdir())
    topics = compare(bag, first, end)
    figures = {
        "seconds": round(seconds, 1),
        "published": sum(entry["published"] for entry in topics.values()),
        "missing": sum(entry["missing"] for entry in topics.values()),
        "repeated": sum(entry["repeated"] for entry in topics.values()),
        "recorder_said": stopped.message,
        "recorder_cpu_percent_of_one_core": round(100 * used / seconds, 1),
        "recorder_memory_mib": round(memory),
        "megabytes_per_second": round(size / 1e6 / stopped.duration, 1),
        "gigabytes": round(size / 1e9, 3),
        "closing_seconds": round(closing, 2),
        "compression": arguments.compression,
        "reliability": arguments.reliability,
        "transport": arguments.transport,
        "ring_buffer": arguments.ring_buffer,
        "load_average": {"mean": round(sum(loads) / len(loads), 2), "max": round(max(loads), 2)},
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "nominal_rates": RATES,
        "topics": topics,
    }
    if not arguments.keep:
        shutil.rmtree(bag)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"{'topic':<28}{'published':>10}{'recorded':>10}{'missing':>9}{'rate':>9}")
    for topic, entry in topics.items():
        rate = entry["published"] / seconds
        columns = f"{entry['published']:>10}{entry['recorded']:>10}{entry['missing']:>9}"
        print(f"{topic:<28}{columns}{rate:>9.1f}")
    shown = ("recorder_cpu_percent_of_one_core", "megabytes_per_second", "missing", "repeated")
    print(", ".join(f"{name}: {figures[name]}" for name in shown))
    whole = all(
        not entry["missing"] and not entry["repeated"] and entry["in_order"]
        for entry in topics.values()
    )
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
