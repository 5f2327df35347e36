"""Node `perception`: makes one Observation of each image of the reference camera.

Reads the topics that the embodiment contract names and takes of each the newest message until the
image's stamp, by the code that makes training data of bags; with `approximate_time` the images of
other cameras are those that message_filters matches. Checks everything, crops and resizes
images once for every consumer, and publishes vla/observation at camera rate. From bad or missing
input nothing is published; a diagnostic says what is wrong and the node goes on.
"""

from __future__ import annotations

import array
import time
from functools import partial

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CompressedImage, Image, JointState
from vla_ros.msg import Observation

from vla.contract.embodiment import CameraContract, load_contract
from vla.contract.state_checks import (
    MOST_NAMES,
    joints_fault,
    missing_joints,
    opening_fault,
    place_fault,
)
from vla.core.clock import CLOCK_TOLERANCE, from_future
from vla.core.resources import contract_path
from vla.observations.frozen_images import FrozenImages
from vla.observations.messages import (
    NANOSECONDS,
    joint_positions,
    pose_to_arrays,
    stamp_to_nanoseconds,
)
from vla.observations.resampling import Resampler, Sample
from vla.observations.streams import (
    ARM,
    CAMERA,
    FINGERS,
    POSE,
    camera_stream,
    observation_streams,
    observed_state,
)
from vla_nodes.core import qos
from vla_nodes.core.clock_watch import ClockWatch
from vla_nodes.core.conversions import arrays_to_pose, nanoseconds_to_stamp
from vla_nodes.core.heartbeat import Heart
from vla_nodes.core.liveliness import lease_of, with_liveliness
from vla_nodes.core.node import ManagedNode
from vla_nodes.core.renewed import RenewedSubscription, renew_silent
from vla_nodes.core.running import run
from vla_nodes.core.sources import SourceWatch
from vla_nodes.perception.matching import ImageMatcher
from vla_nodes.perception.settings import SETTINGS
from vla_nodes.perception.shaping import BadInput, shape_image
from vla_nodes.perception.tool_frames import TF_TOPIC, ToolFrames


class Perception(ManagedNode):
    """Resamples, checks and shapes what the robot sees and feels."""

    SETTINGS = SETTINGS
    TASK = "observations"

    def __init__(self) -> None:
        super().__init__("perception")
        self.diagnostics.checks.append(self._check_silence)

    def configure(self) -> None:
        """Reads the contract and prepares the output."""
        self._contract = load_contract(contract_path(self.settings["contract"]))
        self._contract_id = self._contract.contract_id
        self.diagnostics.values["contract"] = f"{self._contract.name} {self._contract_id}"
        self._output = self.create_lifecycle_publisher(
            Observation, "vla/observation", with_liveliness(qos.LATEST, lease_of(self))
        )
        self._heart = Heart(self)
        self._inputs: dict[str, RenewedSubscription] = {}
        self._reference = camera_stream(self._contract.reference_camera)
        self._matcher: ImageMatcher | None = None
        if self.settings["synchronization"] == "approximate_time":
            # The reference last: the resampler has the others by then.
            names = [camera_stream(camera.name) for camera in self._contract.cameras]
            names.sort(key=self._reference.__eq__)
            self._matcher = ImageMatcher(names, self.settings["synchronization_slop"])

    def activate(self) -> None:
        """Subscribes to the robot."""
        contract = self._contract
        has_frames = self.settings["pose_source"] == "tf"
        self._pose_topic = TF_TOPIC if has_frames else contract.end_effector_pose_topic
        self._resampler = Resampler(
            observation_streams(contract, {contract.end_effector_pose_topic: self._pose_topic}),
            self._reference,
            self.settings["longest_wait"],
            restart=True,
        )
        self._sampled = time.monotonic()
        self._waits_run_out = 0
        # Names that joint states had, for the report of those that they lack.
        self._joints_heard: dict[str, None] = {}
        # By stream, why its newest message was refused.
        self._ahead: dict[str, str] = {}
        self._sources = {
            ARM: SourceWatch(self, contract.joint_states_topic, "the arm's joint states"),
            FINGERS: SourceWatch(self, contract.joint_states_topic, "the fingers' joint states"),
        }
        ClockWatch(self)
        motion = self.settings["frozen_motion"]
        self._frozen = {camera.name: FrozenImages(motion) for camera in contract.cameras}
        # Fires only while an image waits, and then at its deadline.
        self._deadline: float | None = None
        self._timer = self.create_steady_timer(1.0, self._on_deadline)
        self._timer.cancel()
        kind, suffix = (
            (CompressedImage, "/compressed") if self.settings["compressed"] else (Image, "")
        )
        listen = partial(RenewedSubscription, self)
        for camera in contract.cameras:
            topic, stream = camera.topic + suffix, camera_stream(camera.name)
            what = f"images of camera '{camera.name}'"
            self._sources[stream] = SourceWatch(self, topic, what)
            self._inputs[stream] = listen(kind, topic, partial(self._take, stream), qos.SENSOR)
        joints, pose = contract.joint_states_topic, self._pose_topic
        self._inputs[ARM] = listen(JointState, joints, self._on_joint_states, qos.RESAMPLED)
        self._frames = ToolFrames(self, contract, partial(self._add, POSE)) if has_frames else None
        if self._frames is not None:
            self._inputs[POSE] = self._frames.moving
        else:
            self._sources[POSE] = SourceWatch(self, pose, "poses")
            self._inputs[POSE] = listen(PoseStamped, pose, partial(self._take, POSE), qos.RESAMPLED)
        self._heart.start()

    def deactivate(self) -> None:
        """Ends the heartbeat and the subscriptions; the publisher is ended by the base."""
        self._heart.stop()
        for entry in self._inputs.values():
            entry.close()
        self._inputs.clear()

    def _on_joint_states(self, message: JointState, info: dict) -> None:
        # Some drivers send arm and gripper in separate messages on the same topic.
        if self._contract.joint_names[0] in message.name:
            self._take(ARM, message, info)
        if self._contract.finger_joint_names[0] in message.name:
            self._take(FINGERS, message, info)
        if len(self._joints_heard) < MOST_NAMES:
            self._joints_heard |= dict.fromkeys(message.name)

    def _take(
        self, stream: str, message: Image | CompressedImage | JointState | PoseStamped, info: dict
    ) -> None:
        if not self._sources[stream].accepts(info):
            self.diagnostics.report("second_publisher", self._sources[stream].problem)
            return
        self._add(stream, message)

    def _add(
        self, stream: str, message: Image | CompressedImage | JointState | PoseStamped
    ) -> None:
        now, stamp = time.monotonic(), stamp_to_nanoseconds(message.header.stamp)
        ahead = (stamp - self.get_clock().now().nanoseconds) / NANOSECONDS
        if ahead > CLOCK_TOLERANCE:
            topic = self._resampler.streams[stream].topic
            self._ahead[stream] = f"the stamps on '{topic}' are {from_future(ahead)}"
            self.diagnostics.report("future_stamp", self._ahead[stream])
            return
        self._ahead.pop(stream, None)
        if self._matcher is None or not stream.startswith(CAMERA):
            self._publish(self._resampler.add(stream, stamp, (now, message), now))
            return
        for images in self._matcher.add(stream, message):
            stamp = stamp_to_nanoseconds(images[self._reference].header.stamp)
            for name, image in images.items():
                self._publish(self._resampler.add(name, stamp, (now, image), now))

    def _on_deadline(self) -> None:
        self._publish(self._resampler.due(time.monotonic()))

    def _publish(self, samples: list[Sample]) -> None:
        for sample in samples:
            self._on_sample(sample)
        if (deadline := self._resampler.deadline) == self._deadline:
            return
        self._deadline = deadline
        if deadline is None:
            self._timer.cancel()
        else:
            wait = max(deadline - time.monotonic(), 0.0)
            # Not zero, which a timer does not take, and not a moment too early.
            self._timer.timer_period_ns = round(wait * NANOSECONDS) + 100_000
            self._timer.reset()

    def _on_sample(self, sample: Sample) -> None:
        if not self.is_active:
            return
        self._sampled = time.monotonic()
        self._waits_run_out += bool(sample.unreached)
        self.diagnostics.values["waits_run_out"] = str(self._waits_run_out)
        try:
            observation = self._observe(sample)
        except BadInput as error:
            self.diagnostics.report(error.reason, str(error))
            return
        if observation is not None:
            self._output.publish(observation)
            arrival, _ = sample.values[self._reference]
            self.diagnostics.output(time.monotonic() - arrival)

    def _observe(self, sample: Sample) -> Observation | None:
        """The message; None where an image is missing that `_check_silence` speaks about."""
        contract = self._contract
        problems = [source.problem for source in self._sources.values()]
        if self._frames is not None:
            problems.append(self._frames.problem)
        if problem := next(filter(None, problems), ""):
            raise BadInput("second_publisher", problem)
        for problem in self._ahead.values():
            raise BadInput("future_stamp", problem)
        now = self.get_clock().now().nanoseconds
        self._check_age(contract.camera(contract.reference_camera), sample, now)
        if not self._has_images(sample):
            self.diagnostics.drop("no_image")
            return None
        observation = Observation(contract_id=self._contract_id)
        observation.header.stamp = nanoseconds_to_stamp(sample.stamp)
        observation.header.frame_id = contract.base_frame
        for camera in contract.cameras:
            self._check_age(camera, sample, now)
            _, message = sample.values[camera_stream(camera.name)]
            self._check_frozen(camera, message, sample)
            observation.images.append(shape_image(camera, message))
            observation.camera_names.append(camera.name)
        self._add_state(observation, sample, now)
        return observation

    def _check_frozen(
        self, camera: CameraContract, message: Image | CompressedImage, sample: Sample
    ) -> None:
        if ARM in sample.missing + sample.stale:
            return
        try:
            joints = joint_positions(sample.values[ARM][1], self._contract.joint_names)
        except ValueError:
            return
        seconds = sample.stamp / NANOSECONDS
        if self._frozen[camera.name].is_frozen(message.data, joints, seconds):
            raise BadInput(
                "frozen_image",
                f"camera '{camera.name}' sends one image again and again while the arm moves: "
                "restart its driver",
            )

    def _check_age(self, camera: CameraContract, sample: Sample, now: int) -> None:
        stream = camera_stream(camera.name)
        _, message = sample.values[stream]
        age = (now - stamp_to_nanoseconds(message.header.stamp)) / NANOSECONDS
        self.diagnostics.input_age(stream, age)
        if age > camera.max_age:
            raise BadInput(
                "stale_image",
                f"images of camera '{camera.name}' are {age:.3f} s old, more than the "
                f"{camera.max_age:g} s of the contract: check that the clocks agree (use_sim_time, "
                "NTP) and the load",
            )

    def _has_images(self, sample: Sample) -> bool:
        """Whether each camera has an image. Raises BadInput where one sends, but of other times."""
        present = True
        for camera in self._contract.cameras:
            name = camera_stream(camera.name)
            if name not in sample.missing + sample.stale:
                continue
            present = False
            newest = self._resampler.streams[name].newest
            ahead = 0.0 if newest is None else (newest - sample.stamp) / NANOSECONDS
            sends = time.monotonic() - self._inputs[name].heard_at < camera.max_age
            # One that has just begun to send is a little ahead.
            if newest is not None and sends and (name in sample.stale or ahead > camera.max_age):
                raise BadInput(
                    "not_synchronized",
                    f"camera '{camera.name}' has no image of the last {camera.max_age:g} s before "
                    f"that of '{self._contract.reference_camera}'; its newest is {ahead:+.3f} s "
                    "from it: check that the clocks agree",
                )
        return present

    def _add_state(self, observation: Observation, sample: Sample, now: int) -> None:
        contract = self._contract
        for name in (ARM, FINGERS, POSE):
            self._require(name, sample)
        (_, arm), (_, fingers), (_, pose) = (sample.values[n] for n in (ARM, FINGERS, POSE))
        arm_stamp = sample.stamp - sample.ages[ARM]
        self.diagnostics.input_age("joint_states", (now - arm_stamp) / NANOSECONDS)
        topic = contract.joint_states_topic
        try:
            joints = joint_positions(arm, contract.joint_names)
            width = float(joint_positions(fingers, contract.finger_joint_names).sum())
        except ValueError as error:
            raise BadInput("bad_joint_states", f"'{topic}': {error}") from error
        positions = dict(zip(contract.joint_names, joints, strict=True))
        if fault := joints_fault(contract, positions) or opening_fault(width, contract):
            raise BadInput("bad_joint_states", f"'{topic}': {fault}")
        if pose.header.frame_id != contract.base_frame:
            raise BadInput(
                "wrong_frame",
                f"'{self._pose_topic}' is in frame '{pose.header.frame_id}'; the "
                f"contract says '{contract.base_frame}'",
            )
        try:
            position, quaternion = pose_to_arrays(pose.pose)
            state = observed_state((position, quaternion), width, contract)
        except ValueError as error:
            raise BadInput("bad_pose", f"'{self._pose_topic}': {error}") from error
        if fault := place_fault(position):
            raise BadInput("bad_pose", f"'{self._pose_topic}': {fault}")
        observation.state_stamp = nanoseconds_to_stamp(arm_stamp)
        observation.state_names = list(contract.state_names)
        observation.state = array.array("d", state)
        observation.end_effector_pose = arrays_to_pose(position, quaternion)
        observation.gripper_width = width

    def _require(self, name: str, sample: Sample) -> None:
        """Raises BadInput where a stream of the state has nothing of the time of the image."""
        stream = self._resampler.streams[name]
        wanted = {ARM: self._contract.joint_names, FINGERS: self._contract.finger_joint_names}
        if stream.newest is None and name in wanted and self._joints_heard:
            fault = missing_joints(wanted[name], self._joints_heard)
            raise BadInput("bad_joint_states", f"'{stream.topic}': {fault}")
        if stream.newest is None and name == POSE and self._frames is not None:
            raise BadInput("no_state", self._frames.missing)
        if stream.newest is None:
            of = f" with '{self._contract.finger_joint_names[0]}'" if name == FINGERS else ""
            raise BadInput(
                "no_state", f"nothing{of} has come on '{stream.topic}' yet: is the robot driver up?"
            )
        if name in sample.missing + sample.stale:
            distance = (stream.newest - sample.stamp) / NANOSECONDS
            raise BadInput(
                "stale_state",
                f"no message on '{stream.topic}' is from the last {stream.max_age:g} s before the "
                f"image; the newest is {distance:+.3f} s from it: check that the driver runs and "
                "that the clocks agree",
            )

    def _check_silence(self) -> None:
        if not self.is_active:
            return
        self.diagnostics.values["renewed_subscriptions"] = renew_silent(self._inputs.values())
        now, patience = time.monotonic(), self.settings["silence_timeout"]
        inputs = {c.name: self._inputs[camera_stream(c.name)] for c in self._contract.cameras}
        silent = {name: entry for name, entry in inputs.items() if now - entry.heard_at > patience}
        for name, entry in silent.items():
            cause = "its publisher sends none" if entry.has_publisher else "nobody sends"
            self.diagnostics.report(
                f"no_camera_{name}",
                f"no image of camera '{name}' on '{entry.topic}' for {now - entry.heard_at:.1f} s "
                f"({cause}): check its driver and the topic in the contract",
            )
        # A refused stamp is a cause that was named already.
        if not (silent or self._ahead) and now - self._sampled > patience:
            fault = (
                f"no image of '{self._contract.reference_camera}' had a later stamp than the one "
                "before it: check the clock of its driver"
            )
            if self._matcher is not None:
                fault = (
                    "no stamps of their images were within synchronization_slop "
                    f"({self.settings['synchronization_slop']:g} s) of each other: check that the "
                    "clocks agree, or raise it"
                )
            self.diagnostics.report(
                "not_synchronized",
                f"all cameras send, but for {now - self._sampled:.1f} s {fault}",
            )


def main() -> int:
    """Runs the node."""
    return run(Perception)
