"""An observation as the model nodes work on it: checked against the contract, and unpacked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from vla_ros.msg import Observation

from vla.contract.embodiment import EmbodimentContract
from vla.core.shown import brief
from vla.observations.messages import image_to_array, stamp_to_nanoseconds


@dataclass(frozen=True)
class Scene:
    """An observation, checked and unpacked."""

    message: Observation
    images: dict[str, np.ndarray]  # uint8 [height, width, 3] by camera name
    state: np.ndarray  # [10], as the contract lists it
    arrived: float  # when it came in, steady clock [s]
    age: float  # of its stamp when work on it began [s]

    @property
    def stamp(self) -> int:
        """Of the observation [ns]."""
        return stamp_to_nanoseconds(self.message.header.stamp)


def unpack_scene(
    message: Observation, contract: EmbodimentContract, arrived: float, age: float
) -> Scene:
    """Checks an observation against the contract; raises ValueError that says what differs."""
    if message.contract_id != contract.contract_id:
        raise ValueError(
            f"it follows contract {brief(message.contract_id)}, this node has "
            f"{contract.contract_id} ('{contract.name}'): give all nodes the same contract"
        )
    names = [camera.name for camera in contract.cameras]
    if sorted(message.camera_names) != sorted(names) or len(message.images) != len(names):
        cameras = brief(list(message.camera_names), 200)
        raise ValueError(f"it has cameras {cameras}, expected {names}")
    if list(message.state_names) != list(contract.state_names):
        raise ValueError(f"it has state {brief(list(message.state_names), 300)}")
    state = np.array(message.state, dtype=np.float64)
    if state.shape != (len(contract.state_names),) or not np.isfinite(state).all():
        raise ValueError(f"its state is not {len(contract.state_names)} finite values")
    images = {}
    for name, image in zip(message.camera_names, message.images, strict=True):
        camera = contract.camera(name)
        images[name] = image_to_array(image)
        if images[name].shape != (camera.height, camera.width, 3):
            raise ValueError(
                f"its image '{name}' is {image.width} x {image.height}, expected "
                f"{camera.width} x {camera.height}"
            )
    return Scene(message, images, state, arrived, age)
