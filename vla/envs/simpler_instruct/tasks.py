"""The 80 tasks of SimplerEnv-Instruct (InstructVLA, section 4.2), and their 1138 episodes.

A task is an environment of the authors' ManiSkill2 with the arguments of its scene. It is called as
the environment is; where several share one, what tells them apart stands behind a colon. Those that
begin with Free are instruction aggregation, those with Alt situated reasoning.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from vla.envs.simpler.episodes import (
    CAN_SCENE,
    DRAWER_PLACES,
    DRAWER_SCENE,
    GOOGLE,
    TRACED,
    Place,
    apples,
    episode,
    grid,
    sink,
)

Episodes = list[dict[str, Any]]

PICTURE = "google_coke_can_real_eval_1"
CABINET = {"urdf_version": "recolor_cabinet_visual_matching_1"}
OTHER_TABLE = {"scene_name": "google_pick_coke_can_1_v4_alt_background"}
THIRD_TABLE = {"scene_name": "google_pick_coke_can_1_v4_alt_background_2"}
BEDROOM = {"scene_name": "modern_bedroom_no_roof", **TRACED}
APARTMENT = {"scene_name": "frl_apartment_stage_simple", **TRACED}
DRAWERS = ("Top", "Middle", "Bottom")
GRASP_PLACE: Place = (0.35, 0.20, 0.0)
NEAR_PLACE: Place = (0.35, 0.21, 0.0)


def tasks_of(robot: str) -> dict[str, Episodes]:
    """The episodes by task: 78 tasks of robot "google", two of "widowx"."""
    if robot == "widowx":
        names = ("AltDryEgglpantInSceneEnv-v0", "AltDryOrangeInSceneEnv-v0")
        return {name: [sink(name, number, 120) for number in range(24)] for name in names}
    return _grasps() | _cans() | _drawers() | _moves() | _places() | _situated() | _long()


def _grasps() -> dict[str, Episodes]:
    """Fruit to grasp: in the usual scene first, then before another background."""
    versions = {"Banana": 3, "Pear": 3, "Plum": 2, "Lemon": 3, "Pumpkin": 2, "Orange": 2}
    tasks = {}
    for fruit, count in versions.items():
        places = grid((-0.25, -0.1, 4), (0.06, 0.36, 4))
        if fruit == "Banana":
            places = grid((-0.35, -0.196, 4), (0.12, 0.46, 4))
        for version in range(count):
            name, scene = f"FreeGraspSingle{fruit}InScene-v{version}", _table(version)
            tasks[name] = _grasp(name, scene | CABINET, places, GRASP_PLACE, PICTURE)
    return tasks


def _cans() -> dict[str, Episodes]:
    places, tasks = grid((-0.35, -0.12, 5), (-0.02, 0.42, 5)), {}
    versions = {"OpenedPepsi": 2, "Opened7up": 2, "Sprite": 3, "7up": 3}
    for can, count in versions.items():
        for version in range(count):
            name = f"FreeGraspSingle{can}CanInScene-v{version}"
            pose = {} if can == "7up" else {"upright": True}
            tasks[name] = _grasp(name, _table(version) | pose, places, GRASP_PLACE)
    return tasks


def _table(version: int) -> dict[str, str]:
    return OTHER_TABLE if version else CAN_SCENE


def _grasp(
    name: str, scene: dict[str, Any], places: list[list[float]], robot: Place, picture: str = ""
) -> Episodes:
    return [
        episode(name, GOOGLE | scene, picture, robot, {"init_xy": place}, 80) for place in places
    ]


def _drawers() -> dict[str, Episodes]:
    tasks = {}
    for verb, drawer, version in product(("Open", "Close"), DRAWERS, (0, 1)):
        name = f"Free{verb}{drawer}DrawerCustomInScene-v{version}"
        room, farthest = (APARTMENT, 0.85) if version else (BEDROOM, 0.80)
        tasks[name] = _at_drawers(name, room, (0.65, farthest), (0.0, 0.0), 113)
    for drawer, form in product(DRAWERS, ("", "2")):
        name = f"AltOpen{drawer}DrawerCustomInSceneEnv{form}-v0"
        tasks[name] = _at_drawers(name, BEDROOM, (0.65, 0.80), (0.0, 0.0), 113)
    return tasks


def _at_drawers(
    name: str,
    room: dict[str, Any],
    distances: tuple[float, float],
    thing: tuple[float, float],
    steps: int,
) -> Episodes:
    """With the robot at nine places, of which `distances` are the nearest and the farthest [m]."""
    places = product(np.linspace(*distances, 3), np.linspace(-0.2, 0.2, 3))
    return [
        episode(name, GOOGLE | room, "", (float(x), float(y), 0.0), {"init_xy": list(thing)}, steps)
        for x, y in places
    ]


def _moves() -> dict[str, Episodes]:
    pictured = (
        "LemonNearPearEnv-v0",
        "LemonNearPearEnv-v1",
        "LemonNearPearEnv-v2",
        "LNearVEnv-v0",
        "LNearAEnv-v0",
        "BottleNearOrangeEnv-v0",
        "MugNearPlaystationEnv-v0",
        "MugNearPlaystationEnv-v1",
    )
    tasks = {}
    for ending in pictured:
        name = f"FreePlace{ending}"
        tasks[name] = _near(name, CAN_SCENE | CABINET, PICTURE)
        if ending.startswith("Mug"):
            tasks[f"{name}:simulated"] = _near(name, CAN_SCENE)
    situated = {
        "AltPlaceAppleNearOrangeCanEnv-v0": CAN_SCENE,
        "AltPlaceBottleNearSpongeEnv-v0": OTHER_TABLE,
        "AltPlaceBottleNearOrangeEnv-v0": OTHER_TABLE,
    }
    return tasks | {name: _near(name, scene) for name, scene in situated.items()}


def _near(name: str, scene: dict[str, Any], picture: str = "") -> Episodes:
    return [
        episode(name, GOOGLE | scene, picture, NEAR_PLACE, {"episode_id": number}, 80)
        for number in range(12)
    ]


def _places() -> dict[str, Episodes]:
    """An apple into the top drawer, from one place of the robot for each wording."""
    scene = DRAWER_SCENE | {
        "urdf_version": "recolor_tabletop_visual_matching_1",
        "model_ids": "baked_apple_v2",
    }
    tasks = {}
    for version, place in enumerate(("c0", "b0", "a0")):
        name = f"FreePlaceIntoTopDrawerEnv-v{version}"
        standing = [(f"open_drawer_{place}", DRAWER_PLACES[place])]
        tasks[name] = [
            entry | {"environment": name} for entry in apples(GOOGLE | scene, standing, ())
        ]
    return tasks


def _situated() -> dict[str, Episodes]:
    """One thing among others, as a situation implies it: among few, then among more."""
    things = ("Sponge-v0", "Orange-v0", "Orange2-v0", "Eggplant-v0", "Mug-v0", "Mug-v1")
    places, tasks = grid((-0.1, -0.3, 4), (0.0, 0.4, 4)), {}
    for thing, _, version in (entry.partition("-") for entry in things):
        name = f"AltGrasp{thing}DistractorInSceneEnv-{version}"
        lying = {"laid_vertically": True}
        tasks[name] = _grasp(name, OTHER_TABLE | lying, places, NEAR_PLACE)
        more = THIRD_TABLE | lying | {"distractor_config": "more"}
        tasks[f"{name}:more"] = _grasp(name, more, places, NEAR_PLACE)
    return tasks


def _long() -> dict[str, Episodes]:
    """A drawer to close as a part of something longer, named by what lies there, and the room."""
    second, first = "AltCloseDrawerInLongStep2", "AltCloseDrawerInLongStep1"
    middle = "AltCloseMiddleDrawerInLongStep2"
    variants = (
        (second, "orange", APARTMENT, ""),
        (second, "apple", APARTMENT, ""),
        (second, "coffee_mug", APARTMENT, ""),
        (middle, "orange", APARTMENT, ""),
        (middle, "apple", APARTMENT, ""),
        (first, "opened_coke_can", APARTMENT, ""),
        (first, "opened_coke_can", BEDROOM, "_bedroom"),
    )
    tasks = {}
    for beginning, thing, room, where in variants:
        name = f"{beginning}HorizonInSceneEnv-v0"
        scene = room | {"model_ids": thing}
        tasks[f"{name}:{thing}{where}"] = _at_drawers(name, scene, (0.55, 0.75), (-0.1, 0.0), 150)
    return tasks
