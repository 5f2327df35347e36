"""Simulated scenes as conversations: questions about an image, and what commands ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vla.contract.embodiment import EmbodimentContract
from vla.core.shown import brief
from vla.datasets.frames import DatasetError, EpisodeWords
from vla.datasets.sample import Conversation
from vla.envs.tabletop import relations
from vla.envs.tabletop.impossible import impossible
from vla.envs.tabletop.questions import ask_about, drawer_state
from vla.envs.tabletop.samples import simulated_views
from vla.envs.tabletop.scenes import SceneTruth, read_scene_shard
from vla.envs.tabletop.spoken import as_spoken
from vla.envs.tabletop.tasks import FAMILIES, sample_task
from vla.envs.tabletop.wording import NEW_WORDINGS, reworded_task
from vla.policies.config import bounded

TURNS = 3
_DRAWS = 8  # for each of the turns, at most
# Of the middle of each thing above the table [m].
_HEIGHTS = {"block": 0.021, "can": 0.038, "bowl": 0.02, "plate": 0.004}
# Of the drawer's front while it is closed [m]; scenes move the cabinet by less than its width.
_DRAWER_FRONT = (0.49, 0.355, 0.04)
COMMAND_QUESTION = "what does this ask for : {instruction} ?"


@dataclass(frozen=True)
class CommandOptions:
    """How conversations ask about commands."""

    share: float = bounded(0.2, 0, 0.9)  # of commands among all questions
    # Shares of the commands that can't be followed in the scene, see vla.envs.tabletop.impossible,
    # and of the others that are in other words, see vla.envs.tabletop.wording.
    impossible: float = bounded(0.0, 0, 1)
    reworded: float = bounded(0.0, 0, 1)
    # Of the tasks that are asked for; one that is named twice is drawn twice as often.
    families: tuple[str, ...] = FAMILIES
    # Questions that ask what to do about {instruction}, drawn at random.
    forms: tuple[str, ...] = (COMMAND_QUESTION,)
    # Share of all commands that are said as people talk, see vla.envs.tabletop.spoken.
    spoken: float = bounded(0.0, 0, 1)


class SceneConversations:
    """Images of one camera, each with a few questions, drawn again whenever it is read.

    The drawer's state, and a command that the scene allows, are asked about, too: a vision-language
    model knows the words of a command before it has ever moved an arm.
    """

    def __init__(
        self,
        folder: str | Path,
        contract: EmbodimentContract,
        camera: str,
        commands: CommandOptions | None = None,
        turns: int = TURNS,
        place_share: float = 0.0,
        apart: bool = False,
    ):
        """turns: questions about an image, each of which stands apart or comes after the others.

        place_share: see ask_about. Raises DatasetError.
        """
        commands = commands or CommandOptions()
        if unknown := sorted(set(commands.families) - set(FAMILIES)):
            raise DatasetError(
                f"commands: unknown family {brief(unknown[0])}; known: {', '.join(FAMILIES)}"
            )
        if not commands.forms or not all("{instruction}" in form for form in commands.forms):
            raise DatasetError("commands: forms need at least one, each with {instruction} in it")
        paths = sorted(p for p in Path(folder).glob("shard-*") if p.suffix != ".part")
        if not paths:
            raise DatasetError(f"no shards in {folder}; make them with: vla scenes --out {folder}")
        self.folder, self.camera = folder, camera
        self.commands, self.turns, self.place_share = commands, turns, place_share
        self.apart = apart
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
        # A scene may have fewer different questions of what is asked for.
        for _ in range(_DRAWS * self.turns):
            if len(turns) == self.turns:
                break
            if generator.random() < self.commands.share:
                instruction, answer = self._command(words, generator)
                if self.commands.spoken and generator.random() < self.commands.spoken:
                    instruction = as_spoken(instruction, generator)
                turns[self._form(generator).format(instruction=instruction)] = answer
            else:
                question, answer = ask_about(
                    words,
                    scene.drawer_opening,
                    generator,
                    still=True,
                    place_share=self.place_share,
                )
                turns[question] = answer
        pixels = self._pixels(words, scene.drawer_opening)
        source = f"{self.folder}, scene {scene.seed}"
        asked = tuple(turns.items())
        return Conversation((np.asarray(image),), asked, pixels, source, self.apart)

    def _command(self, words: EpisodeWords, generator: np.random.Generator) -> tuple[str, str]:
        """What somebody could ask for in a scene, and the answer. Shares of 0 draw nothing."""
        options = self.commands
        if options.impossible and generator.random() < options.impossible:
            asked = impossible(words.objects, generator)
            return asked.instruction, asked.answer
        family = str(generator.choice(options.families))
        task = sample_task(family, list(words.objects), generator)
        if options.reworded and generator.random() < options.reworded:
            wording = str(generator.choice(NEW_WORDINGS))
            task = reworded_task(task, words.objects, wording, generator) or task
        return task.instruction, task.answer()

    def _form(self, generator: np.random.Generator) -> str:
        forms = self.commands.forms
        return forms[int(generator.integers(len(forms)))] if len(forms) > 1 else forms[0]

    def _pixels(self, words: EpisodeWords, opening: float) -> dict[str, tuple[float, float]]:
        """Where the image shows each thing; the words for it also say where or how it stands."""
        places = words.objects | words.landmarks
        points = [[*place, _HEIGHTS[name.split()[-1]]] for name, place in places.items()]
        named = [
            " ".join(filter(None, (name, relations.side(place), relations.depth(place))))
            for name, place in places.items()
        ]
        if state := drawer_state(opening):
            named.append(f"drawer {state}")
            points.append([_DRAWER_FRONT[0], _DRAWER_FRONT[1] - opening, _DRAWER_FRONT[2]])
        pixels = self._view.project(np.array(points), np.zeros((len(points), 10)))
        return dict(zip(named, map(tuple, pixels), strict=True))


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
