"""Demonstrations by the scripted expert, with disturbances that it recovers from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.control.arm import ArmControllerConfig
from vla.control.chunk import ActionChunk
from vla.core.processes import worker_pool
from vla.datasets.frames import EpisodeWords, Shard, write_shard
from vla.envs.base import Episode
from vla.envs.tabletop.environment import TableTopEnv, observation_of, run_step
from vla.envs.tabletop.expert import plan_chunk
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import DESTINATIONS, FIRST_TRAINING_SEED


@dataclass(frozen=True)
class DemonstrationConfig:
    """How demonstrations are made."""

    episodes: int = 6000
    seed: int = FIRST_TRAINING_SEED
    # Of each task family.
    shares: dict[str, float] = field(
        default_factory=lambda: {
            "pick": 0.32, "place": 0.38, "open_drawer": 0.15, "close_drawer": 0.15
        }
    )  # fmt: skip
    frame_stride: int = 3  # policy steps between two frames
    noise_share: float = 0.7  # of episodes with disturbed execution
    noise: float = 0.009  # standard deviation per policy step [m]
    slip_chance: float = 0.012  # per step, that the gripper does the opposite for a moment
    detour_share: float = 0.35  # of episodes that start by moving to a random place
    tail_steps: int = 8  # policy steps recorded after success
    time_limit: float = 14.0
    episodes_per_shard: int = 100


@dataclass
class _Disturbance:
    """What happens to one episode's execution; labels are not touched by it."""

    generator: np.random.Generator
    config: DemonstrationConfig
    noisy: bool
    detour: np.ndarray | None
    drift: np.ndarray = field(default_factory=lambda: np.zeros(4))
    slip_steps: int = 0

    def apply(self, chunk: np.ndarray, position: np.ndarray) -> np.ndarray:
        """The chunk as executed from a tool position [3]."""
        executed = chunk.copy()
        if self.detour is not None:
            offset = self.detour - position
            distance = float(np.linalg.norm(offset))
            if distance < 0.03:
                self.detour = None
            executed[:, :3] = 0.0
            executed[:4, :3] = offset * min(1.0, 0.035 / max(distance, 1e-6))
            return executed
        if not self.noisy:
            return executed
        scale = self.config.noise * np.array([1.0, 1.0, 0.8, 4.0])
        self.drift = 0.75 * self.drift + 0.66 * self.generator.normal(0.0, scale)
        executed[:3, :3] += self.drift[:3]
        executed[:3, 5] += self.drift[3]
        if self.slip_steps == 0 and self.generator.random() < self.config.slip_chance:
            self.slip_steps = int(self.generator.integers(2, 5))
        if self.slip_steps > 0:
            self.slip_steps -= 1
            executed[:, 6] = 1.0 - executed[:, 6]
        return executed


@dataclass
class ShardFrames:
    """Frames of a shard that is being made, one list entry per frame, and the episodes' words."""

    images: dict[str, list[np.ndarray]] = field(default_factory=dict)
    state: list[np.ndarray] = field(default_factory=list)
    action: list[np.ndarray] = field(default_factory=list)
    episode: list[int] = field(default_factory=list)
    drawer_opening: list[float] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    time: list[float] = field(default_factory=list)
    episodes: list[EpisodeWords] = field(default_factory=list)

    def drop_from(self, start: int) -> None:
        """Forgets the frames from that one on."""
        lists: list[list[Any]] = [self.state, self.action, self.episode, self.drawer_opening]
        for values in [*lists, self.held, self.time, *self.images.values()]:
            del values[start:]

    def to_shard(self) -> Shard:
        """All frames as arrays."""
        return Shard(
            folder=Path(),
            images={name: np.stack(images) for name, images in self.images.items()},
            state=np.stack(self.state),
            action=np.stack(self.action),
            episode=np.array(self.episode),
            drawer_opening=np.array(self.drawer_opening),
            held=self.held,
            episodes=self.episodes,
            time=np.array(self.time),
        )


def record(
    frames: ShardFrames,
    simulator: TableTopSimulator,
    images: dict[str, np.ndarray],
    state: np.ndarray,
    chunk: np.ndarray,
) -> None:
    """Adds what is seen now, labelled with a chunk [H, A], as a frame of the next episode."""
    for name, image in images.items():
        frames.images.setdefault(name, []).append(image)
    frames.state.append(state)
    frames.action.append(chunk)
    frames.episode.append(len(frames.episodes))
    frames.drawer_opening.append(simulator.drawer_opening)
    frames.time.append(simulator.time)
    held = [
        name
        for name, item in simulator.scene_objects.items()
        if simulator.touching_fingers(item.body) == 2 and simulator.lift(name) > 0.02
    ]
    frames.held.append(held[0] if held else "")


def object_places(simulator: TableTopSimulator) -> dict[str, list[float]]:
    """Places [x, y] of blocks and cans by name [m]."""
    return {
        name: simulator.object_position(name)[:2].round(3).tolist() for name in simulator.objects()
    }


def landmark_places(simulator: TableTopSimulator) -> dict[str, list[float]]:
    """Places [x, y] of bowl and plate [m], where they are on the table."""
    places = {name: simulator.place_position(name) for name in DESTINATIONS}
    return {name: p[:2].round(3).tolist() for name, p in places.items() if p[2] > -0.1}


def demonstrate(
    environment: TableTopEnv,
    episode: Episode,
    frames: ShardFrames,
    config: DemonstrationConfig,
    generator: np.random.Generator,
) -> bool:
    """Records one episode; False when the expert failed."""
    environment.reset(seed=episode.seed, options=episode.options)
    return demonstrate_task(environment, frames, config, generator)


def demonstrate_task(
    environment: TableTopEnv,
    frames: ShardFrames,
    config: DemonstrationConfig,
    generator: np.random.Generator,
) -> bool:
    """Records the environment's task as an episode, from its present scene; False for a failure."""
    simulator, controller, task = environment.simulator, environment.controller, environment.task
    began = simulator.time
    noisy = generator.random() < config.noise_share
    detour = None
    if generator.random() < config.detour_share:
        detour = generator.uniform([0.32, -0.32, 0.06], [0.66, 0.30, 0.36])
    disturbance = _Disturbance(generator, config, noisy, detour)
    start = len(frames.state)
    phase = int(generator.integers(config.frame_stride))
    contract = controller.contract
    step, done_steps = 0, 0
    objects, landmarks = object_places(simulator), landmark_places(simulator)
    while simulator.time - began < config.time_limit and done_steps < config.tail_steps:
        chunk = plan_chunk(simulator, task, contract.horizon)
        position, quaternion = simulator.end_effector_pose()
        if step % config.frame_stride == phase:
            record(frames, simulator, *observation_of(simulator, contract), chunk)
        executed = disturbance.apply(chunk, position)
        controller.accept(
            ActionChunk(simulator.time, contract.time_step, executed, position, quaternion),
            simulator.time,
        )
        run_step(simulator, controller)
        if simulator.check(task).success:
            done_steps += 1
            disturbance.noisy = False
        step += 1
    succeeded = simulator.check(task).success
    if not succeeded:
        frames.drop_from(start)
        return False
    frames.episodes.append(
        EpisodeWords(task.family, task.instruction, task.answer(), objects, landmarks)
    )
    return True


def make_shard(arguments: tuple[int, str, EmbodimentContract, DemonstrationConfig]) -> int:
    """Makes one shard, unless it is there, and returns how many episodes the expert failed."""
    index, folder, contract, config = arguments
    target = Path(folder) / f"shard-{index:05d}"
    if target.exists():
        return 0

    def one_episode(environment, episode, frames, generator) -> bool:
        return demonstrate(environment, episode, frames, config, generator)

    return fill_shard(index, target, contract, config, one_episode)


def fill_shard(
    index: int,
    target: Path,
    contract: EmbodimentContract,
    config: Any,
    one_episode: Callable[[Any, Episode, ShardFrames, np.random.Generator], bool],
    kind: type[TableTopEnv] = TableTopEnv,
) -> int:
    """Writes the shard of that index and returns how many of its episodes failed.

    config: with seed, shares, time_limit and episodes_per_shard. one_episode runs and records an
    episode in an environment of that kind, and says whether it succeeded.
    """
    generator = np.random.default_rng([config.seed, index])
    environment = kind(
        contract,
        delay_steps=2,
        time_limit=config.time_limit,
        control=ArmControllerConfig(control_rate=20.0),
    )
    families, shares = zip(*config.shares.items(), strict=True)
    frames, failures = ShardFrames(), 0
    for number in range(config.episodes_per_shard):
        family = str(generator.choice(families, p=np.array(shares) / sum(shares)))
        seed = config.seed + index * config.episodes_per_shard + number
        episode = Episode(family, seed, {"family": family})
        failures += not one_episode(environment, episode, frames, generator)
    write_shard(target, frames.to_shard(), contract)
    environment.close()
    return failures


def make_demonstrations(
    folder: str | Path,
    contract: EmbodimentContract,
    config: DemonstrationConfig,
    workers: int | None = None,
    on_shard: Callable[[int, int], None] | None = None,
    one_shard: Callable[[Any], int] = make_shard,
) -> int:
    """Makes all shards that are missing, in parallel; returns how many episodes the expert failed.

    on_shard(done, total) is called after each shard. one_shard: makes one, of a module's top level.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    total = -(-config.episodes // config.episodes_per_shard)
    jobs = [(index, str(folder), contract, config) for index in range(total)]
    return run_jobs(one_shard, jobs, workers, on_shard)


def run_jobs(
    job: Callable[[tuple], int],
    arguments: list[tuple],
    workers: int | None = None,
    on_job: Callable[[int, int], None] | None = None,
) -> int:
    """Runs a job for each of its arguments, in parallel processes, and returns the results' sum.

    workers: processes, one per core by default. on_job(done, total) is called after each.
    """
    result = 0
    with worker_pool(max(1, min(workers or os.cpu_count() or 1, len(arguments)))) as pool:
        for done, value in enumerate(pool.imap_unordered(job, arguments), start=1):
            result += value
            if on_job is not None:
                on_job(done, len(arguments))
    return result
