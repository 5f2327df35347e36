"""Closed-loop evaluation in process: families, seeds, success with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from vla.control.arm import ArmController, ArmControllerConfig
from vla.envs.tabletop.demonstrations import object_places, observation_of
from vla.envs.tabletop.driving import learned_policy
from vla.envs.tabletop.rollout import run_episode
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import Task
from vla.envs.tabletop.wording import WORDINGS, reworded_task
from vla.policies.instructvla.inference import ActionModel, Reasoner


class EvaluationError(ValueError):
    """An evaluation that cannot be run as asked."""


@dataclass(frozen=True)
class SeedResult:
    """One episode. answered_right: the thought names the right action and object; None unasked."""

    family: str
    seed: int
    instruction: str
    answer: str
    success: bool
    wrong_object: bool
    seconds: float
    answered_right: bool | None


@dataclass(frozen=True)
class FamilySummary:
    """Success of one family with its 95% Wilson interval."""

    family: str
    episodes: int
    success: float
    success_low: float
    success_high: float
    wrong_object: float
    median_seconds: float
    answered_right: float | None


@dataclass
class EvaluationSettings:
    """How episodes are run.

    steps_per_chunk: policy steps executed of each chunk. delay_steps: policy steps between an
    observation and its chunk. latent_every: chunks that share one latent action. think: answer in
    text first, and act on the answer. wording: of the instructions, see vla.envs.tabletop.wording;
    other ones than "direct" are of the sentences that training never has.
    """

    think: bool = False
    steps_per_chunk: int = 3
    delay_steps: int = 2
    latent_every: int = 1
    time_limit: float = 20.0
    wording: str = "direct"


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a share."""
    if count == 0:
        return 0.0, 1.0
    z, share = 1.959964, successes / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def worded_scenes(
    simulator: TableTopSimulator, family: str, seeds: range, wording: str
) -> Iterator[tuple[int, Task]]:
    """Lays out one scene after the other and gives each one's seed and task.

    A scene without an instruction of the wording is passed over, and one of a further seed comes in
    its place, so that there are as many as seeds. Raises EvaluationError where too few scenes have
    one.
    """
    found, last = 0, seeds[-1] + 20 * len(seeds)
    for seed in chain(seeds, range(seeds[-1] + 1, last + 1)):
        task: Task | None = simulator.reset(seed, family)
        if wording != "direct":
            generator = np.random.default_rng([seed, sum(family.encode()), WORDINGS.index(wording)])
            places = object_places(simulator)
            task = reworded_task(task, places, wording, generator, split="test")
        if task is not None:
            found += 1
            yield seed, task
        if found == len(seeds):
            return
    raise EvaluationError(
        f"only {found} of the scenes up to seed {last} allow the wording '{wording}'"
    )


def evaluate(
    checkpoint: str | Path,
    families: list[str],
    seeds: range,
    settings: EvaluationSettings,
    device: str = "cpu",
    on_result: Callable[[SeedResult], None] | None = None,
    on_step: Callable[[TableTopSimulator], None] | None = None,
    adapter: str | Path = "",
) -> list[SeedResult]:
    """Runs a checkpoint on every family and seed, or further seeds, see worded_scenes.

    Raises CheckpointError where it can't be used, EvaluationError for an unknown wording.
    """
    if settings.wording not in WORDINGS:
        raise EvaluationError(f"unknown wording '{settings.wording}'; known: {', '.join(WORDINGS)}")
    reasoner = Reasoner.from_pretrained(checkpoint, device, adapter)
    action_model = ActionModel.from_pretrained(checkpoint, device, adapter)
    contract = action_model.contract
    simulator = TableTopSimulator(contract.cameras[0].width)
    controller = ArmController(ArmControllerConfig(), contract)
    results = []
    for family in families:
        for seed, task in worded_scenes(simulator, family, seeds, settings.wording):
            answer, right, response = "", None, None
            if settings.think:
                images, _ = observation_of(simulator, contract)
                answer = response = reasoner.think(images, task.instruction)
                right = answer.lower().rstrip(".") == task.answer().rstrip(" .")
            episode = run_episode(
                simulator,
                controller,
                learned_policy(reasoner, action_model, response, settings.latent_every, seed),
                task,
                settings.time_limit,
                settings.steps_per_chunk,
                settings.delay_steps,
                on_step,
            )
            result = SeedResult(
                family, seed, task.instruction, answer, answered_right=right, **asdict(episode)
            )
            results.append(result)
            if on_result is not None:
                on_result(result)
    simulator.close()
    return results


def summarize(results: list[SeedResult]) -> list[FamilySummary]:
    """A summary per family, in the order of the results."""
    summaries = []
    for family in dict.fromkeys(result.family for result in results):
        own = [result for result in results if result.family == family]
        successes = sum(result.success for result in own)
        low, high = wilson_interval(successes, len(own))
        answered = [r.answered_right for r in own if r.answered_right is not None]
        summaries.append(
            FamilySummary(
                family,
                len(own),
                successes / len(own),
                low,
                high,
                sum(result.wrong_object for result in own) / len(own),
                float(np.median([result.seconds for result in own])),
                sum(answered) / len(answered) if answered else None,
            )
        )
    return summaries


def table(summaries: list[FamilySummary]) -> str:
    """The summaries as text, one family a line."""
    lines = ["family         episodes  success  95% interval   wrong object  seconds  answer right"]
    for entry in summaries:
        answered = "-" if entry.answered_right is None else f"{entry.answered_right:.0%}"
        lines.append(
            f"{entry.family:<14} {entry.episodes:>8}  {entry.success:>7.0%}  "
            f"{entry.success_low:>5.0%} to {entry.success_high:<5.0%}  "
            f"{entry.wrong_object:>12.0%}  {entry.median_seconds:>7.1f}  {answered:>12}"
        )
    return "\n".join(lines)


def report(
    checkpoint_id: str, settings: EvaluationSettings, results: list[SeedResult]
) -> dict[str, object]:
    """Everything that was measured, ready for JSON."""
    return {
        "checkpoint_id": checkpoint_id,
        "settings": asdict(settings),
        "summary": [asdict(entry) for entry in summarize(results)],
        "episodes": [asdict(result) for result in results],
    }
