"""Simulated scenes as conversations: questions about an image, and what commands ask for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from vla.contract.embodiment import EmbodimentContract
from vla.datasets.frames import DatasetError, EpisodeWords
from vla.datasets.sample import Conversation
from vla.envs.tabletop.questions import ask_about
from vla.envs.tabletop.samples import simulated_views
from vla.envs.tabletop.scenes import SceneTruth, read_scene_shard
from vla.envs.tabletop.tasks import FAMILIES, sample_task

TURNS = 3
COMMAND_SHARE = 0.2
# Of the middle of each thing above the table [m].
_HEIGHTS = {"block": 0.021, "can": 0.038, "bowl": 0.02, "plate": 0.004}
COMMAND_QUESTION = "what does this ask for : {instruction} ?"


class SceneConversations:
    """Images of one camera, each with a few questions, drawn again whenever it is read.

    The drawer's state, and a command that the scene allows, are asked about, too: a vision-language
    model knows the words of a command before it has ever moved an arm.
    """

    def __init__(self, folder: str | Path, contract: EmbodimentContract, camera: str):
        paths = sorted(p for p in Path(folder).glob("shard-*") if p.suffix != ".part")
        if not paths:
            raise DatasetError(f"no shards in {folder}; make them with: vla scenes --out {folder}")
        self.folder, self.camera = folder, camera
        self._view = simulated_views(contract)[camera]
        self._entries: list[tuple[np.ndarray, SceneTruth, EpisodeWords]] = []
        for path in paths:
            images, scenes = read_scene_shard(path, contract, camera)
            self._entries += [
                (image, scene, words)
                for image, scene in zip(images, scenes, strict=True)
                if (words := scene.visible(camera)) is not None
            ]

    def __len__(self) -> int:
        return len(self._entries)

    def image(self, index: int) -> np.ndarray:
        """One image, uint8 [H, W, 3]."""
        return np.asarray(self._entries[index][0])

    def sample(self, index: int, generator: np.random.Generator) -> Conversation:
        """One image with its questions and answers."""
        image, scene, words = self._entries[index]
        turns: dict[str, str] = {}
        while len(turns) < TURNS:
            if generator.random() < COMMAND_SHARE:
                family = str(generator.choice(FAMILIES))
                task = sample_task(family, list(words.objects), generator)
                question = COMMAND_QUESTION.format(instruction=task.instruction)
                turns[question] = task.answer()
            else:
                question, answer = ask_about(words, scene.drawer_opening, generator, still=True)
                turns[question] = answer
        pixels = self._pixels(words)
        source = f"{self.folder}, scene {scene.seed}"
        return Conversation((np.asarray(image),), tuple(turns.items()), pixels, source)

    def _pixels(self, words: EpisodeWords) -> dict[str, tuple[float, float]]:
        """Where the image shows each thing."""
        places = words.objects | words.landmarks
        points = np.array([[*place, _HEIGHTS[name.split()[-1]]] for name, place in places.items()])
        pixels = self._view.project(points, np.zeros((len(points), 10)))
        return dict(zip(places, map(tuple, pixels), strict=True))


def export_llava(conversations: SceneConversations, folder: str | Path, seed: int = 0) -> Path:
    """Writes conversations in LLaVA's format and returns the file: JSON beside PNG images.

    folder: must not exist yet; gets `conversations.json` and `images/`. Raises FileExistsError.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True)
    generator, entries = np.random.default_rng(seed), []
    for index in range(len(conversations)):
        talk = conversations.sample(index, generator)
        name = f"{index:06d}.png"
        Image.fromarray(conversations.image(index)).save(folder / "images" / name)
        turns: list[dict[str, str]] = []
        for question, answer in talk.turns:
            start = "" if turns else "<image>\n"
            turns.append({"from": "human", "value": start + question})
            turns.append({"from": "gpt", "value": answer})
        entries.append({"id": f"{index:06d}", "image": f"images/{name}", "conversations": turns})
    path = folder / "conversations.json"
    path.write_text(json.dumps(entries, indent=1))
    return path
