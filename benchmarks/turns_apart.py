r"""Time of a training pass for each question, where questions have an image each or share one.

python benchmarks/turns_apart.py --checkpoint checkpoints/nano --json output/turns_apart.json

Forward and backward of the vision-language half in bfloat16. The variants take turns, so that a
noisy machine is noisy for all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vla.policies.checkpoint import open_checkpoint
from vla.policies.instructvla.reasoning import ReasoningModel
from vla.policies.plain_text import TextTokenizer
from vla.policies.sequence import PromptRow, collate

TURN = ("which object is the can nearest to the blue block ?", "the red can .")


def timed(model: ReasoningModel, text: TextTokenizer, images: int, turns: int) -> float:
    """Seconds of one pass over so many images, each with so many questions apart."""
    backbone = model.config.backbone
    rows = [PromptRow((TURN,) * turns, apart=turns > 1)] * images
    batch, size = collate(text, backbone, rows, 0), backbone.image_size
    pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8)
    model.zero_grad()
    started = time.perf_counter()
    with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
        _, loss, _, _ = model(pixels, batch)
    loss.backward()
    return time.perf_counter() - started


def main() -> None:
    """Prints a line for each number of questions that share an image."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="checkpoints/nano", help="(nano)")
    parser.add_argument("--images", type=int, default=16, help="of a pass (16)")
    parser.add_argument("--turns", type=int, nargs="+", default=[1, 4, 10], help="(1 4 10)")
    parser.add_argument("--rounds", type=int, default=5, help="(5)")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = open_checkpoint(arguments.checkpoint)
    model, text = ReasoningModel(checkpoint.config), TextTokenizer(checkpoint.tokenizer)
    seconds: dict[int, list[float]] = {turns: [] for turns in arguments.turns}
    for _ in range(arguments.rounds + 1):
        for turns, found in seconds.items():
            found.append(timed(model, text, arguments.images, turns))
    figures = {}
    for turns, found in seconds.items():
        each = 1000 * statistics.median(found[1:]) / (turns * arguments.images)
        figures[turns] = {"ms_per_question": each, "rounds": arguments.rounds}
        print(f"{turns:>3} questions an image: {each:6.1f} ms for each question")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
