"""Training batches: frames, augmented, with words in varied phrasing.

A batch depends on the seed and the step alone, so an interrupted run resumes with the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from vla.data.frames import Shard
from vla.data.normalization import NormStats
from vla.models.config import InstructVLAConfig
from vla.models.sequence import TextBatch, action_prompt, collate
from vla.sim.questions import ask_about
from vla.sim.tasks import phrase, task_of_answer
from vla.training.config import TrainConfig
from vla.training.grounding import CameraView, place_pixels


@dataclass
class Batch:
    """B rows of text, of which the first A act.

    vlm_images uint8 [B, C, 3, S, S]; expert_images uint8 [A, C', 3, S, S]; state [A, S] and actions
    [A, H, D], normalised; places [A, C', E, 2]: pixels where the expert's images show the gripper's
    next actions, NaN where they do not.
    """

    vlm_images: torch.Tensor
    text: TextBatch
    expert_images: torch.Tensor
    state: torch.Tensor
    actions: torch.Tensor
    places: torch.Tensor


class BatchMaker:
    """Draws batches from shards.

    views: calibration of cameras by name; in others no place is labelled.
    """

    def __init__(
        self,
        shards: list[Shard],
        tokenizer: Tokenizer,
        stats: dict[str, NormStats],
        model: InstructVLAConfig,
        config: TrainConfig,
        views: dict[str, CameraView] | None = None,
    ):
        self.shards, self.tokenizer, self.stats = shards, tokenizer, stats
        self.model, self.config = model, config
        self._starts = np.cumsum([0, *(len(shard) for shard in shards)])
        calibrated = [(views or {}).get(name) for name in model.expert_cameras]
        self._places = np.concatenate([place_pixels(shard, calibrated) for shard in shards])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def make(self, step: int) -> Batch:
        """The batch of that step."""
        generator = np.random.default_rng([self.config.seed, step])
        chosen = generator.integers(len(self), size=self.config.batch_size)
        frames = [self._locate(index) for index in chosen]
        acting = self.config.batch_size - self.config.question_rows
        cameras = sorted({*self.model.vlm_cameras, *self.model.expert_cameras})
        images, shifts = {}, {}
        for camera in cameras:
            seen = np.stack([shard.images[camera][row] for shard, row in frames])
            images[camera], shifts[camera] = self._augment(seen, generator)
        rows = [
            self._words(shard, row, index < acting, generator)
            for index, (shard, row) in enumerate(frames)
        ]
        state = np.stack([shard.state[row] for shard, row in frames[:acting]])
        state = self.stats["state"].normalize(state)
        state += generator.normal(0.0, self.config.state_noise, state.shape).astype(np.float32)
        actions = np.stack([shard.action[row] for shard, row in frames[:acting]])
        moved = np.stack([shifts[name] for name in self.model.expert_cameras], axis=1)[:, :, None]
        return Batch(
            vlm_images=_stack(images, self.model.vlm_cameras),
            text=collate(
                self.tokenizer, rows, self.model.num_queries, self.model.backbone.vocabulary
            ),
            expert_images=_stack(images, self.model.expert_cameras)[:acting],
            state=torch.from_numpy(state),
            actions=torch.from_numpy(self.stats["action"].normalize(actions)),
            places=torch.from_numpy((self._places[chosen] + moved)[:acting].astype(np.float32)),
        )

    def _locate(self, index: int) -> tuple[Shard, int]:
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.shards[shard], int(index - self._starts[shard])

    def _words(
        self, shard: Shard, row: int, acts: bool, generator: np.random.Generator
    ) -> tuple[str, str, bool]:
        words = shard.episodes[shard.episode[row]]
        if not acts:
            return (*ask_about(words, float(shard.drawer_opening[row]), generator), False)
        task = task_of_answer(words.family, words.answer)
        think = generator.random() < self.config.think_share
        question = action_prompt(phrase(task, generator), self.model.prompts, think)
        return question, words.answer if think else "", True

    def _augment(
        self, images: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Random shifts and brightness of uint8 images [B, S, S, 3]; and the shifts [B, 2].

        A shift is what is added to a pixel's place, right and down.
        """
        shift, size = self.config.shift, images.shape[1]
        edges = ((0, 0), (shift, shift), (shift, shift), (0, 0))
        padded = np.pad(images, edges, mode="edge")
        offsets = generator.integers(0, 2 * shift + 1, (len(images), 2))
        gains = 1.0 + self.config.brightness * generator.uniform(-1, 1, len(images))
        levels = np.arange(256)
        for row, ((top, left), gain) in enumerate(zip(offsets, gains, strict=True)):
            table = np.clip(levels * gain, 0, 255).astype(np.uint8)
            images[row] = table[padded[row, top : top + size, left : left + size]]
        return images, shift - offsets[:, ::-1]


def _stack(images: dict[str, np.ndarray], cameras: tuple[str, ...]) -> torch.Tensor:
    """[B, C, 3, S, S] of the named cameras, in that order."""
    return torch.from_numpy(np.stack([images[name] for name in cameras], axis=1)).permute(
        0, 1, 4, 2, 3
    )


def corpus(
    generator: np.random.Generator, shards: list[Shard], model: InstructVLAConfig
) -> list[str]:
    """Sentences that a tokenizer should know: instructions, answers, questions."""
    sentences = []
    for shard in shards[:10]:
        for words in shard.episodes:
            task = task_of_answer(words.family, words.answer)
            instruction = phrase(task, generator)
            sentences.append(action_prompt(instruction, model.prompts, think=True))
            sentences.append(words.answer)
            sentences.extend(ask_about(words, float(generator.choice([0.0, 0.1])), generator))
    return sentences
