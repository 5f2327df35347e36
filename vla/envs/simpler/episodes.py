"""SimplerEnv's tasks, and each episode of its visual matching evaluation (2405.05941).

An episode is what its process needs to build the scene and to reset it, see
vla/envs/simpler/adapter.py, and the names under which it is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from math import cos, sin
from typing import Any

import numpy as np

GOOGLE = {
    "robot": "google_robot_static",
    "control_freq": 3,
    "sim_freq": 513,
    "control_mode": "arm_pd_ee_delta_pose_align_interpolate_by_planner_"
    "gripper_pd_joint_target_delta_pos_interpolate_by_planner",
}
WIDOWX = {
    "robot": "widowx",
    "control_freq": 5,
    "sim_freq": 500,
    "control_mode": "arm_pd_ee_target_delta_pose_align2_gripper_pd_joint_pos",
}
CAN_SCENE = {"scene_name": "google_pick_coke_can_1_v4"}
# Policies tell depth by shadows here, so it is drawn by ray tracing.
TRACED = {"shader_dir": "rt"}
DRAWER_SCENE = {
    "scene_name": "dummy_drawer",
    "station_name": "mk_station_recolor",
    "light_mode": "simple",
    "disable_bad_material": True,
    **TRACED,
}
# SimplerEnv's names of how the can lies, and the ones under which its results are published.
CAN_POSES = {"lr_switch": "horizontal", "upright": "standing", "laid_vertically": "vertical"}
DRAWER_TASKS = tuple(
    (f"{verb}{drawer}DrawerCustomInScene-v0", verb.lower())
    for verb in ("Open", "Close")
    for drawer in ("Top", "Middle", "Bottom")
)
Place = tuple[float, float, float]  # of the robot: x, y [m] and yaw [rad]
# Where it stands before the drawers, by the name of its picture.
DRAWER_PLACES: dict[str, Place] = {
    "a0": (0.644, -0.179, -0.03),
    "a1": (0.765, -0.182, -0.02),
    "a2": (0.889, -0.203, -0.06),
    "b0": (0.652, 0.009, 0.0),
    "b1": (0.752, 0.009, 0.0),
    "b2": (0.851, 0.035, 0.0),
    "c0": (0.665, 0.224, 0.0),
    "c1": (0.765, 0.222, -0.025),
    "c2": (0.865, 0.222, -0.025),
}
WIDOWX_TASKS = {
    "spoon": "PutSpoonOnTableClothInScene-v0",
    "carrot": "PutCarrotOnPlateInScene-v0",
    "stack": "StackGreenCubeOnYellowCubeBakedTexInScene-v0",
    "eggplant": "PutEggplantInBasketScene-v0",
}
FAMILIES = {
    "google": ("coke_can", "move_near", "drawers", "apple_in_drawer"),
    "widowx": tuple(WIDOWX_TASKS),
}
# Colourings of the Google robot whose mean is published, by the names under which they are counted.
COLOURINGS = {
    "original": "",
    "tabletop_1": "recolor_tabletop_visual_matching_1",
    "tabletop_2": "recolor_tabletop_visual_matching_2",
    "cabinet_1": "recolor_cabinet_visual_matching_1",
}


def visual_matching(
    family: str, colourings: dict[str, str] | None = None, widowx_steps: int = 60
) -> list[dict[str, Any]]:
    """The episodes of a family: 75, 60, 54 or 27 of the Google robot, 24 of the WidowX.

    colourings: of the Google robot, as SimplerEnv names them, each of which has them all; the names
    are those under which they are counted. None for the original one, which is not counted apart.
    widowx_steps: of an episode of the WidowX but for the eggplant's, which has 120 or more.
    """
    if family in WIDOWX_TASKS:
        return [_widowx(family, number, widowx_steps) for number in range(24)]
    episodes = []
    for name, urdf_version in (colourings or {"": ""}).items():
        recoloured = {"urdf_version": urdf_version}
        labels = (name,) if name else ()
        if family == "coke_can":
            picture, build = "google_coke_can_real_eval_1", GOOGLE | CAN_SCENE | recoloured
            episodes += coke_cans("GraspSingleOpenedCokeCanInScene-v0", build, labels, picture)
        elif family == "move_near":
            picture, build = "google_move_near_real_eval_1", GOOGLE | CAN_SCENE | recoloured
            episodes += moves_near("MoveNearGoogleBakedTexInScene-v0", build, labels, picture)
        elif family == "drawers":
            places = {f"open_drawer_{name}": place for name, place in DRAWER_PLACES.items()}
            episodes += drawers(GOOGLE | DRAWER_SCENE | recoloured, places.items(), labels)
        else:
            places = {f"open_drawer_{n}": DRAWER_PLACES[n] for n in ("a0", "b0", "c0")}
            build = GOOGLE | DRAWER_SCENE | {"model_ids": "baked_apple_v2"} | recoloured
            episodes += apples(build, places.items(), labels)
    return episodes


def coke_cans(
    environment: str, build: dict[str, Any], labels: Sequence[str], picture: str = ""
) -> list[dict[str, Any]]:
    """A can to pick, lying in two ways or standing, at 25 places each."""
    return [
        episode(
            environment,
            build | {pose: True},
            picture,
            (0.35, 0.20, 0.0),
            {"init_xy": place},
            80,
            (named, *labels),
        )
        for pose, named in CAN_POSES.items()
        for place in grid((-0.35, -0.12, 5), (-0.02, 0.42, 5))
    ]


def moves_near(
    environment: str, build: dict[str, Any], labels: Sequence[str], picture: str = ""
) -> list[dict[str, Any]]:
    """A thing to move near another one, in 60 layouts."""
    return [
        episode(
            environment, build, picture, (0.35, 0.21, -0.09), {"episode_id": number}, 80, labels
        )
        for number in range(60)
    ]


def drawers(
    build: dict[str, Any], places: Iterable[tuple[str, Place]], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Each of three drawers to open and to close. places: pictures, and where the robot stands."""
    return [
        episode(task, build, picture, place, {"init_xy": [0.0, 0.0]}, 113, (verb, *labels))
        for (task, verb), (picture, place) in product(DRAWER_TASKS, places)
    ]


def apples(
    build: dict[str, Any], places: Iterable[tuple[str, Place]], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """An apple to put into the top drawer, at nine places. places: as above."""
    task = "PlaceIntoClosedTopDrawerCustomInScene-v0"
    return [
        episode(task, build, picture, robot, {"init_xy": apple}, 200, labels)
        for (picture, robot), apple in product(places, grid((-0.08, -0.02, 3), (-0.02, 0.08, 3)))
    ]


def grid(x: tuple[float, float, int], y: tuple[float, float, int]) -> list[list[float]]:
    """Places [x, y], evenly spaced from a first to a last one, so many each."""
    return [[float(a), float(b)] for a, b in product(np.linspace(*x), np.linspace(*y))]


def sink(task: str, number: int, steps: int) -> dict[str, Any]:
    """An episode of the WidowX at the sink."""
    build = WIDOWX | {"robot": "widowx_sink_camera_setup", "scene_name": "bridge_table_1_v2"}
    return episode(task, build, "bridge_sink", (0.127, 0.06, 0.0), {"episode_id": number}, steps)


def _widowx(family: str, number: int, steps: int) -> dict[str, Any]:
    task = WIDOWX_TASKS[family]
    if family == "eggplant":
        return sink(task, number, max(steps, 120))
    build, place = WIDOWX | {"scene_name": "bridge_table_1_v1"}, (0.147, 0.028, 0.0)
    return episode(task, build, "bridge_real_eval_1", place, {"episode_id": number}, steps)


def episode(
    environment: str,
    build: dict[str, Any],
    picture: str,
    place: Place,
    thing: dict[str, Any],
    steps: int,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """What an episode's process needs.

    environment, build: SimplerEnv's name and arguments of the scene. picture: of the real place,
    drawn behind what is simulated; "" for none. place: of the robot. thing: where the things lie.
    labels: names under which the episode is counted.
    """
    x, y, yaw = place
    # The robot looks along -x: a turn by half a circle about z, then by the yaw (w x y z).
    turned = [-sin(yaw / 2), 0.0, 0.0, cos(yaw / 2)]
    return {
        "environment": environment,
        "build": dict(build),
        "picture": f"{picture}.png" if picture else "",
        "robot": {"init_xy": [x, y], "init_rot_quat": turned},
        "object": thing,
        "steps": steps,
        "labels": list(labels),
    }
