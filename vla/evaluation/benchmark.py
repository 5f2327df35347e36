"""Closed-loop evaluation: a policy on the episodes of a benchmark, success with its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import gymnasium
import numpy as np
from scipy.stats import binomtest

from vla.envs.base import EnvironmentFailure, Episode, Suite, SuiteError
from vla.envs.execution import parse_execution
from vla.envs.rollout import ActingPolicy, run_robustly
from vla.evaluation.image_noise import DisturbedPolicy


@dataclass(frozen=True)
class EpisodeResult:
    """One episode."""

    family: str
    seed: int
    instruction: str
    answer: str  # what the policy said before it acted; empty unasked
    success: bool
    seconds: float  # simulated time until success, or until the episode ended
    # Of the benchmark's own, see Suite.figures.
    figures: dict[str, float | None] = field(default_factory=dict)
    execution: str = ""  # how chunks were followed, as given; "" for as the benchmark does it
    failure: str = ""  # what went wrong, such as "dropped"; "" with success
    digest: str = ""  # of the first observation, see vla.envs.rollout.observation_digest
    # Parts of the task that were tried, by name, and whether they were done; see vla.envs.base.
    subtasks: dict[str, bool] = field(default_factory=dict)
    # What the benchmark itself failed at, twice; such an episode says nothing of the policy.
    error: str = ""
    noise: float = 0.0  # standard deviation of that on the images, in grey levels


@dataclass(frozen=True)
class FamilySummary:
    """Success of one family, at one strength of noise."""

    family: str
    episodes: int  # that were run; all figures are of these
    errors: int  # further ones, in which the benchmark itself failed
    success: float
    success_low: float  # of the 95% Wilson interval
    success_high: float
    median_seconds: float
    figures: dict[str, float | None]  # means; None where no episode has the figure
    failures: dict[str, int]  # episodes by what went wrong, the most frequent first
    subtasks: dict[str, tuple[int, int]]  # how often each was done, and how often it was tried
    noise: float = 0.0  # as of the episodes


@dataclass(frozen=True)
class GroupMeans:
    """Success by group of families, and over all; means of the families' shares."""

    groups: dict[str, float]  # of those that have families here
    families: dict[str, int]  # how many, by group
    mean_of_groups: float  # as published for MetaWorld: each group counts alike
    mean_of_families: float  # each family counts alike
    noise: float = 0.0  # as of the episodes


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a share."""
    if count == 0:
        return 0.0, 1.0
    interval = binomtest(successes, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


class EpisodeRunner:
    """Runs a policy's episodes of a suite, one by one; the last family's environment is kept.

    The parameters are those of evaluate(), which says what is raised.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        suite: Suite,
        think: bool = False,
        execution: str = "",
        blackout: bool = False,
        on_step: Callable[[gymnasium.Env], None] | None = None,
        render_mode: str | None = None,
    ):
        self.suite = suite.for_contract(policy.contract)
        self._policy, self._think, self._blackout = policy, think, blackout
        self._execution, self._on_step, self._render_mode = execution, on_step, render_mode
        self._followed = parse_execution(execution) if execution else None
        self._family = ""
        self._environment: gymnasium.Env | None = None

    def run(self, episode: Episode, noise: float = 0.0) -> EpisodeResult:
        """Runs one episode."""
        environment = self._environment_of(episode.family)
        policy = self._policy
        if noise or self._blackout:
            policy = DisturbedPolicy(policy, noise, self._blackout)
        common: dict[str, Any] = {"execution": self._execution, "noise": noise}
        try:
            rollout = run_robustly(environment, policy, episode, self._think, self._on_step)
        except EnvironmentFailure as failure:
            return EpisodeResult(
                episode.family, episode.seed, "", "", False, 0.0, error=str(failure), **common
            )
        return EpisodeResult(
            episode.family,
            episode.seed,
            rollout.instruction,
            rollout.said or "",
            rollout.success,
            rollout.seconds,
            self.suite.figures(rollout.info, rollout.said),
            failure=rollout.failure,
            digest=rollout.digest,
            subtasks=rollout.info.get("subtasks", {}),
            **common,
        )

    def close(self) -> None:
        """Ends the environment."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def _environment_of(self, family: str) -> gymnasium.Env:
        if self._environment is None or family != self._family:
            self.close()
            environment = self.suite.make(family, self._render_mode)
            if self._followed is not None:
                if not environment.has_wrapper_attr("execution"):
                    raise SuiteError(
                        f"benchmark '{self.suite.name}' follows chunks in its own way only"
                    )
                environment.set_wrapper_attr("execution", self._followed)
            self._environment, self._family = environment, family
        return self._environment


def evaluate(
    policy: ActingPolicy,
    suite: Suite,
    families: Sequence[str],
    seeds: range,
    think: bool = False,
    on_result: Callable[[EpisodeResult], None] | None = None,
    on_step: Callable[[gymnasium.Env], None] | None = None,
    render_mode: str | None = None,
    execution: str = "",
    skip: Collection[tuple[str, int]] = (),
    noise: float = 0.0,
    blackout: bool = False,
) -> list[EpisodeResult]:
    """Runs a policy on the episodes of each family.

    think: has the policy say first what it will do, and act on that. on_step(environment) is called
    after each chunk. render_mode: of the environments, see Suite.make. execution: how chunks are
    followed, see vla.envs.execution; "" for as the benchmark does it. skip: families with seeds
    whose episodes are left out. noise: standard deviation of that on the images in grey levels, see
    vla.evaluation.image_noise; 0 for none. blackout: the policy sees black images. An episode in
    which the benchmark itself fails is repeated once, and then noted as an error.
    Raises SuiteError for an unknown family or an execution that can't be, ContractError where the
    benchmark isn't one for the policy's robot.
    """
    runner = EpisodeRunner(policy, suite, think, execution, blackout, on_step, render_mode)
    runner.suite.require_families(families)
    results = []
    for family in families:
        for episode in runner.suite.episodes(family, seeds):
            if (family, episode.seed) in skip:
                continue
            results.append(runner.run(episode, noise))
            if on_result is not None:
                on_result(results[-1])
    runner.close()
    return results


def summarize(results: list[EpisodeResult]) -> list[FamilySummary]:
    """A summary per family and strength of noise, in the order of the results."""
    summaries = []
    for family, noise in dict.fromkeys((result.family, result.noise) for result in results):
        all_own = [r for r in results if (r.family, r.noise) == (family, noise)]
        own = [result for result in all_own if not result.error]
        successes = sum(result.success for result in own)
        figures: dict[str, float | None] = {}
        for name in own[0].figures if own else ():
            values = [value for r in own if (value := r.figures[name]) is not None]
            figures[name] = sum(values) / len(values) if values else None
        summaries.append(
            FamilySummary(
                family,
                len(own),
                len(all_own) - len(own),
                successes / max(len(own), 1),
                *wilson_interval(successes, len(own)),
                float(np.median([result.seconds for result in own] or [0.0])),
                figures,
                dict(Counter(r.failure for r in own if r.failure).most_common()),
                _subtasks(own),
                noise,
            )
        )
    return summaries


def pooled_summaries(
    results: Sequence[EpisodeResult], sets: Mapping[str, Sequence[str]]
) -> list[FamilySummary]:
    """A summary of the episodes of several families together, per set that has any.

    sets: see Suite.pooled.
    """
    return [
        entry
        for name, families in sets.items()
        for entry in summarize([replace(r, family=name) for r in results if r.family in families])
    ]


def group_means(
    summaries: Sequence[FamilySummary], groups: Mapping[str, Sequence[str]]
) -> list[GroupMeans]:
    """Means over the families of each group that have episodes without an error, by noise.

    groups: see Suite.groups; without any there are no means.
    """
    found = []
    for noise in dict.fromkeys(entry.noise for entry in summaries):
        with_noise = [e for e in summaries if e.noise == noise and e.episodes]
        shares = {entry.family: entry.success for entry in with_noise}
        if means := _means_of_groups(shares, groups):
            found.append(replace(means, noise=noise))
    return found


def _means_of_groups(
    shares: Mapping[str, float], groups: Mapping[str, Sequence[str]]
) -> GroupMeans | None:
    own = {name: [shares[f] for f in families if f in shares] for name, families in groups.items()}
    means = {name: float(np.mean(values)) for name, values in own.items() if values}
    if not means:
        return None
    return GroupMeans(
        means,
        {name: len(own[name]) for name in means},
        float(np.mean(list(means.values()))),
        float(np.mean(list(shares.values()))),
    )


def group_line(means: GroupMeans) -> str:
    """The means as a line of text."""
    parts = [
        f"{name.replace('_', ' ')} {share:.1%} of {means.families[name]}"
        for name, share in means.groups.items()
    ]
    noise = f" with noise {means.noise:g}" if means.noise else ""
    return (
        f"success by group{noise}: {', '.join(parts)} tasks; mean of these groups "
        f"{means.mean_of_groups:.1%}, of all tasks {means.mean_of_families:.1%}"
    )


def _subtasks(results: list[EpisodeResult]) -> dict[str, tuple[int, int]]:
    entries = [entry for result in results for entry in result.subtasks.items()]
    tried = Counter(name for name, _ in entries)
    done = Counter(name for name, is_done in entries if is_done)
    return {name: (done[name], tried[name]) for name in sorted(tried)}


def table(summaries: list[FamilySummary], counted: Sequence[str] = ()) -> str:
    """The summaries as text, one a line, then what went wrong; noise where there is any.

    counted: figures that are no shares, see Suite.counted_figures.
    """
    names = list(dict.fromkeys(name for entry in summaries for name in entry.figures))
    titles = "".join(f"  {name.replace('_', ' ')}" for name in names)
    is_noisy = any(entry.noise for entry in summaries)
    noise_title = "noise  " if is_noisy else ""
    width = max([14, *(len(entry.family) for entry in summaries)])
    lines = [f"{'family':<{width}} {noise_title}episodes  success  95% interval   seconds{titles}"]
    for entry in summaries:
        strength = f"{entry.noise:>5g}  " if is_noisy else ""
        figures = "".join(
            f"  {_shown(entry.figures.get(name), name in counted):>{len(name)}}" for name in names
        )
        lines.append(
            f"{entry.family:<{width}} {strength}{entry.episodes:>8}  {entry.success:>7.0%}  "
            f"{entry.success_low:>5.0%} to {entry.success_high:<5.0%}  "
            f"{entry.median_seconds:>7.1f}{figures}"
        )
    for entry in summaries:
        which = f"{entry.family} with noise {entry.noise:g}" if entry.noise else entry.family
        if entry.failures:
            kinds = ", ".join(f"{count} {kind}" for kind, count in entry.failures.items())
            lines.append(f"{which} failed: {kinds.replace('_', ' ')}")
        if entry.subtasks:
            parts = (f"{name} {done}/{tried}" for name, (done, tried) in entry.subtasks.items())
            lines.append(f"{which} by task: {', '.join(parts).replace('_', ' ')}")
        if entry.errors:
            lines.append(
                f"{which} errors: {entry.errors} further episodes, in which the benchmark itself "
                "failed twice, are not counted"
            )
    return "\n".join(lines)


def _shown(mean: float | None, counted: bool) -> str:
    if mean is None:
        return "-"
    return f"{mean:.2f}" if counted else f"{mean:.0%}"


def report(
    checkpoint_id: str,
    suite: Suite,
    think: bool,
    results: list[EpisodeResult],
    execution: str = "",
    blackout: bool = False,
) -> dict[str, object]:
    """Everything that was measured, ready for JSON. blackout: as in evaluate()."""
    summaries = summarize(results)
    means = [asdict(entry) for entry in group_means(summaries, suite.groups)]
    pooled = pooled_summaries(results, suite.pooled)
    return {
        "benchmark": suite.name,
        "checkpoint_id": checkpoint_id,
        "settings": {
            "think": think,
            "execution": execution,
            "blackout": blackout,
            **suite.settings(),
        },
        **({"groups": means} if means else {}),
        **({"pooled": [flat(entry) for entry in pooled]} if pooled else {}),
        "summary": [flat(entry) for entry in summaries],
        "episodes": [flat(result) for result in results],
    }


def flat(entry: EpisodeResult | FamilySummary) -> dict[str, Any]:
    """The entry for JSON, with the benchmark's own figures beside the others."""
    values = asdict(entry)
    figures = values.pop("figures")
    return values | figures
