"""`vla eval`: closed-loop success of a checkpoint in the simulator, in process."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vla.cli.errors import CommandError

DESCRIPTION = """\
Measure a checkpoint in the simulator, in process: success per task family with its 95% interval,
how often another object than the named one was taken, and with --think how often the answer was
right.

examples:
  vla eval                                              all families, seeds 0 to 99, shipped policy
  vla eval --family pick --seeds 0:20 --json output/pick.json
  vla eval --checkpoint runs/nano/checkpoint --think --video output/eval.mp4
"""
DEFAULT_CHECKPOINT = "checkpoints/nano"


def add_parser(subparsers) -> None:
    """Adds `vla eval`."""
    parser = subparsers.add_parser(
        "eval",
        help="measure a checkpoint in the simulator",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint", default=DEFAULT_CHECKPOINT, help=f"folder ({DEFAULT_CHECKPOINT})"
    )
    parser.add_argument("--family", action="append", help="task family; repeatable (default: all)")
    parser.add_argument("--seeds", default="0:100", metavar="A:B", help="seeds A to B-1 (0:100)")
    parser.add_argument("--think", action="store_true", help="answer in text first, act on it")
    parser.add_argument("--steps-per-chunk", type=int, default=3, help="steps executed of a chunk")
    parser.add_argument("--delay-steps", type=int, default=2, help="steps until a chunk arrives")
    parser.add_argument(
        "--time-limit",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="simulated time per episode (20); 0 with --think judges the answers alone",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--json", metavar="FILE", help="write per-seed results and the summary")
    parser.add_argument("--video", metavar="FILE", help="write a video of the first episodes")
    parser.set_defaults(run=run_evaluate)


def _seeds(text: str) -> range:
    first, separator, last = text.partition(":")
    try:
        seeds = range(int(first), int(last)) if separator else range(int(text), int(text) + 1)
    except ValueError:
        seeds = range(0)
    if len(seeds) == 0 or seeds[0] < 0:
        raise CommandError(f"--seeds takes A:B with 0 <= A < B, got '{text}'")
    return seeds


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Runs the episodes, prints the table, writes the files."""
    from tqdm import tqdm

    from vla.checkpoint import open_checkpoint
    from vla.evaluation.benchmark import (
        EvaluationSettings,
        evaluate,
        report,
        summarize,
        table,
    )
    from vla.models.config import CheckpointError
    from vla.resources import given_or_shared
    from vla.sim.tasks import FAMILIES

    families = arguments.family or list(FAMILIES)
    if unknown := [family for family in families if family not in FAMILIES]:
        raise CommandError(f"unknown family '{unknown[0]}'; known: {', '.join(FAMILIES)}")
    seeds = _seeds(arguments.seeds)
    folder = given_or_shared(arguments.checkpoint)
    settings = EvaluationSettings(
        think=arguments.think,
        steps_per_chunk=arguments.steps_per_chunk,
        delay_steps=arguments.delay_steps,
        time_limit=arguments.time_limit,
    )
    recorder = _VideoRecorder(arguments.video) if arguments.video else None
    try:
        checkpoint_id = open_checkpoint(folder).checkpoint_id
        with tqdm(total=len(families) * len(seeds), unit="episode") as progress:
            results = evaluate(
                folder,
                families,
                seeds,
                settings,
                arguments.device,
                lambda result: progress.update(),
                recorder.add if recorder else None,
            )
    except CheckpointError as error:
        raise CommandError(str(error)) from error
    finally:
        if recorder:
            recorder.close()
    print(table(summarize(results)))
    if arguments.json:
        path = Path(arguments.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report(checkpoint_id, settings, results), indent=1) + "\n")
        print(f"written: {path}")
    return 0


class _VideoRecorder:
    """Writes the overview of the first minute or so of episodes."""

    FRAMES = 900
    RATE = 10
    SIZE = 480

    def __init__(self, path: str):
        import av

        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(path, "w")
        self._stream = self._container.add_stream("libx264", rate=self.RATE)
        self._stream.width = self._stream.height = self.SIZE
        self._stream.pix_fmt = "yuv420p"
        self._left = self.FRAMES

    def add(self, simulator) -> None:
        import av

        if self._left > 0:
            self._left -= 1
            picture = simulator.render("overview", self.SIZE, detailed=True)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()
