"""How well the rules' segments meet the truth of the simulator, on scenes of the evaluation.

python benchmarks/segments.py --seeds 0:50 --json output/segments.json

The scripted expert does the tasks without noise. What it is doing is read from its goals and from
contacts, never from what the rules read: it grasps while it closes its fingers, or is about to and
within 3 cm, until both touch the thing; it holds what both touch; it places while it opens them.
Then it does several atomic actions in a row, one episode for a seed (see atomic_episodes.py).
The rules are told when the drawer or the post moves and when the button is down, as a contact
sensor would; --no-contact leaves that out. `shuffled` is the same with the true labels of each
episode in another order.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from atomic_episodes import ALIGNED, run_actions

from vla.contract.embodiment import load_contract
from vla.control.chunk import ActionChunk
from vla.core.resources import contract_path
from vla.envs.tabletop.environment import TableTopEnv, observation_of, run_step
from vla.envs.tabletop.expert import ExpertState, Goal, next_goal, observe, plan_chunk
from vla.envs.tabletop.tasks import FAMILIES
from vla.language_action.rules import segment_by_rules
from vla.language_action.scoring import Pair, Scores, score
from vla.language_action.segments import Segment
from vla.language_action.trajectory import ToolTrajectory, trajectory_of

# Shorter phases of the expert are no actions [s]: it corrects itself, and contacts flicker. What
# the fingers do takes less time.
SHORTEST, SHORTEST_OF_FINGERS = 0.25, 0.15
LOST_WIDTH = 0.003  # of fingers that hold nothing any more [m]
DRAWER_SPEED = 0.01  # of a drawer that moves [m/s]


def doing(state: ExpertState, goal: Goal, family: str) -> str:
    """The primitive that the expert is at."""
    if not state.gripped:
        aligns = np.allclose(goal.position, state.grasp)
        if goal.gripper < 0.5 or (aligns and np.linalg.norm(state.grasp - state.tool) < ALIGNED):
            return "grasp"
        stays = goal.gripper > 0.5 and np.allclose(goal.position, state.tool)
        return "place" if stays else "move"
    if goal.gripper > 0.5:
        return "place"
    if family in ("open_drawer", "close_drawer"):
        return "pull" if family == "open_drawer" else "push"
    way = goal.position - state.tool
    if abs(way[2]) >= 0.7 * float(np.linalg.norm(way)):
        return "lift" if way[2] > 0 else "lower"
    return "transport"


def segments_of(labels: Sequence[str], times: np.ndarray) -> list[Segment]:
    """Runs of one label as segments; the shortest of those too short joins its longer neighbour."""
    edges = [0, *(k for k in range(1, len(labels)) if labels[k] != labels[k - 1]), len(labels) - 1]
    runs = [(labels[first], first, last) for first, last in itertools.pairwise(edges)]
    while len(runs) > 1:
        lengths = [float(times[last] - times[first]) for _, first, last in runs]
        short = [
            k
            for k, (name, _, _) in enumerate(runs)
            if lengths[k] < (SHORTEST_OF_FINGERS if name in ("grasp", "place") else SHORTEST)
        ]
        if not short:
            break
        k = min(short, key=lambda index: lengths[index])
        beside = [j for j in (k - 1, k + 1) if 0 <= j < len(runs)]
        name = runs[max(beside, key=lambda index: lengths[index])][0]
        runs[k] = (name, *runs[k][1:])
        runs = [
            (name, group[0][1], group[-1][2])
            for name, group in (
                (name, list(group)) for name, group in itertools.groupby(runs, lambda run: run[0])
            )
        ]
    return [Segment(n, float(times[first]), float(times[last])) for n, first, last in runs]


def demonstrate(environment: TableTopEnv, family: str, seed: int):
    """One episode: its trajectory and its true segments; None where the expert fails."""
    environment.reset(seed=seed, options={"family": family})
    simulator, controller, task = environment.simulator, environment.controller, environment.task
    states, labels, times, drawer, settled, gripped = [], [], [], [], 0, False
    while len(labels) < 200 and settled < 5:
        state = observe(simulator, task)
        goal = next_goal(state, task.family)
        # What both fingers have touched is held until they open, or close on nothing.
        lost = goal.gripper > 0.5 or state.width < LOST_WIDTH
        gripped = state.gripped or (gripped and not lost)
        labels.append(doing(replace(state, gripped=gripped), goal, family))
        states.append(observation_of(simulator, controller.contract)[1])
        times.append(simulator.time)
        drawer.append(simulator.drawer_opening)
        chunk = plan_chunk(simulator, task, controller.contract.horizon)
        pose, step = simulator.end_effector_pose(), controller.contract.time_step
        controller.accept(ActionChunk(times[-1], step, chunk, *pose), times[-1])
        run_step(simulator, controller)
        settled += simulator.check(task).success
    if not settled:
        return None
    stamps = np.array(times)
    trajectory = trajectory_of(np.array(states), stamps, controller.contract)
    moves = np.abs(np.gradient(np.array(drawer), stamps)) > DRAWER_SPEED
    return replace(trajectory, contact=moves), segments_of(labels, trajectory.times)


def demonstrate_actions(environment: TableTopEnv, seed: int):
    """As demonstrate, of several atomic actions in a row."""
    episode = run_actions(environment, seed)
    if episode is None:
        return None
    trajectory = trajectory_of(episode.states, episode.times, environment.controller.contract)
    segments = segments_of(episode.labels, trajectory.times)
    return replace(trajectory, contact=episode.contact), segments


def shuffled(true: Sequence[Segment], generator: np.random.Generator) -> list[Segment]:
    """The same times with labels in another order."""
    order = generator.permutation(len(true))
    return [replace(s, primitive=true[k].primitive) for s, k in zip(true, order, strict=True)]


def figures(scores: Scores) -> dict:
    """The scores as they are written."""
    return {
        "macro_f1": round(scores.macro_f1, 4),
        "f1": {n: None if s.f1 is None else round(s.f1, 4) for n, s in scores.classes.items()},
        "true": {n: s.true for n, s in scores.classes.items() if s.true},
        "boundary_error_s": scores.boundary_error and round(scores.boundary_error, 3),
        "confusion": scores.confusion,
    }


def main() -> None:
    """Runs the episodes, prints the scores and writes them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0:50", metavar="A:B", help="seeds A to B-1 (0:50)")
    parser.add_argument("--no-contact", action="store_true", help="as without a sign of contact")
    parser.add_argument("--json", type=Path, default=Path("output/segments.json"))
    arguments = parser.parse_args()
    first, last = (int(part) for part in arguments.seeds.split(":"))
    contract = replace(load_contract(contract_path("sim_panda")), cameras=())
    environment = TableTopEnv(contract)
    seeds = range(first, last)
    tried = [demonstrate(environment, *job) for job in itertools.product(FAMILIES, seeds)]
    tried += [demonstrate_actions(environment, seed) for seed in seeds]
    episodes: list[tuple[ToolTrajectory, list[Segment]]] = [made for made in tried if made]
    started = time.process_time()
    found = [
        segment_by_rules(replace(t, contact=None) if arguments.no_contact else t)
        for t, _ in episodes
    ]
    rate = len(episodes) / (time.process_time() - started)
    pairs: list[Pair] = [(f, true) for f, (_, true) in zip(found, episodes, strict=True)]
    generator = np.random.default_rng(0)
    wrong: list[Pair] = [(f, shuffled(true, generator)) for f, true in pairs]
    results = {
        "episodes": len(episodes),
        "failed": len(tried) - len(episodes),
        "episodes_per_cpu_second": round(rate, 1),
        "rules": figures(score(pairs)),
        "shuffled": figures(score(wrong)),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
