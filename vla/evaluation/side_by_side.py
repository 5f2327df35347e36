"""Episodes side by side: each in one of some processes, which load the policy once and for all.

An episode depends on its seed alone, not on those before it in its process. So the results are
those of one process, in the same order.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from vla.core.processes import results_in_order
from vla.envs.base import Episode, Suite
from vla.envs.registry import make_suite
from vla.evaluation.benchmark import EpisodeResult, EpisodeRunner
from vla.evaluation.errors import EpisodeError
from vla.policies.policy import Policy


@dataclass(frozen=True)
class EpisodePlan:
    """What a process needs to know for any episode of an evaluation."""

    checkpoint: str  # folder
    benchmark: str
    settings: str = "{}"  # of the benchmark that are not the default, as JSON
    adapter: str = ""  # folder; "" for none
    device: str = "cpu"
    dtype: str = "auto"  # see vla.policies.inference_dtype
    runtime: str = "eager"  # see vla.policies.runtimes
    compile: str = "none"  # see vla.policies.compiled
    think: bool = False
    execution: str = ""  # as given to vla.evaluation.benchmark.evaluate
    blackout: bool = False

    def suite(self) -> Suite:
        """The benchmark. Raises SuiteError."""
        settings: dict[str, Any] = json.loads(self.settings)
        return make_suite(self.benchmark, **settings)


@dataclass(frozen=True)
class _Task:
    """An episode of a plan."""

    plan: EpisodePlan
    episode: Episode
    noise: float


def evaluate_side_by_side(
    plan: EpisodePlan,
    suite: Suite,
    families: Iterable[str],
    seeds: range,
    strengths: Iterable[float],
    jobs: int,
    on_result: Callable[[EpisodeResult], None] | None = None,
) -> list[EpisodeResult]:
    """The results of the same episodes, in the same order, as evaluate() gives one after another.

    suite: the plan's, for the policy's contract. strengths: of noise; all episodes are run with
    each. jobs: processes, whose policies compute with one thread each; they end at once where this
    raises. on_result: is called with each result, in that order. Raises EpisodeError, which names
    the episode, where a process dies, and what evaluate() raises.
    """
    episodes = [episode for family in families for episode in suite.episodes(family, seeds)]
    tasks = [_Task(plan, episode, noise) for noise in strengths for episode in episodes]
    results = []
    for result in results_in_order(_run, tasks, jobs, _killed):
        results.append(result)
        if on_result is not None:
            on_result(result)
    return results


def _killed(task: _Task) -> EpisodeError:
    return EpisodeError(
        f"the process that ran episode {task.episode.family} {task.episode.seed} was killed, "
        "perhaps for lack of memory: try fewer --jobs"
    )


def _run(task: _Task) -> EpisodeResult:
    return _runner(task.plan).run(task.episode, task.noise)


@functools.lru_cache(maxsize=1)
def _runner(plan: EpisodePlan) -> EpisodeRunner:
    """This process's policy and environment."""
    import torch

    torch.set_num_threads(1)
    policy = Policy.from_pretrained(
        plan.checkpoint, plan.device, plan.adapter, dtype=plan.dtype, compile=plan.compile
    )
    policy.use_runtime(plan.runtime)
    return EpisodeRunner(policy, plan.suite(), plan.think, plan.execution, plan.blackout)
