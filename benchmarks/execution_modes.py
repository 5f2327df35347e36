#!/usr/bin/env python3
"""Execution modes against slow inference: jerk, task time and success, in the simulator.

    python benchmarks/execution_modes.py --latencies 0.1 0.3 0.8 --episodes 25

Inference is as slow as asked in simulated time: an observation is taken, its chunk arrives
`latency` later, and the next observation is taken then. Everything else is what the nodes run: the
checkpoint's two halves, the arm controller with its safety stage, the simulator. Results are
appended to a file of JSON lines as they come, so that an interrupted run goes on from there.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from vla.control.arm import ArmController, ArmControllerConfig
from vla.control.chunk import ActionChunk, ChunkError
from vla.control.committed import committed_actions
from vla.control.execution import ExecutionConfig
from vla.envs.tabletop.environment import observation_of
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.evaluation.benchmark import wilson_interval
from vla.policies.instructvla.inference import ActionModel, Reasoner

MODES = {
    "chunk": {"mode": "chunk"},
    "first": {"mode": "first"},
    "ensemble uniform": {"mode": "ensemble", "weights": "uniform"},
    "ensemble exponential": {"mode": "ensemble", "weights": "exponential"},
    "ensemble cosine": {"mode": "ensemble", "weights": "cosine"},
    "real_time": {"mode": "real_time"},
}
FAMILIES = ("pick", "place", "open_drawer", "close_drawer")
CONTROL_RATE = 100.0
# Success has to last this long [s].
SUCCESS_TIME = 0.5


@dataclass(frozen=True)
class Episode:
    """One episode. Jerk: root mean square while the arm moved, of the joints and of the tool.

    largest_acceleration: of any joint [rad/s^2]. held: share of the time in which no chunk was
    there to follow.
    """

    mode: str
    latency: float
    family: str
    seed: int
    success: bool
    seconds: float
    joint_jerk: float
    tool_jerk: float
    largest_acceleration: float
    held: float


class SlowPolicy:
    """The checkpoint as a policy whose chunks come `latency` after their observations."""

    def __init__(
        self,
        reasoner: Reasoner,
        model: ActionModel,
        arm: ArmController,
        latency: float,
        soft_steps: int,
        max_guidance: float,
    ):
        self.reasoner, self.model, self.arm = reasoner, model, arm
        self.latency, self.soft_steps, self.max_guidance = latency, soft_steps, max_guidance
        self.waiting: ActionChunk | None = None
        self.newest: ActionChunk | None = None

    def observe(self, simulator: TableTopSimulator, instruction: str, seed: int | None) -> None:
        """Takes an observation; what comes of it arrives later."""
        images, state = observation_of(simulator, self.model.contract)
        latent = self.reasoner.latent_action(images, instruction)
        position, quaternion = simulator.end_effector_pose()
        before = None
        if self.arm.config.execution.mode == "real_time" and self.newest is not None:
            before = committed_actions(
                self.newest,
                simulator.time,
                position,
                quaternion,
                self.latency + self.arm.lookahead,
                self.soft_steps,
                self.latency,
            )
        actions = self.model.action_chunk(images, state, latent, seed, before, self.max_guidance)
        step = self.model.contract.time_step
        self.waiting = ActionChunk(simulator.time, step, actions, position, quaternion)

    def deliver(self, now: float) -> bool:
        """Hands a chunk over whose time has come; True then."""
        if self.waiting is None or now < self.waiting.stamp + self.latency - 1e-6:
            return False
        try:
            self.arm.accept(self.waiting, now)
            self.newest = self.waiting
        except ChunkError as error:
            print(f"refused: {error}", file=sys.stderr)
        self.waiting = None
        return True


def run_episode(
    simulator: TableTopSimulator,
    policy: SlowPolicy,
    name: str,
    family: str,
    seed: int,
    time_limit: float,
) -> Episode:
    """Runs one episode and measures the commanded motion."""
    arm, period = policy.arm, 1.0 / CONTROL_RATE
    task = simulator.reset(seed, family)
    arm.reset()
    policy.waiting = policy.newest = None
    torch.manual_seed(seed)
    policy.observe(simulator, task.instruction, seed)
    commands, held, lasted, success = [], 0, 0.0, False
    while simulator.time < time_limit and not success:
        if policy.deliver(simulator.time):
            policy.observe(simulator, task.instruction, None)
        command = arm.step(simulator.time, simulator.joint_positions)
        commands.append(command)
        held += not command.executing
        simulator.command(command.joint_positions, command.gripper_width)
        simulator.step(period)
        lasted = lasted + period if simulator.check(task).success else 0.0
        success = lasted >= SUCCESS_TIME
    accelerations = np.array([command.joint_accelerations for command in commands])
    places = np.array([command.tool_position for command in commands])
    jerks = np.diff(accelerations, axis=0) / period
    tool_jerks = np.diff(places, n=3, axis=0) / period**3
    return Episode(
        name,
        policy.latency,
        family,
        seed,
        success,
        round(simulator.time, 2),
        float(np.sqrt((jerks**2).sum(axis=1).mean())),
        float(np.sqrt((tool_jerks**2).sum(axis=1).mean())),
        float(np.abs(accelerations).max()),
        held / len(commands),
    )


def table(episodes: list[Episode]) -> str:
    """A markdown table, a line for each latency and mode."""
    lines = [
        "| inference [ms] | mode | success | 95% interval | task time [s] | joint jerk RMS "
        "[rad/s³] | tool jerk RMS [m/s³] | largest joint acceleration [rad/s²] | held |",
        "|---:|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for latency in sorted({episode.latency for episode in episodes}):
        for name in MODES:
            own = [e for e in episodes if e.mode == name and e.latency == latency]
            if not own:
                continue
            done = [episode for episode in own if episode.success]
            low, high = wilson_interval(len(done), len(own))
            seconds = f"{np.median([e.seconds for e in done]):.1f}" if done else "-"

            def middle(field: str, own: list[Episode] = own) -> float:
                return float(np.median([getattr(episode, field) for episode in own]))

            lines.append(
                f"| {1e3 * latency:.0f} | {name} | {len(done)} of {len(own)} | "
                f"{low:.0%} to {high:.0%} | {seconds} | {middle('joint_jerk'):.1f} | "
                f"{middle('tool_jerk'):.1f} | {middle('largest_acceleration'):.1f} | "
                f"{middle('held'):.0%} |"
            )
    return "\n".join(lines)


def read_results(path: Path) -> list[Episode]:
    """The episodes of a file that may not be there yet."""
    if not path.exists():
        return []
    return [Episode(**json.loads(line)) for line in path.read_text().splitlines()]


def main() -> None:
    """Runs what is asked for and not measured yet, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="checkpoints/nano")
    parser.add_argument("--latencies", type=float, nargs="+", default=[0.1, 0.3, 0.8])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--episodes", type=int, default=25, help="for each cell of the table")
    parser.add_argument("--soft-steps", type=int, default=4, help="of real-time chunking")
    parser.add_argument("--max-guidance", type=float, default=2.0, help="of real-time chunking")
    parser.add_argument("--time-limit", type=float, default=25.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("output/execution_modes.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    reasoner = Reasoner.from_pretrained(arguments.checkpoint)
    model = ActionModel.from_pretrained(arguments.checkpoint)
    simulator = TableTopSimulator(model.contract.cameras[0].width)
    episodes = read_results(arguments.output)
    known = {(e.mode, e.latency, e.family, e.seed) for e in episodes}
    wanted = [
        (name, latency, FAMILIES[number % len(FAMILIES)], number // len(FAMILIES))
        for number in range(arguments.episodes)
        for latency in arguments.latencies
        for name in arguments.modes
    ]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    horizon = model.horizon * model.contract.time_step
    with arguments.output.open("a") as stream:
        for name, latency, family, seed in tqdm([w for w in wanted if w not in known]):
            # A chunk may be followed to its end: with 800 ms, half of it is over when it comes.
            execution = ExecutionConfig(max_chunk_age=horizon, **MODES[name])
            config = replace(ArmControllerConfig(), control_rate=CONTROL_RATE, execution=execution)
            arm = ArmController(config, model.contract)
            policy = SlowPolicy(
                reasoner, model, arm, latency, arguments.soft_steps, arguments.max_guidance
            )
            episode = run_episode(simulator, policy, name, family, seed, arguments.time_limit)
            episodes.append(episode)
            stream.write(json.dumps(asdict(episode)) + "\n")
            stream.flush()
    print(table(episodes))


if __name__ == "__main__":
    main()
