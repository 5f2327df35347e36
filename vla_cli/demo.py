"""`vla demo`: the simulated robot follows instructions, and leaves a video, bags and figures."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vla.core.files import (
    checked_entries,
    checked_number,
    checked_text,
    read_json,
    read_json_text,
    read_yaml,
)
from vla.core.resources import given_or_shared
from vla.core.shown import shown_path
from vla.policies.compiled import MODES
from vla.policies.runtimes import AUTO, RUNTIMES
from vla_cli.checkpoints import checkpoint_folder, named_contract
from vla_cli.errors import CommandError
from vla_cli.graph import driven_graph, enter_domain, short
from vla_cli.subcommands import add_command

DESCRIPTION = """\
Start the simulator and all nodes, have the robot follow a few typed instructions, and judge it.

Prints each instruction, what the robot answered and whether the task succeeded. Leaves in the
output folder: demo.json (all figures), latency.md, demo.mp4, bags/ (one per instruction) and
demo.log (what the nodes said). The exit status is 0 when enough instructions succeeded.

examples:
  vla demo
  vla demo --checkpoint checkpoints/nano --output output
  vla demo --config my_instructions.yaml --no-video
"""
VIDEO = {"size": 480, "rate": 10}  # Width and height [px]; frames per second of recorded time.
PACKAGES = ("ros-rclpy", "torch", "transformers", "mujoco", "numpy", "rosbags", "mcap", "mink")


def add_parser(subparsers) -> None:
    """Adds `vla demo`."""
    parser = add_command(
        subparsers, "demo", "watch the simulated robot follow instructions", DESCRIPTION, run_demo
    )
    parser.add_argument(
        "--checkpoint",
        default="checkpoints/nano",
        help="folder of the policy (default: checkpoints/nano)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("config/demo.yaml"),
        help="what to ask of the robot (default: config/demo.yaml)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder for the results"
    )
    parser.add_argument(
        "--launch-file",
        default="sim.launch.xml",
        help="launch file that brings up simulator and nodes (default: sim.launch.xml)",
    )
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default=AUTO,
        help="what computes chunks; openvino exports the policy if it was not before (auto)",
    )
    parser.add_argument(
        "--compile",
        choices=MODES,
        default="none",
        help="how the models run: as they are, compiled, or recorded as CUDA graphs (none)",
    )
    parser.add_argument(
        "--domain-id",
        type=int,
        help="ROS domain to use (default: a free one, so that no other robot is heard)",
    )
    parser.add_argument(
        "--required", type=int, help="successes for exit status 0 (default: as in the config)"
    )
    parser.add_argument("--no-video", action="store_true", help="leave out demo.mp4")


def run_demo(arguments: argparse.Namespace) -> int:
    """Runs the demonstration; 0 when enough instructions succeeded, 1 when not."""
    started = time.monotonic()
    config = load_demo_config(given_or_shared(arguments.config))
    arguments.checkpoint = checkpoint_folder(arguments.checkpoint)
    output = arguments.output.resolve()
    _clear(output)
    domain = enter_domain(arguments.domain_id)
    from vla_nodes.client.demo import Trial

    asked = within_features(config["instructions"], arguments.checkpoint)
    trials = [Trial(**entry) for entry in asked]
    _run_graph(trials, config, arguments, output)
    report = _write_report(trials, config, arguments, output, domain)
    if not arguments.no_video:
        _write_video(trials, config["video"], output)
    report["wall_time_s"] = round(time.monotonic() - started, 1)
    _write_json(output / "demo.json", report)
    print(f"\nResults in {short(output)}: {', '.join(sorted(p.name for p in output.iterdir()))}")
    required = config["required_successes"] if arguments.required is None else arguments.required
    print(f"{report['successes']} of {len(trials)} instructions succeeded ({required} required)")
    return 0 if report["successes"] >= required else 1


def within_features(instructions: list[dict[str, Any]], checkpoint: Path) -> list[dict[str, Any]]:
    """The instructions without what the policy can't do: say what it will do, answer questions.

    Says what is left out. Raises CheckpointError where the checkpoint can't be read.
    """
    from vla.policies.checkpoint import open_checkpoint

    features = open_checkpoint(checkpoint).features
    asked = [dict(entry) for entry in instructions]
    for number, entry in enumerate(asked, start=1):
        if entry.get("mode") == "think" and not features.thinks:
            del entry["mode"]
            print(f"instruction {number}: this policy acts without saying what it will do")
        if entry.get("question") and not features.answers:
            del entry["question"]
            print(f"instruction {number}: this policy answers no questions; it is not asked")
    return asked


def load_demo_config(path: Path) -> dict[str, Any]:
    """Reads the list of instructions. Raises CommandError that says what is wrong with it."""
    config, shown = read_yaml(path, CommandError), shown_path(path)
    known = ("instructions", "time_limit", "required_successes", "video")
    checked_entries(config, shown, CommandError, known)
    instructions = config.get("instructions")
    if not isinstance(instructions, list) or not instructions:
        raise CommandError(f"{shown}: expected a list 'instructions' with at least one entry")
    for index, entry in enumerate(instructions):
        _check_instruction(entry, f"{shown}: instruction {index + 1}")
    video = checked_entries(config.get("video") or {}, f"{shown}: video", CommandError, VIDEO)

    def number(given: dict, name: str, usual: float, lowest: float, highest: float, whole=True):
        what = f"{shown}: {name}"
        return checked_number(given.get(name, usual), what, CommandError, lowest, highest, whole)

    count = len(instructions)
    return {
        "instructions": instructions,
        "time_limit": number(config, "time_limit", 30.0, 1, 3600, whole=False),
        "required_successes": number(config, "required_successes", count, 0, count),
        "video": {
            "size": number(video, "size", VIDEO["size"], 16, 4096),
            "rate": number(video, "rate", VIDEO["rate"], 1, 120),
        },
    }


def _check_instruction(entry: Any, where: str) -> None:
    """Raises CommandError where an entry of the list is none that can be run."""
    texts = ("family", "instruction", "mode", "question")
    checked_entries(entry, where, CommandError, ("seed", *texts))
    if not {"seed", "family"} <= entry.keys():
        raise CommandError(f"{where} needs 'seed' and 'family'")
    checked_number(entry["seed"], f"{where}: seed", CommandError, 0, 2**31, whole=True)
    for name in texts:
        checked_text(entry.get(name, ""), f"{where}: {name}", CommandError)


def _run_graph(trials, config, arguments: argparse.Namespace, output: Path) -> None:
    print("Starting the simulator and the nodes ...", flush=True)
    checkpoint, runtime = arguments.checkpoint.resolve(), arguments.runtime
    launch_arguments = [
        f"checkpoint:={checkpoint}",
        f"runtime:={runtime}",
        f"compile:={arguments.compile}",
    ]
    log = output / "demo.log"
    with driven_graph(arguments.launch_file, launch_arguments, log) as (client, still_running):
        client.configure_recorder(str(output / "bags"))
        for index, trial in enumerate(trials):
            still_running()
            print(f"\n[{index + 1}/{len(trials)}] {trial.family}, seed {trial.seed}")
            client.run_trial(trial, config["time_limit"], _tell)
            verdict = "done" if trial.success else "not done"
            reason = f" ({trial.message})" if trial.message else ""
            _tell(f"result:       {verdict} after {trial.seconds:.1f} s{reason}")


def _tell(line: str) -> None:
    print(f"  {line}", flush=True)


def _write_report(
    trials, config, arguments: argparse.Namespace, output: Path, domain: int
) -> dict[str, Any]:
    from vla.bags.reader import read_metadata, validate_bag
    from vla.evaluation.graph_timing import format_table, measure_graph

    bags = [Path(trial.bag) for trial in trials]
    for bag in bags:
        validate_bag(bag)
    metadata = [read_metadata(bag).custom_data for bag in bags]
    contract = named_contract("sim_panda")
    timing = measure_graph(bags, contract)
    table = format_table(timing)
    (output / "latency.md").write_text(table)
    print(f"\n{table}", end="")
    instructions = [
        {**asdict(trial), "bag": os.path.relpath(trial.bag, output)} for trial in trials
    ]
    return {
        "finished_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "instructions": instructions,
        "successes": sum(trial.success for trial in trials),
        "required_successes": config["required_successes"],
        "time_limit_s": config["time_limit"],
        **timing,
        "dropped_messages": {
            bag.name: read_json_text(custom.get("drops", "{}"), f"{bag}: drops", CommandError)
            for bag, custom in zip(bags, metadata, strict=True)
        },
        "checkpoint": {
            "path": str(arguments.checkpoint),
            "id": metadata[0].get("checkpoint_id", ""),
        },
        "contract_id": contract.contract_id,
        "ros_domain_id": domain,
        "versions": versions(),
        "machine": machine(),
    }


def versions() -> dict[str, str]:
    """Versions of this package and of what the figures depend on."""
    import vla

    found = {"vla_ros": vla.__version__, "python": platform.python_version()}
    found["ros_distro"] = os.environ.get("ROS_DISTRO", "")
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
    }


def _write_video(trials, video: dict[str, Any], output: Path) -> None:
    from vla.envs.tabletop.replay_video import EpisodeFootage, write_video

    print("\nRendering demo.mp4 ...", flush=True)
    footage = [
        EpisodeFootage(
            Path(trial.bag),
            trial.seed,
            trial.family,
            trial.instruction,
            trial.answer or trial.question_answer,
            trial.success,
        )
        for trial in trials
    ]
    write_video(output / "demo.mp4", footage, size=video["size"], rate=video["rate"])


def _clear(output: Path) -> None:
    """Removes what an earlier demonstration left, and nothing else: bags may be anybody's."""
    output.mkdir(parents=True, exist_ok=True)
    try:
        earlier = read_json(output / "demo.json", CommandError)
        bags = [output / trial["bag"] for trial in earlier["instructions"] if trial["bag"]]
    except (CommandError, KeyError, TypeError):
        bags = []
    for bag in bags:
        if bag.resolve().parent == output / "bags":
            shutil.rmtree(bag, ignore_errors=True)
    for name in ("demo.json", "demo.mp4", "demo.log", "latency.md"):
        (output / name).unlink(missing_ok=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
