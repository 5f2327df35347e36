"""SimplerEnv's tasks, and each episode of its visual matching evaluation (2405.05941).

An episode is what its process needs to build the scene and to reset it, see
vla/envs/simpler/adapter.py.
"""

from __future__ import annotations

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
DRAWER_SCENE = {
    "scene_name": "dummy_drawer",
    "station_name": "mk_station_recolor",
    "light_mode": "simple",
    "disable_bad_material": True,
    "shader_dir": "rt",
}
CAN_POSES = ("lr_switch", "upright", "laid_vertically")
DRAWER_TASKS = tuple(
    f"{verb}{drawer}DrawerCustomInScene-v0"
    for verb in ("Open", "Close")
    for drawer in ("Top", "Middle", "Bottom")
)
# Where the robot stands before the drawers: x, y [m] and yaw [rad], by the name of its picture.
DRAWER_PLACES = {
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


def episodes_of(family: str, urdf_version: str = "") -> list[dict[str, Any]]:
    """All episodes of a family: the Google robot's have 75, 60, 54 and 27, the WidowX's 24 each.

    urdf_version: another colouring of the Google robot, as SimplerEnv names them.
    """
    episodes: list[dict[str, Any]]
    if family in WIDOWX_TASKS:
        return [_widowx(family, number) for number in range(24)]
    if family == "coke_can":
        grid = product(np.linspace(-0.35, -0.12, 5), np.linspace(-0.02, 0.42, 5))
        episodes = [
            _episode(
                "GraspSingleOpenedCokeCanInScene-v0",
                GOOGLE | CAN_SCENE | {pose: True},
                "google_coke_can_real_eval_1",
                (0.35, 0.20, 0.0),
                {"init_xy": [float(x), float(y)]},
                80,
            )
            for pose, (x, y) in product(CAN_POSES, list(grid))
        ]
    elif family == "move_near":
        episodes = [
            _episode(
                "MoveNearGoogleBakedTexInScene-v0",
                GOOGLE | CAN_SCENE,
                "google_move_near_real_eval_1",
                (0.35, 0.21, -0.09),
                {"episode_id": number},
                80,
            )
            for number in range(60)
        ]
    elif family == "drawers":
        episodes = [
            _episode(
                task,
                GOOGLE | DRAWER_SCENE,
                f"open_drawer_{place}",
                DRAWER_PLACES[place],
                {"init_xy": [0.0, 0.0]},
                113,
            )
            for task, place in product(DRAWER_TASKS, DRAWER_PLACES)
        ]
    else:
        grid = product(np.linspace(-0.08, -0.02, 3), np.linspace(-0.02, 0.08, 3))
        episodes = [
            _episode(
                "PlaceIntoClosedTopDrawerCustomInScene-v0",
                GOOGLE | DRAWER_SCENE | {"model_ids": "baked_apple_v2"},
                f"open_drawer_{place}",
                DRAWER_PLACES[place],
                {"init_xy": [float(x), float(y)]},
                200,
            )
            for place, (x, y) in product(("a0", "b0", "c0"), list(grid))
        ]
    for episode in episodes:
        episode["build"]["urdf_version"] = urdf_version
    return episodes


def _widowx(family: str, number: int) -> dict[str, Any]:
    build, picture, place, steps = WIDOWX, "bridge_real_eval_1", (0.147, 0.028, 0.0), 60
    scene = {"scene_name": "bridge_table_1_v1"}
    if family == "eggplant":
        build, picture, place, steps = (
            WIDOWX | {"robot": "widowx_sink_camera_setup"},
            "bridge_sink",
            (0.127, 0.06, 0.0),
            120,
        )
        scene = {"scene_name": "bridge_table_1_v2"}
    return _episode(
        WIDOWX_TASKS[family], build | scene, picture, place, {"episode_id": number}, steps
    )


def _episode(
    environment: str,
    build: dict[str, Any],
    picture: str,
    place: tuple[float, float, float],
    thing: dict[str, Any],
    steps: int,
) -> dict[str, Any]:
    x, y, yaw = place
    # The robot looks along -x: a turn by half a circle about z, then by the yaw (w x y z).
    turned = [-sin(yaw / 2), 0.0, 0.0, cos(yaw / 2)]
    return {
        "environment": environment,
        "build": dict(build),
        "picture": f"{picture}.png",  # of the real place, drawn behind what is simulated
        "robot": {"init_xy": [x, y], "init_rot_quat": turned},
        "object": thing,
        "steps": steps,
    }
