#!/usr/bin/env python3
"""The controller at 200 Hz beside the whole demo: how even its cycles are, what it costs.

    python benchmarks/control_rate.py --seconds 60

Starts simulator, perception, both halves of the shipped policy and the recorder as the demo does,
and a controller of `--rate`. While instructions move the arm, the jitter of the controller's own
cycles (diagnostics) and the processor time of its process are read. With --priority the control
thread runs under SCHED_FIFO, which needs the right to it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test"))

from node_harness import Graph  # noqa: E402
from vla_ros.srv import SetInstruction  # noqa: E402

CHECKPOINT = str(ROOT / "checkpoints" / "nano")
INSTRUCTIONS = ("pick up the red block", "pick up the green block", "open the drawer")


def main() -> None:
    """Prints medians over the windows of the diagnostics, and the share of a core."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--priority", type=int, default=0)
    parser.add_argument("--execution", default="first")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with Graph() as graph:
        sim_time = {"use_sim_time": True}
        real_time = arguments.execution == "real_time"
        nodes = {
            "sim": {},
            "perception": sim_time,
            "reasoning": sim_time | {"checkpoint": CHECKPOINT},
            "action_expert": sim_time
            | {"checkpoint": CHECKPOINT, "max_rate": 6.67, "real_time_chunking": real_time},
            "recorder": sim_time | {"directory": graph._folder.name},
            "controller": sim_time
            | {
                "control_rate": arguments.rate,
                "realtime_priority": arguments.priority,
                "execution": arguments.execution,
            },
        }
        running = {name: graph.start(name, parameters=values) for name, values in nodes.items()}
        for name in nodes:
            graph.wait_state(name, "active", 120.0)
        process = psutil.Process(running["controller"].process.pid)
        # The first window still holds the start.
        rows, number, end = [], 0, time.monotonic() + arguments.seconds
        started, before = time.monotonic(), sum(process.cpu_times()[:2])
        while time.monotonic() < end:
            text = INSTRUCTIONS[number % len(INSTRUCTIONS)]
            request = SetInstruction.Request(instruction=text)
            assert graph.call(SetInstruction, "vla/set_instruction", request).success
            number += 1
            for _ in range(6):
                rows.append(graph.diagnostic("controller"))
        share = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - started)
        result = {
            "rate_hz": arguments.rate,
            "priority": arguments.priority,
            "seconds": arguments.seconds,
            "cores": os.cpu_count(),
            "cpu_share": round(share, 3),
            "load": round(os.getloadavg()[0], 2),
        }
        for name in ("p50", "p99", "max"):
            values = [float(row[f"period_jitter_{name}_ms"]) for row in rows[5:]]
            result[f"jitter_{name}_ms"] = round(float(np.median(values)), 2)
            result[f"jitter_{name}_ms_worst_window"] = round(max(values), 2)
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
