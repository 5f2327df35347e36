"""The streams that an observation is made of, as perception and conversion resample them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vla.contract.embodiment import EmbodimentContract, state_vector
from vla.observations.resampling import Stream

ARM, FINGERS, POSE = "arm", "fingers", "pose"
CAMERA = "camera_"


def camera_stream(name: str) -> str:
    """Name of a camera's stream."""
    return CAMERA + name


def observation_streams(
    contract: EmbodimentContract, topics: Mapping[str, str] | None = None
) -> dict[str, Stream]:
    """A stream for each camera, for arm and fingers, and for the tool's pose.

    topics: those of the contract, by the contract's name, where they are called otherwise. Raises
    ContractError for a contract whose state is not that of a tool.
    """
    contract.require_tool("observing a robot")
    named = topics or {}

    def stream(topic: str, max_age: float) -> Stream:
        return Stream(named.get(topic, topic), max_age)

    cameras = {camera_stream(c.name): stream(c.topic, c.max_age) for c in contract.cameras}
    age = contract.state_max_age
    return cameras | {
        ARM: stream(contract.joint_states_topic, age),
        FINGERS: stream(contract.joint_states_topic, age),
        POSE: stream(contract.end_effector_pose_topic, age),
    }


def observed_state(
    pose: tuple[np.ndarray, np.ndarray], width: float, contract: EmbodimentContract
) -> np.ndarray:
    """The contract's state vector [S] of a tool pose (position, quaternion) and the fingers' width.

    Raises ValueError where a value is not finite or the quaternion is not of unit length.
    """
    return state_vector(*pose, width, contract.state_names, contract.gripper_open_width)
