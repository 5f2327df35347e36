#!/usr/bin/env python3
"""What transforms cost the simulator: its processor time with and without somebody who reads them.

    python benchmarks/transforms.py

Rounds without and with a reader of `tf` alternate while the simulator runs. Figures are processor
time of its process per second of simulated time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from rosgraph_msgs.msg import Clock
from tf2_msgs.msg import TFMessage

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test"))

from node_harness import Graph, NodeProcess  # noqa: E402

from vla_nodes.core import qos  # noqa: E402
from vla_nodes.core.conversions import stamp_to_seconds  # noqa: E402


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="half of them with a reader (6)")
    parser.add_argument("--seconds", type=float, default=15.0, help="simulated, of each (15)")
    arguments = parser.parse_args()
    shares: dict[bool, list[float]] = {False: [], True: []}
    with Graph() as graph:
        sim = graph.start("sim")
        graph.wait_state("sim", "active", 90.0)
        clocks = graph.collect(Clock, "clock", qos.CLOCK)
        for number in range(arguments.rounds):
            is_read = number % 2 == 1
            messages: list[TFMessage] = []
            if is_read:
                reader = graph.node.create_subscription(
                    TFMessage, "tf", messages.append, qos.TRANSFORMS
                )
                graph.wait(lambda known=messages: known, "transforms")
            shares[is_read].append(share_of(graph, sim, clocks, arguments.seconds))
            if is_read:
                graph.node.destroy_subscription(reader)
    medians = {name: statistics.median(shares[name]) for name in (False, True)}
    print(
        json.dumps(
            {
                "cores_without": shares[False],
                "cores_with": shares[True],
                "ratio_of_the_medians": round(medians[True] / medians[False], 3),
            },
            indent=1,
        )
    )


def share_of(graph: Graph, sim: NodeProcess, clocks: list[Clock], seconds: float) -> float:
    """Processor time of a process per second of simulated time, measured over that many."""
    clocks.clear()
    graph.wait(lambda: clocks, "time")
    begin, before = stamp_to_seconds(clocks[0].clock), sim.cpu_time
    graph.wait(
        lambda: stamp_to_seconds(clocks[-1].clock) - begin >= seconds, "time", 20.0 * seconds
    )
    return round((sim.cpu_time - before) / (stamp_to_seconds(clocks[-1].clock) - begin), 4)


if __name__ == "__main__":
    main()
