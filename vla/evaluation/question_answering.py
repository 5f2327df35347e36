"""How well a model answers questions about scenes that it was never trained on, kind by kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.envs.tabletop.demonstrations import FIRST_TRAINING_SEED
from vla.envs.tabletop.questions import QUESTION_KINDS, question_of
from vla.envs.tabletop.scenes import SceneCamera, make_scene
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import FAMILIES
from vla.evaluation.benchmark import EvaluationError, wilson_interval


class Answering(Protocol):
    """What answers, such as vla.policies.instructvla.inference.Reasoner."""

    def ask(self, images: dict[str, np.ndarray], question: str) -> str:
        """The answer to a question about images uint8 [H, W, 3] by camera name."""


@dataclass(frozen=True)
class AskedQuestion:
    """One question of a scene. truth: the right answer. answer: the model's."""

    kind: str
    seed: int
    question: str
    truth: str
    answer: str
    right: bool


@dataclass(frozen=True)
class KindScore:
    """Right answers to one kind of question, and the 95% Wilson interval of their share."""

    kind: str
    asked: int
    right: int
    share_low: float
    share_high: float


def normalized(text: str) -> str:
    """The text without what spelling leaves open: case, spaces, the mark at the end."""
    spaced = re.sub(r"([.,?!])", r" \1 ", text.lower())
    return " ".join(spaced.split()).rstrip(" .?!")


def evaluate_questions(
    reasoner: Answering,
    contract: EmbodimentContract,
    per_kind: int,
    first_seed: int = 0,
    kinds: tuple[str, ...] = QUESTION_KINDS,
    on_answer: Callable[[AskedQuestion], None] | None = None,
) -> list[AskedQuestion]:
    """Asks `per_kind` questions of each kind, at most one of a kind about a scene.

    Scenes are those of the seeds from `first_seed` on, with random arm poses; an answer counts when
    it is the truth word for word. A kind that few scenes allow may be asked less often. Raises
    EvaluationError when the seeds reach those that training uses.
    """
    last_seed = first_seed + 10 * per_kind
    if not 0 <= first_seed < last_seed <= FIRST_TRAINING_SEED:
        raise EvaluationError(
            f"scenes {first_seed} to {last_seed} are not all below {FIRST_TRAINING_SEED}, where "
            "those for training begin"
        )
    simulator = TableTopSimulator(contract.cameras[0].width)
    camera = SceneCamera(simulator, contract)
    left = dict.fromkeys(kinds, per_kind)
    asked = []
    for seed in range(first_seed, last_seed):
        if not any(left.values()):
            break
        scene, images = make_scene(camera, seed, FAMILIES[seed % len(FAMILIES)])
        words = scene.visible(contract.cameras[0].name)
        for kind in kinds if words is not None else ():
            if not left[kind]:
                continue
            generator = np.random.default_rng([seed, QUESTION_KINDS.index(kind), 2])
            pair = question_of(kind, words, scene.drawer_opening, generator)
            if pair is None:
                continue
            left[kind] -= 1
            answer = reasoner.ask(images, pair[0])
            right = normalized(answer) == normalized(pair[1])
            asked.append(AskedQuestion(kind, seed, *pair, answer, right))
            if on_answer is not None:
                on_answer(asked[-1])
    camera.close()
    simulator.close()
    return asked


def score(asked: list[AskedQuestion]) -> list[KindScore]:
    """Right answers per kind, in the order in which the kinds were first asked, then of all."""
    groups = {kind: [] for kind in dict.fromkeys(entry.kind for entry in asked)}
    for entry in asked:
        groups[entry.kind].append(entry.right)
    groups["all"] = [entry.right for entry in asked]
    return [
        KindScore(kind, len(rights), sum(rights), *wilson_interval(sum(rights), len(rights)))
        for kind, rights in groups.items()
    ]


def question_table(scores: list[KindScore]) -> str:
    """The scores as text, one kind a line."""
    lines = ["kind         asked  right  95% interval"]
    for entry in scores:
        share = entry.right / entry.asked if entry.asked else 0.0
        lines.append(
            f"{entry.kind:<11} {entry.asked:>6}  {share:>5.0%}  "
            f"{entry.share_low:>5.0%} to {entry.share_high:<5.0%}"
        )
    return "\n".join(lines)


def question_report(checkpoint_id: str, asked: list[AskedQuestion]) -> dict[str, object]:
    """Everything that was asked and answered, ready for JSON."""
    return {
        "checkpoint_id": checkpoint_id,
        "kinds": [asdict(entry) for entry in score(asked)],
        "questions": [asdict(entry) for entry in asked],
    }
