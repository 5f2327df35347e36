"""`vla teach-demo`: the whole loop in simulation, from demonstrations to a new skill."""

from __future__ import annotations

import argparse
import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vla.core.files import read_json
from vla_cli import data, finetune
from vla_cli.checkpoints import checkpoint_folder, named_contract
from vla_cli.errors import CommandError
from vla_cli.evaluate import seed_range
from vla_cli.finetune import CONFIG
from vla_cli.graph import driven_graph, enter_domain, short
from vla_cli.subcommands import add_command

DESCRIPTION = """\
Teach the simulated robot a task that its policy was not trained on. The scripted operator
demonstrates it through the ROS graph while the recorder records. The bags become an annotated data
set, on which an adapter is fine-tuned and then loaded into the running graph. Success on unseen
seeds before and after, of the new task and of the old ones, goes to teach.json.

What an earlier call finished in the output folder is kept, so an interrupted call continues where
it stopped. To start from scratch, name another folder.

examples:
  vla teach-demo
  vla teach-demo --demonstrations 10 --seeds 0:20 --old-seeds 0:10 --output output/teach_10
"""
# Operators demonstrate on seeds that neither training nor evaluation uses.
FIRST_SEED = 4_000_000
# Of a demonstration [s].
TIME_LIMIT = 20.0


def add_parser(subparsers) -> None:
    """Adds `vla teach-demo`."""
    parser = add_command(
        subparsers,
        "teach-demo",
        "teach the simulated robot a new task",
        DESCRIPTION,
        run_teach_demo,
    )
    parser.add_argument("--checkpoint", default="checkpoints/nano", help="the policy's folder")
    parser.add_argument("--family", default="store", help="task family to teach (store)")
    parser.add_argument("--demonstrations", type=int, default=20, help="how many (20)")
    parser.add_argument("--seeds", default="0:50", metavar="A:B", help="of the new task (0:50)")
    parser.add_argument("--old-seeds", default="0:25", metavar="A:B", help="of each old (0:25)")
    parser.add_argument("--trials", type=int, default=5, help="through the graph afterwards (5)")
    parser.add_argument("--output", type=Path, default=Path("output/teach"), help="folder")
    parser.add_argument("--domain-id", type=int, help="ROS domain to use (default: a free one)")
    parser.add_argument(
        "--time-limit", type=float, default=20.0, help="of the policy's episodes [s] (20)"
    )
    parser.add_argument("--config", default=CONFIG, help=f"recipe of fine-tuning ({CONFIG})")
    parser.add_argument("--steps", type=int, help="of fine-tuning (default: by the episodes)")


def run_teach_demo(arguments: argparse.Namespace) -> int:
    """Runs the steps that are not done yet, and prints the result."""
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = checkpoint_folder(arguments.checkpoint).resolve()
    enter_domain(arguments.domain_id)
    steps = _Steps(output / "steps.json")
    with steps.timed("demonstrate"):
        _demonstrate(arguments, checkpoint, output)
    with steps.timed("convert"):
        _command("data", "convert", output / "bags", output / "dataset", unless=output / "dataset")
    dataset = output / "dataset"
    with steps.timed("annotate"):
        _command("data", "annotate", dataset, "--truth", unless=dataset / "meta/annotations.json")
    run = output / "run"
    with steps.timed("finetune"):
        more = ["--config", arguments.config]
        more += ["--steps", arguments.steps] if arguments.steps else []
        _command(
            "finetune", "--checkpoint", checkpoint, "--data", dataset, "--output", run, *more,
            unless=run / "finetune.json",
        )  # fmt: skip
    with steps.timed("graph"):
        _try_in_graph(arguments, checkpoint, output)
    for name, adapter in (("before", None), ("after", run / "adapter")):
        with steps.timed(f"evaluate_{name}"):
            _evaluate(arguments, checkpoint, output, name, adapter)
    return _report(arguments, output, steps)


def _read(path: Path) -> Any:
    """What an earlier step of the same demonstration wrote."""
    return read_json(path, CommandError, 1_000_000_000, finite=False)


class _Steps:
    """Wall seconds of each step over all calls."""

    def __init__(self, path: Path):
        self.path = path
        self.seconds: dict[str, float] = _read(path) if path.exists() else {}

    @contextmanager
    def timed(self, name: str):
        print(f"\n== {name} ==", flush=True)
        started = time.monotonic()
        try:
            yield
        finally:
            spent = self.seconds.get(name, 0.0) + time.monotonic() - started
            self.seconds[name] = round(spent, 1)
            self.path.write_text(json.dumps(self.seconds, indent=1) + "\n")


def _command(*words, unless: Path) -> None:
    """Runs a subcommand, as the operator would, unless what it makes is there."""
    if unless.exists():
        print(f"kept: {short(unless)}")
        return
    text = [str(word) for word in words]
    print(f"vla {' '.join(text)}", flush=True)
    parser = argparse.ArgumentParser(prog="vla")
    subparsers = parser.add_subparsers(required=True)
    for module in (data, finetune):
        module.add_parser(subparsers)
    parsed = parser.parse_args(text)
    if status := parsed.run(parsed):
        raise CommandError(f"vla {' '.join(text)} ended with exit status {status}", status)


def _graph(checkpoint: Path, output: Path):
    return driven_graph("sim.launch.xml", [f"checkpoint:={checkpoint}"], output / "nodes.log")


def _demonstrate(arguments: argparse.Namespace, checkpoint: Path, output: Path) -> None:
    from vla_nodes.client.scripted_operator import OperatorStation, demonstrate_episode

    path = output / "demonstrations.json"
    done = _read(path) if path.exists() else []
    wanted = arguments.demonstrations
    if len(done) >= wanted:
        print(f"kept: {len(done)} demonstrations")
        return
    seed = done[-1]["seed"] + 1 if done else FIRST_SEED
    contract = named_contract("sim_panda")
    with _graph(checkpoint, output) as (client, still_running):
        client.configure_recorder(str(output / "bags"))
        with OperatorStation(client, contract) as operator:
            while len(done) < wanted:
                still_running()
                episode = demonstrate_episode(client, operator, seed, arguments.family, TIME_LIMIT)
                seed += 1
                verdict = f"{episode.seconds:.1f} s" if episode.success else "failed, discarded"
                print(f"[{len(done) + episode.success}/{wanted}] {episode.instruction}: {verdict}")
                if episode.success:
                    done.append(
                        {
                            "seed": episode.seed,
                            "instruction": episode.instruction,
                            "bag": str(Path(episode.bag).relative_to(output)),
                            "seconds": episode.seconds,
                        }
                    )
                    path.write_text(json.dumps(done, indent=1) + "\n")
                elif seed - FIRST_SEED > 3 * wanted + 10:
                    raise CommandError("the operator fails too often; see nodes.log")


def _try_in_graph(arguments: argparse.Namespace, checkpoint: Path, output: Path) -> None:
    """One trial of the running policy as it is, and some after the adapter was loaded into it."""
    from dataclasses import asdict

    from vla_nodes.client.demo import Trial

    path = output / "graph.json"
    if path.is_file():
        print(f"kept: {short(path)}")
        return
    first = seed_range(arguments.seeds).start
    with _graph(checkpoint, output) as (client, still_running):
        client.configure_recorder(str(output / "trials"))

        def trial(seed: int) -> dict:
            still_running()
            entry = Trial(seed=seed, family=arguments.family)
            client.run_trial(
                entry, arguments.time_limit, lambda line: print(f"  {line}", flush=True)
            )
            print(f"  result:       {'done' if entry.success else 'not done'}")
            return asdict(entry) | {"bag": str(Path(entry.bag).relative_to(output))}

        before = trial(first)
        started = time.monotonic()
        loaded = client.load_adapter(str(output / "run" / "adapter"))
        seconds = time.monotonic() - started
        if not loaded.success:
            raise CommandError(f"the adapter was not loaded: {loaded.message}")
        print(f"loaded in {seconds:.2f} s: {loaded.checkpoint_id}")
        after = [trial(first + index) for index in range(arguments.trials)]
        dropped = client.load_adapter("")
    results = {
        "before_loading": before,
        "loading_s": round(seconds, 2),
        "checkpoint_id": loaded.checkpoint_id,
        "after_loading": after,
        "after_dropping": dropped.checkpoint_id,
    }
    path.write_text(json.dumps(results, indent=1) + "\n")


def _evaluate(arguments, checkpoint: Path, output: Path, name: str, adapter: Path | None) -> None:
    """The new task and the old ones, an episode on each core."""
    import os

    from vla.envs.tabletop.suite import TableTop
    from vla.envs.tabletop.tasks import FAMILIES
    from vla.evaluation.benchmark import report, summarize, table
    from vla.evaluation.side_by_side import EpisodePlan, evaluate_side_by_side

    path = output / f"evaluation_{name}.json"
    if path.is_file():
        print(f"kept: {short(path)}")
        return
    suite = TableTop(time_limit=arguments.time_limit)
    settings = json.dumps({"time_limit": arguments.time_limit})
    plan = EpisodePlan(str(checkpoint), suite.name, settings, str(adapter or ""))
    results = []
    for families, seeds in (
        ((arguments.family,), arguments.seeds),
        (FAMILIES, arguments.old_seeds),
    ):
        results += evaluate_side_by_side(
            plan, suite, families, seed_range(seeds), (0.0,), os.cpu_count() or 1
        )
    print(table(summarize(results)))
    from vla.policies.adapters import adapted_id, open_adapter
    from vla.policies.checkpoint import open_checkpoint

    acting = adapted_id(open_checkpoint(checkpoint), open_adapter(adapter) if adapter else None)
    content = report(acting, suite, False, results)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _report(arguments: argparse.Namespace, output: Path, steps: _Steps) -> int:
    from vla_cli.demo import machine, versions

    evaluations = {name: _read(output / f"evaluation_{name}.json") for name in ("before", "after")}
    families: dict[str, dict[str, dict]] = {}
    for name, evaluation in evaluations.items():
        for entry in evaluation["summary"]:
            families.setdefault(entry["family"], {})[name] = entry
    old = [entry for family, entry in families.items() if family != arguments.family]
    change = {name: sum(e[name]["success"] for e in old) / len(old) for name in evaluations}
    report = {
        "family": arguments.family,
        "new_task": {name: families[arguments.family][name]["success"] for name in evaluations},
        "old_tasks": change,
        "families": families,
        "demonstrations": _read(output / "demonstrations.json"),
        "conversion": _read(output / "dataset/meta/conversion.json"),
        "finetune": _read(output / "run/finetune.json"),
        "graph": _read(output / "graph.json"),
        "seconds": steps.seconds,
        "total_minutes": round(sum(steps.seconds.values()) / 60, 1),
        "versions": versions(),
        "machine": machine(),
    }
    path = output.with_name(f"{output.name}.json")
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{'task':<14} {'before':>7} {'after':>7}")
    for family, entry in families.items():
        print(f"{family:<14} {entry['before']['success']:>7.0%} {entry['after']['success']:>7.0%}")
    print(f"old tasks together: {change['before']:.1%} before, {change['after']:.1%} after")
    print(f"{report['total_minutes']} minutes in all; written: {short(path)}")
    return 0
