"""Each episode of SimplerEnv's variant aggregation: the Google robot's tasks in changed scenes.

All is simulated, with no picture of the real place behind it. The camera's variants have families
of their own, since the published mean leaves them out.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from vla.envs.simpler.episodes import (
    CAN_SCENE,
    GOOGLE,
    TRACED,
    apples,
    coke_cans,
    drawers,
    moves_near,
)

CAMERA_FAMILIES = ("coke_can_cameras", "move_near_cameras")
CAMERAS = {"camera_1": "AltGoogleCamera", "camera_2": "AltGoogleCamera2"}
CAN = "GraspSingleOpenedCokeCanInScene-v0"
NEAR = "MoveNearGoogleInScene-v0"
# Changes of the scene on the table, as arguments of SimplerEnv's, by name.
TABLE: dict[str, dict[str, Any]] = {
    "base": {},
    "background_1": {"scene_name": "google_pick_coke_can_1_v4_alt_background"},
    "background_2": {"scene_name": "google_pick_coke_can_1_v4_alt_background_2"},
    "darker": {"slightly_darker_lighting": True},
    "brighter": {"slightly_brighter_lighting": True},
    "table_1": {"scene_name": "Baked_sc1_staging_objaverse_cabinet1_h870"},
    "table_2": {"scene_name": "Baked_sc1_staging_objaverse_cabinet2_h870"},
}
# And of the room with the drawers.
ROOM: dict[str, dict[str, Any]] = {
    "base": {},
    "background_1": {"scene_name": "modern_bedroom_no_roof"},
    "background_2": {"scene_name": "modern_office_no_roof"},
    "darker": {"light_mode": "darker"},
    "brighter": {"light_mode": "brighter"},
    "cabinet_1": {"station_name": "mk_station2"},
    "cabinet_2": {"station_name": "mk_station3"},
}


def variant_aggregation(family: str) -> list[dict[str, Any]]:
    """The episodes of a family: 675, 480, 378 or 189, and 150 or 120 of the cameras'."""
    table, episodes = GOOGLE | CAN_SCENE, []
    room = GOOGLE | {"scene_name": "frl_apartment_stage_simple"} | TRACED
    if family == "coke_can":
        for name, change in TABLE.items():
            episodes += coke_cans(CAN, table | change, [name])
        crowded = CAN.replace("CokeCan", "CokeCanDistractor")
        episodes += coke_cans(crowded, table, ["distractors"])
        episodes += coke_cans(crowded, table | {"distractor_config": "more"}, ["more_distractors"])
    elif family == "move_near":
        for name, change in (TABLE | {"no_distractor": {"no_distractor": True}}).items():
            episodes += moves_near(NEAR, table | change, [name])
    elif family == "drawers":
        places = list(product(np.linspace(0.65, 0.85, 3), np.linspace(-0.2, 0.2, 3)))
        standing = [("", (float(x), float(y), 0.0)) for x, y in places]
        for name, change in ROOM.items():
            episodes += drawers(room | change, standing, [name])
    elif family == "apple_in_drawer":
        standing = [("", (0.65, float(y), 0.0)) for y in np.linspace(-0.2, 0.2, 3)]
        for name, change in ROOM.items():
            episodes += apples(room | change | {"model_ids": "apple"}, standing, [name])
    else:
        for name, camera in CAMERAS.items():
            if family == "coke_can_cameras":
                task = CAN.replace("InScene", f"{camera}InScene")
                episodes += coke_cans(task, table, [name])
            else:
                task = NEAR.replace("GoogleInScene", f"{camera}InScene")
                episodes += moves_near(task, table, [name])
    return episodes
