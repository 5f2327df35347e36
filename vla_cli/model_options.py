"""Options of commands that ask a model behind an endpoint: how to ask it, and what it may cost."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from vla_cli.errors import CommandError

if TYPE_CHECKING:
    from vla.annotation.asking import AskSummary
    from vla.annotation.endpoint import EndpointConfig
    from vla.annotation.estimate import Estimate
    from vla.annotation.record_file import Kept, Plan

LOCAL_SERVER = "http://localhost:8000/v1"


def add_model_options(parser, prompt: str, image_size: int, temperature: float) -> None:
    """Adds how a model is asked to a group of options, with these defaults."""
    add_endpoint_options(parser)
    parser.add_argument("--prompt", default=prompt, metavar="FILE", help=f"({prompt})")
    parser.add_argument(
        "--image-size", type=int, default=image_size, help=f"longest side [px] ({image_size})"
    )
    parser.add_argument(
        "--temperature", type=float, default=temperature, help=f"of the model ({temperature:g})"
    )
    parser.add_argument("--max-tokens", type=int, default=2000, help="of a reply (2000)")
    parser.add_argument(
        "--response-format",
        choices=("json_schema", "json_object", "none"),
        default="json_schema",
        help="for servers that know no schema; replies are checked in any case (json_schema)",
    )
    parser.add_argument("--concurrency", type=int, default=4, help="requests at once (4)")
    parser.add_argument("--timeout", type=float, default=120.0, help="for a reply [s] (120)")
    parser.add_argument("--attempts", type=int, default=5, help="for each episode (5)")
    parser.add_argument(
        "--longest-pause", type=float, default=120.0, help="between attempts [s] (120)"
    )


def add_cost_options(parser) -> None:
    """Adds what a model may cost to a group of options."""
    parser.add_argument("--price-in", type=float, metavar="PRICE", help="a million input tokens")
    parser.add_argument("--price-out", type=float, metavar="PRICE", help="a million output tokens")
    parser.add_argument("--estimate", action="store_true", help="print the cost and stop")
    parser.add_argument(
        "--ask-above", type=float, default=1.0, metavar="COST", help="cost that needs a yes (1.0)"
    )
    parser.add_argument("--yes", action="store_true", help="continue at any cost")


def add_episode_options(parser) -> None:
    """Adds which episodes are asked about."""
    parser.add_argument("--episodes", metavar="A:B", help="episodes A to B-1 (default: all)")
    parser.add_argument(
        "--changed",
        choices=("stop", "keep", "redo"),
        default="stop",
        help="episodes that were done with other settings (stop, and say which)",
    )


def check_model_options(arguments: argparse.Namespace) -> None:
    """Raises CommandError for numbers that make no sense."""
    if arguments.estimate and not arguments.model:
        raise CommandError("--estimate is for a --model; nothing else costs anything")
    least = {"concurrency": 1, "attempts": 1, "image_size": 32, "max_tokens": 1}
    for name, value in least.items():
        if getattr(arguments, name) < value:
            raise CommandError(f"--{name.replace('_', '-')} takes a number from {value} on")
    if arguments.timeout <= 0 or arguments.longest_pause <= 0:
        raise CommandError("--timeout and --longest-pause take seconds above 0")
    if min(arguments.price_in or 0.0, arguments.price_out or 0.0) < 0:
        raise CommandError("--price-in and --price-out take prices from 0 on")


def add_endpoint_options(parser) -> None:
    """Adds where a model is to a group of options."""
    parser.add_argument("--base-url", default=LOCAL_SERVER, help=f"endpoint ({LOCAL_SERVER})")
    parser.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable with the key (none is sent)"
    )


def api_key(arguments: argparse.Namespace) -> str:
    """The key of the endpoint, "" for none. Raises CommandError where it is missing."""
    if not arguments.api_key_env:
        return ""
    key = os.environ.get(arguments.api_key_env, "")
    if not key:
        raise CommandError(f"the environment variable {arguments.api_key_env} is not set")
    return key


def endpoint_config(arguments: argparse.Namespace) -> EndpointConfig:
    """How the endpoint is asked. Raises CommandError where the key is missing."""
    from vla.annotation.endpoint import EndpointConfig

    return EndpointConfig(
        arguments.base_url,
        arguments.model,
        api_key(arguments),
        timeout=arguments.timeout,
        attempts=arguments.attempts,
        longest_pause=arguments.longest_pause,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        response_format=arguments.response_format,
    )


def chosen_numbers(arguments: argparse.Namespace, known: Collection[int]) -> set[int]:
    """Those of the known episodes that --episodes names. Raises CommandError where there are none.

    known: their numbers.
    """
    if arguments.episodes is None:
        return set(known)
    first, _, last = arguments.episodes.partition(":")
    try:
        wanted = range(int(first), int(last))
    except ValueError:
        wanted = range(0)
    if chosen := {number for number in known if number in wanted}:
        return chosen
    raise CommandError(
        f"--episodes takes A:B with A < B, got '{arguments.episodes}'; there are {len(known)} "
        "episodes"
    )


def changed_episodes(
    arguments: argparse.Namespace, planned: Plan, reviewed: Mapping[int, Kept] | None = None
) -> list[int]:
    """Numbers of the episodes to be done again because they were done in another way.

    reviewed: records that somebody reviewed. Raises CommandError where --changed leaves it open.
    """
    if not planned.changed or arguments.changed == "keep":
        planned.finished += len(planned.changed)
        return []
    if arguments.changed == "redo":
        return list(planned.changed)
    names = sorted({name for names in planned.changed.values() for name in names})
    count = sum(index in planned.changed for index in reviewed or ())
    lost = "" if reviewed is None else f", {count} of them have been reviewed"
    raise CommandError(
        f"{len(planned.changed)} episodes were annotated in another way ({', '.join(names)})"
        f"{lost}: --changed redo annotates them again, --changed keep leaves them"
    )


def may_cost(arguments: argparse.Namespace, result: Estimate) -> bool:
    """Prints the estimate; False when it was all that was asked for.

    Raises CommandError where the operator must agree and does not.
    """
    from vla.annotation.estimate import is_local

    print(result.text())
    if arguments.estimate:
        return False
    free = result.cost is None and is_local(arguments.base_url)
    if arguments.yes or free or (result.cost is not None and result.cost <= arguments.ask_above):
        return True
    if sys.stdin.isatty():
        if input("go on? [y/N] ").strip().lower() in ("y", "yes"):
            return True
        raise CommandError("not annotated", exit_status=1)
    why = (
        "the cost is not known: give --price-in and --price-out"
        if result.cost is None
        else f"this costs more than --ask-above {arguments.ask_above:g}"
    )
    raise CommandError(f"{why}; --yes continues anyway")


def say_used(arguments: argparse.Namespace, outcome: AskSummary) -> None:
    """Prints the tokens that a run took, and their price where it is known."""
    from vla.annotation.estimate import cost_of

    if not outcome.input_tokens:
        return
    tokens = (outcome.input_tokens, outcome.output_tokens)
    cost = cost_of(*tokens, arguments.price_in, arguments.price_out)
    price = "" if cost is None else f": {cost:.2f} at these prices"
    print(f"{tokens[0]:,} input and {tokens[1]:,} output tokens{price}")


def say_failures(left_out: dict[int, str], failed: dict[int, str], stopped: str) -> int:
    """Lists what was not done, and why; returns the exit status."""
    for words, episodes in (("were left out", left_out), ("failed", failed)):
        if episodes:
            print(f"{len(episodes)} episodes {words}:")
        for index, reason in sorted(episodes.items()):
            print(f"  episode {index}: {reason}")
    if stopped:
        print(f"stopped early: {stopped}")
    return 1 if failed or left_out else 0


def with_progress(
    total: int, run: Callable[[Callable[[int, str], None]], AskSummary]
) -> AskSummary:
    """What run(on_episode) returns, with a bar of so many episodes."""
    from tqdm import tqdm

    with tqdm(total=total, unit="episode") as progress:

        def on_episode(index: int, error: str) -> None:
            progress.update()
            if error:
                progress.write(f"episode {index}: {error}")

        return run(on_episode)
