"""Node `perception`: makes one Observation of the newest synchronised images and robot state.

Reads the topics that the embodiment contract names, checks everything, crops and resizes images
once for every consumer, and publishes vla/observation at camera rate. From bad or missing input
nothing is published; a diagnostic says what is wrong and the node goes on.
"""

from __future__ import annotations

import array
import time
from collections import deque
from functools import partial

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CompressedImage, Image, JointState
from vla_ros.msg import Observation

from vla.contract import CameraContract, load_contract, state_vector
from vla.data.messages import (
    NANOSECONDS,
    compressed_to_array,
    image_to_array,
    joint_positions,
    pose_to_arrays,
    stamp_to_nanoseconds,
)
from vla.observation import prepare_image
from vla.resources import contract_path
from vla_nodes import qos
from vla_nodes.conversions import array_to_image, arrays_to_pose, nanoseconds_to_stamp
from vla_nodes.liveliness import promising
from vla_nodes.node import ManagedNode, Setting, run
from vla_nodes.synchronizer import ApproximateTimeSynchronizer, Subscriber

# Two seconds at 100 Hz: more than images are ever behind the joint states.
HISTORY = 200


class BadInput(ValueError):
    """Input that cannot become an observation. reason: the word that diagnostics count it by."""

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


class History:
    """The last messages of one topic with their stamps, to pick the one nearest to an image."""

    def __init__(self) -> None:
        self._entries: deque[tuple[int, JointState | PoseStamped]] = deque(maxlen=HISTORY)

    def add(self, message: JointState | PoseStamped) -> None:
        """Keeps a message."""
        self._entries.append((stamp_to_nanoseconds(message.header.stamp), message))

    def nearest(self, stamp: int, topic: str, reach: float) -> tuple[int, JointState | PoseStamped]:
        """Stamp [ns] and message nearest to `stamp` [ns].

        Raises BadInput when none lies within `reach` [s].
        """
        if not self._entries:
            raise BadInput(
                "no_state", f"nothing has come on '{topic}' yet: is the robot driver up?"
            )
        entry = min(reversed(self._entries), key=lambda entry: abs(entry[0] - stamp))
        distance = (entry[0] - stamp) / NANOSECONDS
        if abs(distance) > reach:
            raise BadInput(
                "stale_state",
                f"the nearest message on '{topic}' is {distance:+.3f} s from the image, more than "
                f"{reach:g} s: check that the driver runs and that the clocks agree",
            )
        return entry


class Perception(ManagedNode):
    """Synchronises, checks and shapes what the robot sees and feels."""

    SETTINGS = (
        Setting(
            "contract",
            "sim_panda",
            "Embodiment contract: path of a YAML file, or name of one in config/contracts.",
        ),
        Setting(
            "compressed",
            False,
            "Read sensor_msgs/CompressedImage from TOPIC/compressed instead of raw images.",
        ),
        Setting(
            "slop",
            0.03,
            "Largest difference between the stamps of the cameras' images in one observation [s].",
            minimum=0.0001,
            maximum=1.0,
        ),
        Setting(
            "queue_size",
            10,
            "Images kept per camera while they wait for those of the other cameras.",
            minimum=1,
            maximum=100,
        ),
        Setting(
            "silence_timeout",
            1.0,
            "A camera that sends nothing for so long is reported [s].",
            minimum=0.1,
            maximum=60.0,
            live=True,
        ),
    )

    def __init__(self) -> None:
        super().__init__("perception")
        self.diagnostics.checks.append(self._check_silence)

    def configure(self) -> None:
        """Reads the contract and prepares the output."""
        self._contract = load_contract(contract_path(self.settings["contract"]))
        self._contract_id = self._contract.contract_id
        self.diagnostics.values["contract"] = f"{self._contract.name} {self._contract_id}"
        self._output = self.create_lifecycle_publisher(
            Observation, "vla/observation", promising(qos.LATEST)
        )

    def activate(self) -> None:
        """Subscribes to the robot."""
        contract = self._contract
        self._arm, self._fingers, self._poses = History(), History(), History()
        now = time.monotonic()
        self._heard = {camera.name: now for camera in contract.cameras}
        self._matched = now
        kind, suffix = (
            (CompressedImage, "/compressed") if self.settings["compressed"] else (Image, "")
        )
        filters = []
        for camera in contract.cameras:
            source = Subscriber(self, kind, camera.topic + suffix, qos_profile=qos.SENSOR)
            source.registerCallback(partial(self._note_camera, camera.name))
            filters.append(source)
        synchronizer = ApproximateTimeSynchronizer(
            filters, self.settings["queue_size"], self.settings["slop"]
        )
        synchronizer.registerCallback(self._on_images)
        self._synchronizer = synchronizer
        self.create_subscription(
            JointState, contract.joint_states_topic, self._on_joint_states, qos.SENSOR
        )
        self.create_subscription(
            PoseStamped, contract.end_effector_pose_topic, self._poses.add, qos.SENSOR
        )

    def _note_camera(self, name: str, _: Image | CompressedImage) -> None:
        self._heard[name] = self._arrival = time.monotonic()

    def _on_joint_states(self, message: JointState) -> None:
        # Some drivers send arm and gripper in separate messages on the same topic.
        if self._contract.joint_names[0] in message.name:
            self._arm.add(message)
        if self._contract.finger_joint_names[0] in message.name:
            self._fingers.add(message)

    def _on_images(self, *messages: Image | CompressedImage) -> None:
        if not self.is_active:
            return
        self._matched = time.monotonic()
        try:
            observation = self._observe(messages)
        except BadInput as error:
            self.diagnostics.report(error.reason, str(error))
            return
        self._output.publish(observation)
        self.diagnostics.output(time.monotonic() - self._arrival)

    def _observe(self, messages: tuple[Image | CompressedImage, ...]) -> Observation:
        contract = self._contract
        now = self.get_clock().now().nanoseconds
        observation = Observation(contract_id=self._contract_id)
        for camera, message in zip(contract.cameras, messages, strict=True):
            self._check_age(camera, message, now)
            observation.images.append(_shape_image(camera, message))
            observation.camera_names.append(camera.name)
            if camera.name == contract.reference_camera:
                observation.header.stamp = message.header.stamp
        observation.header.frame_id = contract.base_frame
        stamp = stamp_to_nanoseconds(observation.header.stamp)
        self._add_state(observation, stamp, now)
        return observation

    def _check_age(
        self, camera: CameraContract, message: Image | CompressedImage, now: int
    ) -> None:
        age = (now - stamp_to_nanoseconds(message.header.stamp)) / NANOSECONDS
        self.diagnostics.input_age(f"camera_{camera.name}", age)
        if abs(age) > camera.max_age:
            words = f"{age:.3f} s old" if age > 0 else f"{-age:.3f} s in the future"
            raise BadInput(
                "stale_image",
                f"images of camera '{camera.name}' are {words}, more than the {camera.max_age:g} s "
                "of the contract: check that the clocks agree (use_sim_time, NTP) and the load",
            )

    def _add_state(self, observation: Observation, stamp: int, now: int) -> None:
        contract = self._contract
        joints_topic, reach = contract.joint_states_topic, contract.state_max_age
        arm_stamp, arm = self._arm.nearest(stamp, joints_topic, reach)
        _, fingers = self._fingers.nearest(stamp, joints_topic, reach)
        _, pose = self._poses.nearest(stamp, contract.end_effector_pose_topic, reach)
        self.diagnostics.input_age("joint_states", (now - arm_stamp) / NANOSECONDS)
        try:
            joint_positions(arm, contract.joint_names)
            width = float(joint_positions(fingers, contract.finger_joint_names).sum())
        except ValueError as error:
            raise BadInput("bad_joint_states", f"'{joints_topic}': {error}") from error
        if pose.header.frame_id != contract.base_frame:
            raise BadInput(
                "wrong_frame",
                f"'{contract.end_effector_pose_topic}' is in frame '{pose.header.frame_id}'; the "
                f"contract says '{contract.base_frame}'",
            )
        try:
            position, quaternion = pose_to_arrays(pose.pose)
            state = state_vector(
                position,
                quaternion,
                width,
                self._contract.state_names,
                self._contract.gripper_open_width,
            )
        except ValueError as error:
            raise BadInput("bad_pose", f"'{contract.end_effector_pose_topic}': {error}") from error
        observation.state_stamp = nanoseconds_to_stamp(arm_stamp)
        observation.state_names = list(contract.state_names)
        observation.state = array.array("d", state)
        observation.end_effector_pose = arrays_to_pose(position, quaternion)
        observation.gripper_width = width

    def _check_silence(self) -> None:
        if not self.is_active:
            return
        now, patience = time.monotonic(), self.settings["silence_timeout"]
        silent = {name: now - at for name, at in self._heard.items() if now - at > patience}
        for name, seconds in silent.items():
            topic = self._contract.camera(name).topic
            self.diagnostics.report(
                f"no_camera_{name}",
                f"no image of camera '{name}' on '{topic}' for {seconds:.1f} s: check its driver "
                "and the topic in the contract",
            )
        if not silent and now - self._matched > patience:
            self.diagnostics.report(
                "not_synchronized",
                f"all cameras send, but for {now - self._matched:.1f} s no images had stamps "
                f"within {self.settings['slop']:g} s (parameter 'slop') of each other",
            )


def _shape_image(camera: CameraContract, message: Image | CompressedImage) -> Image:
    try:
        if isinstance(message, CompressedImage):
            pixels = compressed_to_array(message)
        else:
            pixels = image_to_array(message)
    except ValueError as error:
        raise BadInput(
            "bad_image", f"malformed image of camera '{camera.name}': {error}"
        ) from error
    shaped = prepare_image(pixels, camera)
    if shaped is pixels and _is_plain_rgb(message):
        return message
    return array_to_image(shaped, message.header.stamp, message.header.frame_id)


def _is_plain_rgb(message: Image | CompressedImage) -> bool:
    return (
        isinstance(message, Image)
        and message.encoding == "rgb8"
        and message.step == 3 * message.width
    )


def main() -> int:
    """Runs the node."""
    return run(Perception)
