"""A task of the benchmark as a gymnasium environment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vla.contract.embodiment import EmbodimentContract
from vla.envs.instruct.scene import InstructSimulator
from vla.envs.instruct.tasks import InstructTask
from vla.envs.tabletop.environment import STEADY_STEPS, TableTopEnv, image_size
from vla.envs.tabletop.failures import Attempt
from vla.envs.tabletop.places import PLACES
from vla.envs.tabletop.tasks import DRAWER

DRAWER_MOVED = 0.03  # so far, it was not just bumped into [m]


class InstructEnv(TableTopEnv):
    """The parts of a task one after the other, under one instruction; a misreading ends it.

    `info` also holds "misread": what was taken, moved or used by mistake, "" as long as nothing
    was. "wrong_object" says whether that is so. `time_limit` is that of one part [s].
    """

    simulator: InstructSimulator
    _part = 0  # that is being done

    def __init__(
        self,
        asked: InstructTask,
        contract: EmbodimentContract,
        steps_per_chunk: int = 3,
        delay_steps: int = 0,
        time_limit: float = 20.0,
        render_mode: str | None = None,
    ):
        self.asked = asked
        super().__init__(
            contract,
            steps_per_chunk,
            delay_steps,
            time_limit * len(asked.do),
            render_mode=render_mode,
            simulator=InstructSimulator(asked, image_size(contract)),
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Lays out the task's scene, in the light and the words of a seed."""
        self._part = 0
        return super().reset(seed=seed, options=options)

    def advance(self) -> None:
        """One time step; a part that is done is followed by the next."""
        parts = self.asked.parts
        if self._done_steps >= STEADY_STEPS and self._part < len(parts) - 1:
            self._part += 1
            self.task = replace(parts[self._part], instruction=self.task.instruction)
            # Chunks that were made before go on to count: the policy is not told.
            self.simulator.begin()
            self._done_steps, self._attempt = 0, Attempt.begin(self.simulator, self.task)
        super().advance()

    @property
    def misread(self) -> str:
        """What was taken, moved or used by mistake by now; "" where nothing was.

        That is what the task lists, and what only a later part is about.
        """
        parts, simulator = self.asked.parts, self.simulator
        later = [part.target for part in parts[self._part + 1 :]]
        for name in (*self.asked.misread, *later):
            if name == DRAWER:
                moved = abs(simulator.drawer_opening - simulator.first_opening)
                is_misread = moved > DRAWER_MOVED
            elif name in PLACES:
                item = simulator.scene_objects.get(self.task.target)
                is_misread = item is not None and simulator.is_placed(item.name, name)
            else:
                is_misread = name in simulator.lifted
            if is_misread:
                return name
        return ""

    @property
    def _is_lost(self) -> bool:
        return bool(self.misread)

    @property
    def _is_done(self) -> bool:
        if self._part < len(self.asked.do) - 1 or not super()._is_done:
            return False
        # What was done first has to last.
        return all(self.simulator.check(part).success for part in self.asked.parts)

    def _info(self) -> dict[str, Any]:
        misread = self.misread
        info = super()._info() | {"misread": misread, "wrong_object": bool(misread)}
        info["task"] = self.asked.id
        return info | ({"failure": "misread"} if misread else {})
