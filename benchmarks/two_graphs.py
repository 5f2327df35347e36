"""Two simulated robots in one ROS domain, each of which follows its instructions at the same time.

source ./env.sh
python benchmarks/two_graphs.py --json output/two_graphs.json
python benchmarks/two_graphs.py --served --json output/two_served.json

Each has a namespace, left and right, and a graph of its own, started by `vla launch`. Models run at
most at --max-rates, so that those of one do not take the processor of the other. seconds: of
simulated time until the task was done. wall_s: from the instruction to the end of the trial, on the
wall clock, with what recording and judging take. With --served the model nodes of both hold no
weights, and one `vla serve` runs the policy of both. Results are added to the JSON file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import yaml
from serving import started

from vla_cli.graph import driven_graph, enter_domain
from vla_cli.result_files import write_result

SIDES = ("left", "right")
FAMILIES = ("pick", "place", "open_drawer")
MODELS = ("reasoning", "action_expert")


def follow(side: str, client, seed: int, families: Sequence[str], time_limit: float) -> list[dict]:
    """What came of one trial of each family. seed: of the scenes. time_limit: simulated [s]."""
    from vla_nodes.client.demo import Trial

    results = []
    for family in families:
        trial = Trial(seed=seed, family=family)
        started = time.monotonic()
        client.run_trial(trial, time_limit, lambda text: None)
        results.append(
            {
                "side": side,
                "instruction": trial.instruction,
                "success": trial.success,
                "seconds": trial.seconds,
                "wall_s": round(time.monotonic() - started, 1),
                "message": trial.message,
            }
        )
        print(json.dumps(results[-1]), flush=True)
    return results


def main() -> None:
    """Starts both, has them follow three instructions each, and writes what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/nano"))
    parser.add_argument("--served", action="store_true", help="both ask one 'vla serve'")
    parser.add_argument("--seed", type=int, default=0, help="of the left one's scenes (0)")
    parser.add_argument(
        "--time-limit", type=float, default=40.0, help="of an instruction, in simulated time [s]"
    )
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES, help="(all)")
    parser.add_argument(
        "--max-rates", type=float, nargs=2, default=(2.0, 5.0), metavar="HZ",
        help="of reasoning and action_expert (2 5); 0: as often as they can",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, default=Path("output/two_graphs.json"))
    arguments = parser.parse_args()
    enter_domain(None)
    folder = Path(tempfile.mkdtemp(prefix="two_graphs_"))
    print(f"the nodes' output: {folder}", flush=True)
    rates = folder / "rates.yaml"
    rates.write_text(
        yaml.safe_dump(
            {
                f"/**/{node}": {"ros__parameters": {"max_rate": rate}}
                for node, rate in zip(MODELS, arguments.max_rates, strict=True)
            }
        )
    )
    rounds = json.loads(arguments.json.read_text()) if arguments.json.exists() else []
    with ExitStack() as graphs:
        clients, checkpoint = [], arguments.checkpoint.resolve()
        policy = f"checkpoint:={checkpoint}"
        if arguments.served:
            policy = f"server:={graphs.enter_context(started(str(checkpoint), 'cpu'))}"
        for side in SIDES:
            given = [policy]
            given += [f"bag_directory:={folder / side}", f"params_file:={rates}"]
            graph = driven_graph("sim.launch.xml", given, folder / f"{side}.log", side)
            clients.append(graphs.enter_context(graph)[0])
        with ThreadPoolExecutor(len(SIDES)) as pool:
            run = partial(follow, families=arguments.families, time_limit=arguments.time_limit)
            seeds = [arguments.seed, arguments.seed + 1]
            rounds += [result for found in pool.map(run, SIDES, clients, seeds) for result in found]
    write_result(arguments.json, rounds)
    done = sum(result["success"] for result in rounds)
    print(f"{done} of {len(rounds)} instructions succeeded; results: {arguments.json}")


if __name__ == "__main__":
    main()
