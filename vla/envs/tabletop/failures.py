"""What went wrong in an episode that did not succeed, from the simulator's truth."""

from __future__ import annotations

from dataclasses import dataclass

from vla.envs.tabletop.places import HELD, place_of
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import DRAWER, RECALL, TABLE, Task

# In one word each, the most telling first.
FAILURES = (
    "wrong_object",  # another object than the task's was lifted, or another button pressed
    "nothing_grasped",  # the fingers never closed on the task's object
    "not_lifted",  # they did, and it stayed where it was
    "dropped",  # it was lifted, and lies where it should not
    "wrong_place",  # the same, in or on another place than the named one
    "not_placed",  # it is still in the hand
    "nothing_pressed",
    "drawer_not_moved",
    "drawer_not_far_enough",  # it was moved, and not to the end
    "misread",  # another goal of the family was reached
    "opened_early",
    "tipped",
    "not_inserted",
    "moved",  # while it was to stay
    "not_moved",
    "not_far_enough",  # or not only in the named direction
    "not_steady",  # the task was done when time was up, and not for long enough
)


CARRIED = 0.02  # higher than where it stood [m]


@dataclass
class Attempt:
    """What happened since a task began."""

    task: Task
    drawer: float  # its opening when the task began [m]
    gripped: bool = False  # both fingers were on the task's object
    lifted: bool = False  # it was carried

    @classmethod
    def begin(cls, simulator: TableTopSimulator, task: Task) -> Attempt:
        """A task begins in the present scene."""
        attempt = cls(task, simulator.drawer_opening)
        attempt.note(simulator)
        attempt.lifted = attempt.gripped  # in the hand since an earlier task
        return attempt

    def note(self, simulator: TableTopSimulator) -> None:
        """Takes the present state into account."""
        if (item := simulator.scene_objects.get(self.task.target)) is not None:
            self.gripped = self.gripped or simulator.touching_fingers(item.body) == 2
            self.lifted = self.lifted or (self.gripped and simulator.lift(item.name) > CARRIED)

    def failure(self, simulator: TableTopSimulator) -> str:
        """One of FAILURES, were the episode over now."""
        task, status = self.task, simulator.check(self.task)
        if simulator.goals is not None:
            return "not_steady" if status.success else simulator.goals.failure(simulator, task)
        if status.wrong_object:
            return "wrong_object"
        if status.success:
            return "not_steady"
        if task.family == RECALL:
            return "nothing_pressed"
        if task.target == DRAWER:
            moved = abs(simulator.drawer_opening - self.drawer) > 0.005
            return "drawer_not_far_enough" if moved else "drawer_not_moved"
        if not self.gripped:
            return "nothing_grasped"
        place = place_of(simulator, task.target)
        if place == HELD:
            return "not_placed" if self.lifted and task.destination else "not_lifted"
        if not self.lifted:
            return "not_lifted"
        is_elsewhere = task.destination and place not in ("", TABLE, task.destination)
        return "wrong_place" if is_elsewhere else "dropped"
