"""Reads a bag once, from start to end, as frames of a robot episode.

A frame is taken `rate` times a second. It holds the newest message of each stream at that moment,
never a later one. Actions are the motion of the tool in the next step, so a demonstration teaches
regardless of what moved the arm: a policy, a teleoperator, a hand.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vla.bags.images import camera_image, defined_otherwise
from vla.bags.reader import (
    BagMessage,
    BagMetadata,
    is_unfinished,
    read_metadata,
    read_undecoded,
)
from vla.bags.spoken import SpokenInstructions
from vla.bags.stream_checks import StreamChecks
from vla.bags.topics import (
    INSTRUCTION,
    contract_topics,
    instruction_topic,
    opening_topic,
    status_topic,
)
from vla.bags.writer import METADATA_FILE
from vla.contract.embodiment import (
    CameraContract,
    ContractError,
    EmbodimentContract,
    contract_from_dict,
)
from vla.control.session import LONGEST_INSTRUCTION
from vla.core.files import read_yaml_text
from vla.core.shown import brief
from vla.core.text import check_text
from vla.datasets.frames import DatasetError
from vla.datasets.language_motion import MotionThresholds, language_motion
from vla.datasets.step_actions import gripper_commands, step_motion
from vla.observations.messages import (
    NANOSECONDS,
    joint_positions,
    pose_to_arrays,
    serialized_stamp,
    stamp_to_nanoseconds,
)
from vla.observations.resampling import FramePicker, Resampler, Sample, Stream
from vla.observations.streams import (
    ARM,
    FINGERS,
    POSE,
    camera_stream,
    observation_streams,
    observed_state,
)

# A motion label looks this far ahead [s], two frames of the paper's data.
MOTION_SPAN = 0.5
# Images wait this long for the other streams, by receive times [s].
LONGEST_WAIT = 10.0
# A camera may miss this share of the frames; one slower than the rate misses more.
LARGEST_SKIPPED_SHARE = 0.1

Images = dict[str, np.ndarray]


@dataclass
class FrameLog:
    """Statistics of a bag's messages, for reports."""

    topics: dict[str, str]  # by stream
    stamps: dict[str, list[int]] = field(default_factory=dict)  # of all messages, by stream [ns]
    ages: dict[str, list[int]] = field(default_factory=dict)  # of what frames took, by stream [ns]
    skipped: int = 0  # frames without an image of their own
    before: int = 0  # samples before all streams had begun


@dataclass
class BagEpisode:
    """One episode, N frames at the contract's rate, without its images."""

    folder: Path
    metadata: BagMetadata
    times: np.ndarray  # [N], by the robot's clock [ns]
    states: np.ndarray  # [N, S], float32, in the contract's units
    actions: np.ndarray  # [N, A], float32, in the contract's units
    instructions: list[str]  # in force at each frame
    motions: list[str]  # language motion labels
    log: FrameLog


@dataclass
class _Frame:
    """A frame whose next step may not be known yet."""

    time: int
    received: int
    images: dict[str, Callable[[], np.ndarray]]  # each decoded and shaped when called
    pose: tuple[np.ndarray, np.ndarray]
    width: float
    # After the next step; the frame's own until that is known.
    next_pose: tuple[np.ndarray, np.ndarray]
    next_width: float


def read_frames(
    folder: str | Path, contract: EmbodimentContract, sink: Callable[[Images], None] | None
) -> BagEpisode:
    """Reads a bag and takes its frames, from the first moment with all streams on.

    sink: gets the images of each frame, uint8 [H, W, 3] by camera, in the order of time, so that
    few are in memory at once; None decodes no image. Raises BagError for a damaged bag,
    ContractError for another robot's, and DatasetError, which names bag, topic and time, where a
    stream is missing, malformed, in other units than the contract's or silent for too long.
    """
    folder = Path(folder)
    metadata = read_metadata(folder)
    if (recorded := recorded_contract(metadata, folder)) is not None:
        contract.require_same(recorded, "ours", f"that of {folder.name}")
    try:
        return _FrameReader(folder, metadata, contract, sink).read()
    except ValueError as error:
        kind = ContractError if isinstance(error, ContractError) else DatasetError
        raise kind(f"{folder}: {error}") from error


def recorded_contract(metadata: BagMetadata, folder: Path) -> EmbodimentContract | None:
    """The contract in a bag; None where it has none. Raises ContractError."""
    text = metadata.custom_data.get("contract")
    if not text:
        return None
    where = f"{folder}: the contract in custom_data"
    return contract_from_dict(read_yaml_text(str(text), where, ContractError), where)


class _FrameReader:
    """Reads one bag."""

    def __init__(
        self,
        folder: Path,
        metadata: BagMetadata,
        contract: EmbodimentContract,
        sink: Callable[[Images], None] | None,
    ):
        self._folder, self._metadata, self._contract = folder, metadata, contract
        self._sink = sink
        topics = contract_topics(contract, metadata.topics, metadata.types)
        streams = observation_streams(contract, topics)
        # The arm's joints are not part of the state.
        del streams[ARM]
        self._reference = camera_stream(contract.reference_camera)
        self._resampler = Resampler(streams, self._reference, LONGEST_WAIT)
        self._cameras: dict[str, list[CameraContract]] = {}
        for camera in contract.cameras:
            self._cameras.setdefault(topics[camera.topic], []).append(camera)
        self._joints_topic = topics[contract.joint_states_topic]
        self._pose_topic = topics[contract.end_effector_pose_topic]
        # The same states again, to look up where the next step ends.
        self._ends = {n: Stream(streams[n].topic, streams[n].max_age) for n in (POSE, FINGERS)}
        self._spoken: str | None = None
        self._told: str | None = None
        # A demonstration's instruction is in the metadata, not on the topic.
        if metadata.custom_data.get("demonstration") != "true":
            self._spoken = instruction_topic(metadata.topics, metadata.types)
        if self._spoken:
            self._told = status_topic(self._spoken, metadata.topics, metadata.types)
        self._commands = opening_topic(metadata.topics, metadata.types)
        self._checks = StreamChecks(contract)
        self._said = SpokenInstructions(self._spoken or INSTRUCTION)
        self._step = round(NANOSECONDS / contract.rate)
        self._picker = FramePicker(contract.rate)
        # Time of the first frame, and of the last image of the reference camera after it [ns].
        self._begin = 0
        self._sampled: int | None = None
        # When the message at hand was received [ns].
        self._received = 0
        self._unfinished: deque[_Frame] = deque()
        self._frames: list[_Frame] = []
        self.log = FrameLog({name: stream.topic for name, stream in streams.items()})
        for name in streams:
            self.log.stamps[name], self.log.ages[name] = [], []

    def read(self) -> BagEpisode:
        """All of it."""
        torn = is_unfinished(self._metadata)
        topics = {*self._cameras, self._joints_topic, self._pose_topic}
        topics |= {topic for topic in (self._spoken, self._told, self._commands) if topic}
        for message, decode in read_undecoded(self._folder, topics, torn):
            self._take(message, decode)
        self._checks.finish(self._joints_topic)
        self._check_ends()
        if len(self._frames) < 2:
            raise DatasetError(
                f"the streams overlap too little, or their clocks differ: {self._spans()}"
            )
        self.log.skipped = self._picker.skipped
        wanted = len(self._frames) + self._picker.skipped
        if self._picker.skipped > LARGEST_SKIPPED_SHARE * wanted:
            raise DatasetError(
                f"'{self.log.topics[self._reference]}' gives {len(self._frames)} images for "
                f"{wanted} frames: it is slower than the contract's rate of "
                f"{self._contract.rate:g} Hz; use a faster camera, or a contract of a lower rate"
            )
        return self._episode()

    def _take(self, message: BagMessage, decode: Callable[[], Any]) -> None:
        topic, self._received = message.topic, message.receive_time
        try:
            if topic in self._cameras:
                stamp = serialized_stamp(message.data)
                self._checks.stamp(topic, stamp)
                for camera in self._cameras[topic]:
                    image = partial(camera_image, message, decode, camera, self._checks)
                    self._add(camera_stream(camera.name), stamp, (message.receive_time, image))
                return
            if topic == self._commands:
                # These are only checked.
                with contextlib.suppress(ValueError, IndexError, AttributeError, TypeError):
                    self._checks.command(self._received, float(decode().data[0]))
                return
            value = decode()
            if topic == self._spoken:
                self._said.announce(value, message.receive_time)
                return
            if topic == self._told:
                self._said.confirm(value)
                return
            self._take_state(topic, stamp_to_nanoseconds(value.header.stamp), value)
        except DatasetError:
            raise
        except ValueError as error:
            raise DatasetError(f"'{topic}': {error}") from error
        except (AttributeError, TypeError) as error:
            raise defined_otherwise(message, error) from error

    def _take_state(self, topic: str, stamp: int, value: Any) -> None:
        self._checks.stamp(topic, stamp)
        if topic == self._pose_topic:
            if value.header.frame_id != self._contract.base_frame:
                raise DatasetError(
                    f"'{topic}' is in frame {brief(value.header.frame_id)}; the contract "
                    f"says '{self._contract.base_frame}'"
                )
            pose = pose_to_arrays(value.pose)
            self._checks.place(topic, stamp, pose[0])
            self._add(POSE, stamp, pose)
            return
        self._checks.joints(topic, stamp, value)
        # Some drivers send arm and gripper in separate messages on the same topic.
        if self._contract.finger_joint_names[0] in value.name:
            width = float(joint_positions(value, self._contract.finger_joint_names).sum())
            self._checks.opening(topic, stamp, width, self._received)
            self._add(FINGERS, stamp, width)

    def _add(self, name: str, stamp: int, value: Any) -> None:
        self.log.stamps[name].append(stamp)
        if name in self._ends:
            self._ends[name].add(stamp, value)
        reference = self._resampler.streams[self._reference]
        for sample in self._resampler.add(name, stamp, value, self._received / NANOSECONDS):
            # Frames begin once all streams are on.
            if not self.log.ages[self._reference] and not sample.complete:
                self.log.before += 1
                continue
            if self._sampled is None:
                self._begin = self._sampled = sample.stamp
            pause = sample.stamp - self._sampled
            if reference.too_old(pause - self._step):
                self._silent(reference, pause, self._sampled)
            self._sampled = sample.stamp
            for picked in self._picker.add(sample.stamp, sample):
                self._pick(picked)
        self._finish_frames()

    def _pick(self, sample: Sample) -> None:
        """Makes a frame of a sample; raises DatasetError for what is wrong with it."""
        for name in sample.stale:
            self._silent(self._resampler.streams[name], sample.ages[name], sample.stamp)
        received, _ = sample.values[self._reference]
        images = {c.name: sample.values[camera_stream(c.name)][1] for c in self._contract.cameras}
        for name, age in sample.ages.items():
            self.log.ages[name].append(age)
        pose, width = sample.values[POSE], sample.values[FINGERS]
        self._unfinished.append(_Frame(sample.stamp, received, images, pose, width, pose, width))

    def _finish_frames(self) -> None:
        """Outputs frames whose next step is complete."""
        ends = self._ends.values()
        while self._unfinished:
            frame = self._unfinished[0]
            later = frame.time + self._step
            if any(stream.newest is None or stream.newest < later for stream in ends):
                return
            found: dict[str, Any] = {POSE: frame.pose, FINGERS: frame.width}
            for name, stream in self._ends.items():
                stamp, found[name] = stream.at(later) or (frame.time, found[name])
                if stream.too_old(later - stamp):
                    self._silent(stream, later - stamp, later)
                stream.forget(frame.time)
            frame.next_pose, frame.next_width = found[POSE], found[FINGERS]
            if self._sink is not None:
                self._sink({name: image() for name, image in frame.images.items()})
            frame.images = {}
            self._frames.append(self._unfinished.popleft())

    def _silent(self, stream: Stream, age: int, time: int) -> None:
        raise DatasetError(
            f"'{stream.topic}' is silent for {age / NANOSECONDS:.3f} s at second "
            f"{self._seconds(time):.2f}; the contract allows {stream.max_age:g} s"
        )

    def _seconds(self, time: int) -> float:
        """Time since the first frame."""
        return (time - self._begin) / NANOSECONDS

    def _check_ends(self) -> None:
        """Raises DatasetError where a stream is empty, or ends long before the others."""
        for name, stamps in self.log.stamps.items():
            if not stamps and name == FINGERS:
                raise self._checks.no_fingers(self._joints_topic)
            if not stamps:
                raise DatasetError(f"no message on '{self.log.topics[name]}'")
        if self._sampled is None:
            return
        last = max(max(stamps) for stamps in self.log.stamps.values())
        for name, stream in self._resampler.streams.items():
            end = max(self.log.stamps[name])
            silence = last - end
            if stream.too_old(silence - self._step):
                raise DatasetError(
                    f"'{stream.topic}' ends at second {self._seconds(end):.2f}, "
                    f"{silence / NANOSECONDS:.2f} s before the others"
                )

    def _spans(self) -> str:
        return ", ".join(
            f"'{self.log.topics[name]}' {min(stamps) / NANOSECONDS:.1f} to "
            f"{max(stamps) / NANOSECONDS:.1f} s"
            for name, stamps in self.log.stamps.items()
        )

    def _instructions(self) -> list[str]:
        first = str(self._metadata.custom_data.get("instruction", ""))
        told = self._said.in_force([frame.received for frame in self._frames], first)
        checked = {t: check_text(t, "instruction", LONGEST_INSTRUCTION) for t in set(told)}
        instructions = [checked[text] for text in told]
        if not all(instructions):
            raise DatasetError(
                f"no instruction: neither on '{INSTRUCTION}' nor in {METADATA_FILE} (custom_data: "
                "instruction)"
            )
        return instructions

    def _episode(self) -> BagEpisode:
        contract, frames = self._contract, self._frames
        for ages in self.log.ages.values():
            del ages[len(frames) :]
        motions = [step_motion(f.pose, f.next_pose, contract.representation) for f in frames]
        widths = np.array([frame.width for frame in frames])
        gripper = gripper_commands(widths, np.array([f.next_width for f in frames]), contract)
        states = [observed_state(frame.pose, frame.width, contract) for frame in frames]
        return BagEpisode(
            folder=self._folder,
            metadata=self._metadata,
            times=np.array([frame.time for frame in frames]),
            states=np.array(states, dtype=np.float32),
            actions=np.column_stack([motions, gripper]).astype(np.float32),
            instructions=self._instructions(),
            motions=language_motion(
                np.array([frame.pose[0] for frame in frames]),
                np.array([frame.pose[1] for frame in frames]),
                1.0 - gripper,
                MotionThresholds(window=max(1, round(MOTION_SPAN * contract.rate))),
            ),
            log=self.log,
        )
