r"""What the image tokens of a small vision-language model know: things, places and the drawer.

python benchmarks/image_words.py --checkpoint checkpoints/nano --json output/image_words.json

In scenes of unseen seeds, the token where a thing stands is compared with the embeddings of words
that exclude each other. Training with `naming_weight` makes it the most like the right one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.envs.tabletop.scene_conversations import SceneConversations
from vla.envs.tabletop.scenes import SceneConfig, make_scenes
from vla.envs.tabletop.tasks import COLORS, KINDS
from vla.policies.images import fit_images
from vla.policies.instructvla.inference import Reasoner
from vla.policies.instructvla.naming import cell_at
from vla.policies.plain_text import TextTokenizer

GROUPS = {
    "kind": KINDS,
    "color": COLORS,
    "side": ("left", "middle", "right"),
    "depth": ("near", "far"),
    "drawer": ("open", "closed"),
}
UNSEEN = 500_000  # The first seed; training's begin at a million.


@torch.no_grad()
def shares(reasoner: Reasoner, talks: SceneConversations) -> dict[str, tuple[int, int]]:
    """By group, how often the right word is the nearest one, and of how many things."""
    model, tokenizer = reasoner.model, TextTokenizer(reasoner._tokenizer._tokenizer)
    size, side = model.config.backbone.image_size, round(model.config.backbone.image_tokens**0.5)
    words = {
        name: torch.stack(
            [
                model.backbone.embed_text(torch.tensor(tokenizer.encode(text=word))).mean(dim=0)
                for word in group
            ]
        )
        for name, group in GROUPS.items()
    }
    counts = {name: [0, 0] for name in GROUPS}
    for index in range(len(talks)):
        pixels = torch.from_numpy(np.array(talks.image(index))).permute(2, 0, 1)[None]
        tokens = model.backbone.encode_images(fit_images(pixels, size))[0]  # [I, D]
        for named, (x, y) in talks.sample(index, np.random.default_rng(index)).things.items():
            if (cell := cell_at(x, y, size, side)) is None:
                continue
            token = tokens[cell]
            for name, group in GROUPS.items():
                right = [word in named.split() for word in group]
                if any(right):
                    counts[name][0] += right[int((words[name] @ token).argmax())]
                    counts[name][1] += 1
    return {name: (right, asked) for name, (right, asked) in counts.items()}


def main() -> None:
    """Makes scenes, prints and writes the shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="checkpoints/nano", help="(nano)")
    parser.add_argument("--scenes", type=int, default=200, help="(200)")
    parser.add_argument("--json", type=Path, default=Path("output/image_words.json"))
    arguments = parser.parse_args()
    contract = load_contract(contract_path("sim_panda"))
    with tempfile.TemporaryDirectory() as folder:
        make_scenes(folder, contract, SceneConfig(arguments.scenes, UNSEEN), workers=1)
        talks = SceneConversations(folder, contract, contract.cameras[0].name)
        found = shares(Reasoner.from_pretrained(arguments.checkpoint), talks)
    for name, (right, asked) in found.items():
        print(f"{name:<6} {right / asked:>5.0%} of {asked}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
