"""The table top as a benchmark: task families, wordings, and questions about its scenes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from vla.contract.embodiment import ContractError, EmbodimentContract, load_contract
from vla.core.resources import contract_path
from vla.envs.base import Episode, GivenInstruction, Question, Suite, SuiteError
from vla.envs.tabletop.demonstrations import object_places
from vla.envs.tabletop.environment import TableTopEnv
from vla.envs.tabletop.impossible import IMPOSSIBLE_KINDS, impossible
from vla.envs.tabletop.questions import QUESTION_KINDS, question_of
from vla.envs.tabletop.scenes import SceneCamera, make_scene
from vla.envs.tabletop.simulator import CAMERAS, TableTopSimulator
from vla.envs.tabletop.tasks import CHAIN_FAMILIES, FAMILIES, FIRST_TRAINING_SEED, NEW_FAMILIES
from vla.envs.tabletop.unseen import SPLITS
from vla.envs.tabletop.wording import WORDINGS, reword, reworded_task


def _simulated_contract() -> EmbodimentContract:
    return load_contract(contract_path("sim_panda"))


AtTable = TypeVar("AtTable", bound="TableTopSuite")
AnyTable = TypeVar("AnyTable", bound=TableTopEnv)


def require_split(split: str) -> None:
    """Raises SuiteError for a look of scenes that is not known."""
    if split not in SPLITS:
        raise SuiteError(f"unknown split '{split}'; known: {', '.join(SPLITS)}")


@dataclass(frozen=True)
class TableTopSuite(Suite):
    """A benchmark at the simulated Panda's table."""

    steps_per_chunk: int = 3  # policy steps executed of each chunk
    delay_steps: int = 2  # policy steps between an observation and its chunk
    time_limit: float = 20.0  # of a task [s]
    contract: EmbodimentContract = field(default_factory=_simulated_contract)

    def for_contract(self: AtTable, contract: EmbodimentContract) -> AtTable:
        """The same with a policy's contract, whose images may be of another size."""
        for camera in contract.cameras:
            if camera.name not in CAMERAS:
                raise ContractError(
                    f"the table top has no camera '{camera.name}', which the policy's contract "
                    f"asks for; it has: {', '.join(CAMERAS)}"
                )
        return replace(self, contract=contract)

    def environment(self, kind: type[AnyTable], render_mode: str | None) -> AnyTable:
        """An environment with the suite's settings."""
        return kind(
            self.contract,
            self.steps_per_chunk,
            self.delay_steps,
            self.time_limit,
            render_mode=render_mode,
        )


@dataclass(frozen=True)
class TableTop(TableTopSuite):
    """A simulated Panda at a table; an episode is the scene of a family and a seed."""

    # Of the instructions, see vla.envs.tabletop.wording. All but "direct" are of the sentences that
    # training never has.
    wording: str = "direct"
    split: str = "seen"  # or "unseen": another table, light, colours and front camera

    name = "tabletop"
    families = FAMILIES
    extra_families = NEW_FAMILIES + CHAIN_FAMILIES
    question_kinds = QUESTION_KINDS

    def __post_init__(self):
        if self.wording not in WORDINGS:
            raise SuiteError(f"unknown wording '{self.wording}'; known: {', '.join(WORDINGS)}")
        require_split(self.split)

    def episodes(self, family: str, seeds: range) -> Iterator[Episode]:
        """One for each seed.

        A scene without an instruction of the wording is passed over, and one of a further seed
        comes in its place. Raises SuiteError where too few scenes have one.
        """
        if self.wording == "direct":
            options = {"family": family, "split": self.split}
            yield from (Episode(family, seed, options) for seed in seeds)
            return
        simulator = TableTopSimulator()
        found, last = 0, seeds[-1] + 20 * len(seeds)
        for seed in chain(seeds, range(seeds[-1] + 1, last + 1)):
            task = simulator.reset(seed, family)
            generator = np.random.default_rng(
                [seed, sum(family.encode()), WORDINGS.index(self.wording)]
            )
            places = object_places(simulator)
            reworded = reworded_task(task, places, self.wording, generator, split="test")
            if reworded is not None:
                found += 1
                said = {"instruction": reworded.instruction, "split": self.split}
                yield Episode(family, seed, {"family": family, **said})
            if found == len(seeds):
                return
        raise SuiteError(
            f"only {found} of the scenes up to seed {last} allow the wording '{self.wording}'"
        )

    def make(self, family: str, render_mode: str | None = None) -> TableTopEnv:
        """The table top; one environment runs episodes of all families."""
        return self.environment(TableTopEnv, render_mode)

    def figures(self, info: dict[str, Any], said: str | None) -> dict[str, float | None]:
        """Whether another object was taken, and whether the policy said the right thing."""
        right = None
        if said is not None:
            right = said.lower().rstrip(".") == info["answer"].rstrip(" .")
        return {"wrong_object": info["wrong_object"], "answered_right": right}

    def questions(
        self, per_kind: int, first_seed: int = 0, kinds: tuple[str, ...] = QUESTION_KINDS
    ) -> Iterator[Question]:
        """Asks `per_kind` questions of each kind, at most one of a kind about a scene.

        Scenes are those of the seeds from `first_seed` on, with random arm poses. A kind that few
        scenes allow may be asked less often. Raises SuiteError when the seeds reach those that
        training uses.
        """
        last_seed = first_seed + 10 * per_kind
        _require_unseen(first_seed, last_seed)
        simulator = TableTopSimulator(self.contract.cameras[0].width)
        camera = SceneCamera(simulator, self.contract)
        left = dict.fromkeys(kinds, per_kind)
        for seed in range(first_seed, last_seed):
            if not any(left.values()):
                break
            scene, images = make_scene(camera, seed, FAMILIES[seed % len(FAMILIES)])
            words = scene.visible(self.contract.cameras[0].name)
            for kind in kinds:
                if words is None or not left[kind]:
                    continue
                generator = np.random.default_rng([seed, QUESTION_KINDS.index(kind), 2])
                pair = question_of(kind, words, scene.drawer_opening, generator)
                if pair is not None:
                    left[kind] -= 1
                    yield Question(kind, seed, images, *pair)
        camera.close()
        simulator.close()

    def instructions(self, per_kind: int, first_seed: int = 0) -> Iterator[GivenInstruction]:
        """Instructions of each wording, and of each kind that can't be followed.

        At most one of a kind in a scene, as an episode begins: families take turns. All but direct
        ones are sentences that training never has. A wording that few scenes allow may be given
        less often. Raises SuiteError when the seeds reach those that training uses.
        """
        last_seed = first_seed + 10 * per_kind
        _require_unseen(first_seed, last_seed)
        simulator = TableTopSimulator(self.contract.cameras[0].width)
        camera = SceneCamera(simulator, self.contract)
        left = dict.fromkeys(WORDINGS + IMPOSSIBLE_KINDS, per_kind)
        for seed in range(first_seed, last_seed):
            if not any(left.values()):
                break
            family = FAMILIES[seed % len(FAMILIES)]
            task = simulator.reset(seed, family)
            images, places = camera.images(), object_places(simulator)
            for number, kind in enumerate(left):
                if not left[kind]:
                    continue
                generator = np.random.default_rng([seed, number, 3])
                if kind in WORDINGS:
                    text = reword(task, places, kind, generator, split="test")
                    truth = task.answer()
                else:
                    asked = impossible(places, generator, "test", kind)
                    text, truth = asked.instruction, asked.answer
                if text is not None:
                    left[kind] -= 1
                    yield GivenInstruction(kind, seed, images, text, truth, kind in WORDINGS)
        camera.close()
        simulator.close()


def _require_unseen(first_seed: int, last_seed: int) -> None:
    """Raises SuiteError unless seeds up to the last are those of evaluation."""
    if not 0 <= first_seed < last_seed <= FIRST_TRAINING_SEED:
        raise SuiteError(
            f"scenes {first_seed} to {last_seed} are not all below {FIRST_TRAINING_SEED}, "
            "where those for training begin"
        )


SUITE = TableTop
