#!/usr/bin/env python3
"""What the operator page costs: processor time for ten viewers, and delay of the commands.

    python benchmarks/page.py --rounds 6 --seconds 20

Starts simulator, perception, both halves of the shipped policy, controller and recorder. Rounds
without and with the page alternate; in the latter, viewers in a process of their own take every
image and state. Of each round a bag is recorded, from which the delay from a camera's stamp to the
first command is measured (vla.evaluation.graph_timing).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import aiohttp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test"))

from node_harness import Graph  # noqa: E402
from page_graph import start_page  # noqa: E402
from page_robot import PageClient  # noqa: E402
from vla_ros.srv import SetInstruction, StartEpisode, StopEpisode  # noqa: E402

from vla.contract.embodiment import load_contract  # noqa: E402
from vla.core.resources import contract_path  # noqa: E402
from vla.evaluation.graph_timing import measure_graph  # noqa: E402

CHECKPOINT = str(ROOT / "checkpoints" / "nano")
INSTRUCTION = "pick up the green can"


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="half of them with the page")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each round")
    parser.add_argument("--viewers", type=int, default=10)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--watch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        asyncio.run(watch(arguments.watch, arguments.viewers))
        return
    with Graph(use_sim_time=True) as graph:
        bags = Path(graph._folder.name) / "bags"
        graph.start_with_policy(Path(CHECKPOINT))
        graph.start("recorder", directory=str(bags), record_observation=True, use_sim_time=True)
        graph.wait_state("recorder", "active", 120.0)
        rounds = [one_round(graph, index % 2 == 1, arguments) for index in range(arguments.rounds)]
        contract = load_contract(contract_path("sim_panda"))
        result: dict[str, object] = {"viewers": arguments.viewers, "seconds": arguments.seconds}
        for name, with_page in (("without", False), ("with", True)):
            own = [each["bag"] for each in rounds if each["page"] is with_page]
            measured = measure_graph(own, contract)
            result[f"camera_to_command_ms_{name}_page"] = measured["camera_to_command_ms"]["total"]
            result[f"real_time_factor_{name}_page"] = measured["real_time_factor"]
        result["cores_of_the_page"] = [each["cores"] for each in rounds if each["page"]]
        result["frames_a_second_of_each_camera"] = [
            each["frames"] for each in rounds if each["page"]
        ]
    result |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result) + "\n")


def one_round(graph: Graph, with_page: bool, arguments: argparse.Namespace) -> dict:
    """Lets the arm follow an instruction for a while; what it cost, and its bag."""
    shown = {"page": with_page, "cores": 0.0, "frames": 0.0}
    page = viewers = None
    if with_page:
        page, url = start_page(graph, Path(graph._folder.name) / "bags")
        viewers = subprocess.Popen(
            # The least of priorities: where browsers are on other machines, they take nothing here.
            ["nice", "-n", "19", sys.executable, __file__, "--watch", url,
             "--viewers", str(arguments.viewers)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert viewers.stdout is not None and viewers.stdout.readline() == "watching\n"
    request = SetInstruction.Request(instruction=INSTRUCTION)
    assert graph.call(SetInstruction, "vla/set_instruction", request).success
    graph.wait(
        lambda: graph.call(StartEpisode, "vla/start_episode", StartEpisode.Request()).success,
        "episode that starts",
    )
    begin = time.monotonic()
    before = page.cpu_time if page is not None else 0.0
    while time.monotonic() < begin + arguments.seconds:
        graph.spin(0.2)
    elapsed = time.monotonic() - begin
    if page is not None:
        shown["cores"] = round((page.cpu_time - before) / elapsed, 3)
    stopped = graph.call(StopEpisode, "vla/stop_episode", StopEpisode.Request(), 120.0)
    assert stopped.success, stopped.message
    shown["bag"] = stopped.uri
    if page is not None and viewers is not None:
        frames = json.loads(viewers.communicate("\n")[0])
        shown["frames"] = round(frames / elapsed / arguments.viewers, 1)
        page.stop()
        graph.processes.remove(page)
    return shown


async def watch(url: str, count: int) -> None:
    """Takes everything until a line comes on the standard input; prints how many images came."""
    frames = 0

    async def take(viewer: PageClient) -> None:
        nonlocal frames
        while True:
            await viewer.message("front")
            frames += 1

    async with aiohttp.ClientSession() as session:
        viewers = [await PageClient(session, url).open() for _ in range(count)]
        tasks = [asyncio.create_task(take(viewer)) for viewer in viewers]
        print("watching", flush=True)
        frames = 0
        await asyncio.to_thread(sys.stdin.readline)
        print(frames, flush=True)
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    main()
