"""How `vla eval` runs a policy: its options, and the policy ready to act."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vla.policies.compiled import MODES
from vla.policies.runtimes import RUNTIMES
from vla_cli.checkpoints import add_inference_options, checkpoint_folder
from vla_cli.errors import CommandError

if TYPE_CHECKING:
    from vla.policies.base import PolicyFeatures
    from vla.policies.policy import Policy

MOST_JOBS = 256


def add_running_options(parser: argparse.ArgumentParser) -> None:
    """Adds where and how the policy acts, with how many threads and processes."""
    add_inference_options(parser)
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default="eager",
        help="what computes action chunks on the CPU (eager)",
    )
    parser.add_argument(
        "--compile",
        choices=MODES,
        default="none",
        help="how its passes run: as they are, compiled, or recorded as CUDA graphs (none)",
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads of the policy (measured once; 1 a job)"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes that run episodes side by side (1)"
    )


def check_processes(arguments: argparse.Namespace) -> None:
    """Raises CommandError where --jobs and --threads can't be as given."""
    jobs, threads = arguments.jobs, arguments.threads
    if not 1 <= jobs <= MOST_JOBS:
        raise CommandError(f"--jobs takes 1 to {MOST_JOBS}, got {jobs}")
    if not 0 <= threads <= 1024:
        raise CommandError(f"--threads takes 0 to 1024, got {threads}")
    if jobs == 1:
        return
    if arguments.video:
        raise CommandError("a video shows episodes one after another: leave --jobs or --video out")
    if threads > 1:
        raise CommandError("each job computes with one thread: leave --jobs or --threads out")


def ready_policy(arguments: argparse.Namespace) -> Policy:
    """The policy, compiled or exported as it is to be, with its number of threads."""
    from vla.policies.threads import settle_threads

    policy = _loaded(arguments, checkpoint_folder(arguments.checkpoint))
    require_thinks(arguments, policy.features)
    if arguments.device == "cpu":
        settle_threads(arguments.threads, policy.act_once, policy.checkpoint_id)
    _make(arguments, policy)
    return policy


def prepare_jobs(arguments: argparse.Namespace, folder: Path) -> None:
    """Makes once, and keeps on disk, what all processes will use."""
    import torch

    if arguments.runtime != "eager" or arguments.compile != "none":
        torch.set_num_threads(1)  # as they have
        _make(arguments, _loaded(arguments, folder))


def _loaded(arguments: argparse.Namespace, folder: Path) -> Policy:
    from vla.policies.policy import Policy

    return Policy.from_pretrained(
        folder,
        arguments.device,
        arguments.adapter,
        dtype=arguments.dtype,
        compile=arguments.compile,
    )


def _make(arguments: argparse.Namespace, policy: Policy) -> None:
    """Compiles and exports, and says how far it is, and why what can't be made isn't."""
    if arguments.compile != "none":
        for done in policy.warm_up():
            print(f"warming up: {done}", file=sys.stderr)
    if problem := policy.use_runtime(arguments.runtime):
        print(problem, file=sys.stderr)


def require_thinks(arguments: argparse.Namespace, features: PolicyFeatures) -> None:
    """Raises CommandError where the policy can't do as --think asks."""
    if arguments.think and not features.thinks:
        raise CommandError("this policy does not say what it will do: leave --think out")
