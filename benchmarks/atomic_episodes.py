"""Several atomic actions in a row by the scripted expert, with the truth of when each was done.

The truth is read from contacts, from where block, button and post are, and from what the expert is
about to do; never from the path of the tool or the fingers, which the rules read. No two actions in
a row are of one primitive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla.control.chunk import ActionChunk
from vla.envs.tabletop.environment import STEADY_STEPS, TableTopEnv, observation_of, run_step
from vla.envs.tabletop.expert import plan_chunk
from vla.envs.tabletop.goal_sentences import ATOMIC_PREFIX, OPPOSITES
from vla.envs.tabletop.goals.atomic import AtomicScene, primitive_of
from vla.envs.tabletop.goals.base import Target, View
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import Task

ALIGNED = 0.03  # of the tool to the block before the fingers close [m]
MOVES = 0.01  # of a post that moves [m/s]
PUSHED_DOWN = 0.001  # of a button that is pressed [m]
MOST_STEPS = 80  # of one action
# The next action follows sooner on a grasp than on the others.
STEPS_OF_GRASP = 3

Action = tuple[str, str]  # primitive and goal


@dataclass(frozen=True)
class AtomicEpisode:
    """N frames of several actions."""

    states: np.ndarray  # [N, S]
    times: np.ndarray  # [N] s
    labels: list[str]  # the primitive of each frame
    contact: np.ndarray  # bool [N]: whether button or post give way to the tool


def draw_actions(seed: int) -> list[Action]:
    """The actions of a seed. They begin above the block, above the button or at the post, in turn.

    What was tilted is set upright again before it is put down.
    """
    generator = np.random.default_rng([seed, 13])

    def one_of(*words: str) -> str:
        return str(generator.choice(words))

    side, other = one_of("left", "right"), one_of("forward", "backward")
    turn, (tilt, back) = one_of(*OPPOSITES[3]), generator.permutation(OPPOSITES[0]).tolist()
    free: list[list[Action]] = [
        [("move", side), ("rotate", turn), ("move", one_of("up", "down", other))],
        [("reorient", tilt), ("move", side), ("reorient", back)],
        [("rotate", turn), ("wait", "empty"), ("move", other)],
        [("move", other), ("wait", "empty"), ("rotate", turn), ("move", side)],
    ]
    held: list[list[Action]] = [
        [("wrist_rotate", turn), ("transport", other), ("lower", "down")],
        [("reorient", f"object {tilt}"), ("transport", other), ("reorient", f"object {back}")],
        [("transport", other), ("wait", "holding"), ("wrist_rotate", turn)],
        [("wrist_rotate", turn), ("lower", "down"), ("transport", other)],
    ]
    post: list[list[Action]] = [
        [("push", "forward"), ("wait", "empty"), ("pull", "backward")],
        [("pull", "backward"), ("push", "forward")],
        [("push", "forward"), ("pull", "backward"), ("wait", "empty")],
    ]
    begins = free[int(generator.integers(len(free)))]
    if seed % 3 == 2:
        return post[int(generator.integers(len(post)))]
    if seed % 3 == 1:
        return [*begins, ("press", "down"), ("move", "up")]
    middle = held[int(generator.integers(len(held)))]
    return [*begins, ("grasp", "object"), ("lift", "up"), *middle, ("place", "object")]


def doing(scene: AtomicScene, simulator: TableTopSimulator, target: Target, task: Task) -> str:
    """The primitive that the expert is at, from contacts, things and what it is about to do."""
    primitive, view = primitive_of(task), scene.view(simulator)
    if primitive == "grasp":
        return "grasp" if view.held or _takes(view, target) else "move"
    if primitive == "place":
        return "lower" if view.held and target.gripper < 0.5 else "place"
    if primitive == "press":
        return "press" if simulator.touching_fingers("button") else "move"
    return primitive


def _takes(view: View, target: Target) -> bool:
    aligns = np.allclose(target.position, view.thing)
    near = bool(np.linalg.norm(view.thing - view.tool) < ALIGNED)
    return target.gripper < 0.5 or (aligns and near)


def run_actions(environment: TableTopEnv, seed: int) -> AtomicEpisode | None:
    """The seed's actions, one after the other in one scene; None where the expert fails."""
    actions = draw_actions(seed)
    begins = {0: "grasp", 1: "press", 2: "push"}[seed % 3]
    environment.reset(seed=seed, options={"family": f"{ATOMIC_PREFIX}{begins}"})
    simulator, controller = environment.simulator, environment.controller
    contract, scene = controller.contract, simulator.goals
    assert isinstance(scene, AtomicScene)
    states, times, labels, post, pressed = [], [], [], [], []
    for primitive, goal in actions:
        task, done = Task(f"{ATOMIC_PREFIX}{primitive}", goal), 0
        enough = STEPS_OF_GRASP if primitive == "grasp" else STEADY_STEPS
        environment.begin(task)
        for _ in range(MOST_STEPS):
            labels.append(doing(scene, simulator, scene.target(scene.view(simulator), task), task))
            states.append(observation_of(simulator, contract)[1])
            times.append(simulator.time)
            post.append(scene.post_position(simulator))
            touched = simulator.touching_fingers("button") > 0
            pressed.append(touched and scene.button_travel(simulator) > PUSHED_DOWN)
            chunk = plan_chunk(simulator, task, contract.horizon)
            pose = simulator.end_effector_pose()
            controller.accept(ActionChunk(times[-1], contract.time_step, chunk, *pose), times[-1])
            run_step(simulator, controller)
            done = done + 1 if simulator.check(task).success else 0
            if done == enough:
                break
        else:
            return None
    stamps = np.array(times)
    slides = np.abs(np.gradient(np.array(post), stamps)) > MOVES
    return AtomicEpisode(np.array(states), stamps, labels, slides | np.array(pressed))
