"""The scripted expert: solves every task family from the simulator's truth.

It keeps no memory: what to do next is read from the present state alone. That lets it label any
state, also one that noise or a learning policy led to, with the chunk that it would execute from
there (see plan_chunk), so recoveries are in the data and labels stay free of noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vla.control.robots import panda
from vla.core.rotations import difference, quaternion_to_matrix
from vla.envs.tabletop import scene
from vla.envs.tabletop.goals.planning import plan_to_goal
from vla.envs.tabletop.motion import FINGER_STEP, MAX_TURN, step_towards
from vla.envs.tabletop.places import rests
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import DRAWER, RECALL, Task

LIFTED_HEIGHT = 0.22
CARRY_HEIGHT = 0.17
# Above the cabinet, so that what hangs below the fingers clears it and the drawer's handle.
HIGH_CARRY_HEIGHT = 0.22
RELEASE_RADIUS = 0.022
# A cabinet has more room than a bowl: less often up again to correct. The drawer has little.
_RELEASE_RADII = {"store": 0.035, "stow": 0.01}
# How far above its place the target is released [m]: into the drawer, with the fingers above its
# front.
_DROPS = {"bowl": 0.02, "drawer": 0.058}
RETREAT_HEIGHT = 0.26
HOVER = 0.09
# What is so near to the tool is between the fingers; how far above it they are free of it [m].
FINGER_REACH, CLEARANCE = 0.04, 0.02
DRAWER_GOAL = 0.11
HANDLE_WAY = 0.08  # how far in front of the handle a thing that is carried keeps clear of it [m]
PRESS_DEPTH = 0.01


@dataclass(frozen=True)
class ExpertState:
    """What the expert decides by; base frame, metres and radians."""

    tool: np.ndarray  # position of the tool
    tilt: np.ndarray  # rotation vector (x, y) that would set the tool upright
    yaw: float  # of the tool
    width: float  # finger opening
    grasp: np.ndarray  # where to grasp the target
    grasp_yaw: float  # of the tool at the grasp
    grasp_width: float  # thickness of the target there
    gripped: bool  # both fingers touch it
    drawer: float = 0.0  # how far it is open
    destination: np.ndarray | None = None  # where to put the target
    placed: bool = False  # the target rests there
    release_height: float = 0.0  # of the tool when it releases
    carry_height: float = CARRY_HEIGHT  # of the tool on the way there
    carry_slack: float = 0.05  # how far below that it may be when it sets out
    # What was moved before is no longer in line with the fingers, and slips more easily.
    careful: bool = False
    # Height of the tool above which nothing is between its fingers but the target.
    clear_height: float = 0.0
    waits: bool = False  # until the lamp is off
    # How near the middle of its place the target is released.
    release_radius: float = RELEASE_RADIUS


@dataclass(frozen=True)
class Goal:
    """Where the tool should go next."""

    position: np.ndarray  # [3] [m]
    yaw: float
    gripper: float  # 1 open, 0 closed


def observe(simulator: TableTopSimulator, task: Task) -> ExpertState:
    """The expert's state of a task, from the simulator's truth."""
    position, quaternion = simulator.end_effector_pose()
    matrix = quaternion_to_matrix(quaternion)
    yaw = float(np.arctan2(matrix[1, 0], matrix[0, 0]))
    upright = np.array([np.cos(yaw / 2), np.sin(yaw / 2), 0.0, 0.0])  # turned by yaw, then down
    tilt = difference(upright, quaternion)[:2]
    if task.family == RECALL:
        return ExpertState(
            tool=position,
            tilt=tilt,
            yaw=yaw,
            width=simulator.gripper_width,
            grasp=simulator.recall.position(task.target),
            grasp_yaw=0.0,
            grasp_width=-1.0,  # fingers never close on it
            gripped=simulator.recall.pressed == task.target,
            waits=simulator.recall.is_lit(simulator.time),
        )
    if task.target == DRAWER:
        item = None
        grasp = simulator.handle_position() + np.array([0.0, 0.0, 0.006])
        grasp_yaw, grasp_width = 0.0, scene.HANDLE_THICKNESS
        gripped = simulator.touching_fingers("drawer") == 2
    else:
        item = simulator.scene_objects[task.target]
        centre = simulator.object_position(task.target)
        grasp = centre + np.array([0.0, 0.0, 0.008 if task.target.endswith("can") else 0.0])
        grasp_yaw, grasp_width = simulator.object_grasp(task.target)
        near = float(np.linalg.norm(centre - position)) < 0.04
        gripped = simulator.touching_fingers(item.body) == 2 and near
    state = ExpertState(
        tool=position,
        tilt=tilt,
        yaw=yaw,
        width=simulator.gripper_width,
        grasp=grasp,
        grasp_yaw=grasp_yaw,
        grasp_width=grasp_width,
        gripped=gripped,
        drawer=simulator.drawer_opening if item is None else 0.0,
        clear_height=_clear_height(simulator, task, position),
        careful=simulator.began_at > 0.0,
    )
    if item is None or not task.destination:
        return state
    place = simulator.place_position(task.destination, task.target)
    # High over the cabinet and the drawer's handle, to them and from them.
    beyond = centre[1] > simulator.handle_position()[1] - HANDLE_WAY
    high = task.family in ("store", "stow") or beyond
    return replace(
        state,
        destination=place,
        # Where one finger still touches it, it is being released, not to be grasped again.
        placed=not gripped and rests(simulator, task.target, task.destination),
        release_height=float(
            place[2]
            + item.half_height
            + position[2]
            - centre[2]
            + _DROPS.get(task.destination, 0.004)
        ),
        carry_height=HIGH_CARRY_HEIGHT if high else CARRY_HEIGHT,
        # Off the cabinet, and over an open drawer's handle, all the way up first.
        carry_slack=0.015 if high and (beyond or simulator.drawer_opening > 0.03) else 0.05,
        release_radius=_RELEASE_RADII.get(task.family, RELEASE_RADIUS),
    )


def _clear_height(simulator: TableTopSimulator, task: Task, tool: np.ndarray) -> float:
    """How high the tool has to rise so that nothing but the target is between its fingers [m]."""
    tops = [
        simulator.object_position(name) + np.array([0.0, 0.0, item.half_height])
        for name, item in simulator.scene_objects.items()
        if name != task.target
    ]
    if task.target != DRAWER:
        tops.append(simulator.handle_position() + np.array([0.0, 0.0, scene.HANDLE_HEIGHT / 2]))
    near = [top[2] for top in tops if np.hypot(*(top - tool)[:2]) < FINGER_REACH]
    return max(near, default=0.0) + CLEARANCE if near else 0.0


def next_goal(state: ExpertState, family: str) -> Goal:
    """What to do next in this state."""
    if family == RECALL:
        return _press(state)
    if state.destination is not None:
        return _next_place_goal(state, state.destination)
    if family == "pick":
        return _lift(state) if state.gripped else _approach(state)
    goal_opening = DRAWER_GOAL if family == "open_drawer" else 0.0
    done = state.drawer >= 0.1 if family == "open_drawer" else state.drawer <= 0.007
    if done:
        return _retreat(state)
    if state.gripped:
        # Aim beyond the end, so that servo compliance does not leave the drawer short of it.
        pull = goal_opening - state.drawer + (0.01 if family == "open_drawer" else -0.012)
        x, _, z = state.grasp
        return Goal(np.array([x, state.tool[1] - pull, z]), 0.0, 0.0)
    return _approach(state)


def _next_place_goal(state: ExpertState, destination: np.ndarray) -> Goal:
    if state.placed:
        return _retreat(state)
    if not state.gripped:
        return _approach(state)
    offset = float(np.hypot(*(state.grasp[:2] - destination[:2])))
    aim = state.tool[:2] + destination[:2] - state.grasp[:2]
    if offset > state.release_radius:
        if state.tool[2] < state.carry_height - state.carry_slack:
            return Goal(np.array([*state.tool[:2], state.carry_height]), 0.0, 0.0)
        return Goal(np.array([*aim, state.carry_height]), 0.0, 0.0)
    if state.tool[2] > state.release_height + 0.009:
        return Goal(np.array([*aim, state.release_height]), 0.0, 0.0)
    return Goal(state.tool, 0.0, 1.0)


def _press(state: ExpertState) -> Goal:
    """Wait while the lamp shows its colour; then onto the button, with closed fingers.

    While it waits, its whole plan is to stay: what is seen of the lamp moves nothing, so that later
    only a memory of it tells where to go.
    """
    if state.waits:
        return Goal(state.tool, 0.0, 0.0)
    x, y, z = state.grasp
    if state.gripped:
        return Goal(np.array([x, y, z + HOVER]), 0.0, 0.0)
    away = float(np.hypot(state.tool[0] - x, state.tool[1] - y))
    low = away < 0.012 + 0.2 * max(0.0, float(state.tool[2]) - z)
    return Goal(np.array([x, y, z - PRESS_DEPTH if low else z + HOVER]), 0.0, 0.0)


def _lift(state: ExpertState) -> Goal:
    return Goal(np.array([*state.tool[:2], LIFTED_HEIGHT]), 0.0, 0.0)


def _retreat(state: ExpertState) -> Goal:
    """Open, then straight up and stay."""
    if state.width < 0.055:
        return Goal(state.tool, 0.0, 1.0)
    return Goal(np.array([*state.tool[:2], RETREAT_HEIGHT]), 0.0, 1.0)


def _approach(state: ExpertState) -> Goal:
    """Up from what is between the fingers, above the target, down within a funnel, close."""
    gx, gy, gz = state.grasp
    hover = np.array([gx, gy, gz + HOVER])
    distance = float(np.hypot(state.tool[0] - gx, state.tool[1] - gy))
    if state.tool[2] < state.clear_height and distance > FINGER_REACH:
        return Goal(np.array([*state.tool[:2], state.clear_height + 0.01]), state.yaw, 1.0)
    height = float(state.tool[2] - gz)
    turn = abs(state.yaw - state.grasp_yaw)
    missed = state.width < state.grasp_width - 0.007
    if missed:
        return Goal(np.array([*state.tool[:2], hover[2]]), state.grasp_yaw, 1.0)
    is_open = state.width > 0.074
    # Once the fingers are closing, a target that they nudge is no reason to open again.
    reach, depth = (0.007, 0.006 if state.careful else 0.011) if is_open else (0.014, 0.011)
    if distance < reach and abs(height) < depth and turn < 0.15:
        return Goal(state.grasp, state.grasp_yaw, 0.0)
    # Fingers that are still opening close too early, above the target's middle, and it slips.
    open_wide = state.width > max(state.grasp_width + 0.018, 0.07 if state.careful else 0.0)
    if height < HOVER + 0.05 and distance < 0.012 + 0.25 * max(height, 0.0) and open_wide:
        low = distance < 0.014 and turn < 0.2
        return Goal(np.array([gx, gy, gz if low else gz + 0.04]), state.grasp_yaw, 1.0)
    if height < HOVER - 0.04:
        return Goal(np.array([*state.tool[:2], hover[2]]), state.grasp_yaw, 1.0)
    return Goal(hover, state.grasp_yaw, 1.0)


def _advance(state: ExpertState, goal: Goal) -> tuple[ExpertState, np.ndarray]:
    """One policy step towards the goal, without physics: the next state and the action [7]."""
    move = step_towards(goal.position - state.tool)
    tilt = np.clip(state.tilt, -MAX_TURN, MAX_TURN)
    turn = float(np.clip(goal.yaw - state.yaw, -MAX_TURN, MAX_TURN))
    action = np.array([*move, *tilt, turn, goal.gripper])

    opening = FINGER_STEP if goal.gripper > 0.5 else -FINGER_STEP
    width = float(np.clip(state.width + opening, 0.0, panda.OPEN_WIDTH))
    tool = state.tool + move
    gripped, placed, grasp, drawer = state.gripped, state.placed, state.grasp, state.drawer
    near = np.hypot(*(tool[:2] - grasp[:2])) < 0.015 and abs(tool[2] - grasp[2]) < 0.015
    if goal.gripper > 0.5 and width > state.grasp_width + 0.004:
        if gripped and state.destination is not None:
            placed = bool(np.hypot(*(grasp[:2] - state.destination[:2])) < 0.05)
        gripped = False
    elif goal.gripper < 0.5 and near and width <= state.grasp_width:
        gripped = True
    if gripped:
        width = max(width, state.grasp_width)
        grasp = grasp + move
        drawer = state.drawer - float(move[1])
    after = replace(
        state,
        tool=tool,
        tilt=state.tilt - tilt,
        yaw=state.yaw + turn,
        width=width,
        grasp=grasp,
        gripped=gripped,
        placed=placed,
        drawer=drawer,
    )
    return after, action


def plan_chunk(simulator: TableTopSimulator, task: Task, horizon: int) -> np.ndarray:
    """The expert's next actions from the present state, [horizon, 7], un-normalised deltas.

    The plan runs ahead without physics, assuming that commands are met.
    """
    if simulator.goals is not None:
        return plan_to_goal(simulator, task, horizon)
    state = observe(simulator, task)
    actions = np.zeros((horizon, 7))
    for index in range(horizon):
        state, actions[index] = _advance(state, next_goal(state, task.family))
    return actions
