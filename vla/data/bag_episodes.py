"""Robot episodes of rosbag2 bags as training samples.

A frame is taken `rate` times a second. It holds the newest message of each stream that was there at
that moment, never a later one. What the arm did is taken from how its tool moved in the next step,
so that a demonstration teaches whatever moved the arm: a policy, a teleoperator, a hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vla.contract import CameraContract, EmbodimentContract, contract_from_dict, state_vector
from vla.data.bag import COMPLETE_KEY, METADATA_FILE
from vla.data.bag_reader import BagMetadata, read_decoded, read_metadata
from vla.data.frames import DatasetError
from vla.data.language_motion import MotionThresholds, language_motion
from vla.data.lerobot import chunk_with_padding
from vla.data.messages import (
    NANOSECONDS,
    compressed_to_array,
    image_to_array,
    joint_positions,
    pose_to_arrays,
    stamp_to_nanoseconds,
)
from vla.data.resampling import Stream, frame_times
from vla.data.sample import RobotSample
from vla.data.vla_it import read_vla_it
from vla.observation import prepare_image
from vla.rotations import difference, matrix_to_euler, quaternion_to_matrix

INSTRUCTION = "vla/instruction"
# Mode of an instruction that is only answered; what the arm does goes on under the one before.
ASK = "ask"
COMPRESSED = "/compressed"
FAILURE = "failure"
# Fingers whose distance changes faster were told to move [m/s]; slower, a held object gives way.
FINGER_SPEED = 0.05
# A motion label looks ahead so far [s], as two frames of the paper's data are apart.
MOTION_SPAN = 0.5


@dataclass
class BagEpisode:
    """One episode, N frames at the contract's rate.

    times: of the frames, by the robot's clock [ns]. images: uint8 [N, H, W, 3] by camera. states
    [N, S] and actions [N, A]: float32, in the contract's units. instructions: in force at each
    frame. motions: language motion labels.
    """

    folder: Path
    times: np.ndarray
    images: dict[str, np.ndarray]
    states: np.ndarray
    actions: np.ndarray
    instructions: list[str]
    motions: list[str]


class BagEpisodes:
    """Frames of the bags in a folder, held in memory at the size that the contract gives images.

    Bags that are labelled as failures are left out. annotations: VLA-IT file that has the names of
    the bags in the place of file paths. Raises DatasetError, BagError or ContractError that names
    the bag.
    """

    def __init__(
        self, folder: str | Path, contract: EmbodimentContract, annotations: str | Path = ""
    ):
        self.contract = contract
        labels = read_vla_it(annotations) if annotations else {}
        self._labels = {file: entry for (file, _), entry in labels.items()}
        self.episodes = [
            read_bag_episode(bag, contract)
            for bag in bag_folders(folder)
            if read_metadata(bag).custom_data.get("outcome") != FAILURE
        ]
        if not self.episodes:
            raise DatasetError(f"all bags in {folder} are labelled as failures")
        self._starts = np.cumsum([0, *(len(episode.states) for episode in self.episodes)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def sample(self, index: int, generator: np.random.Generator) -> RobotSample:
        """One frame."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        episode, row = self.episodes[number], int(index - self._starts[number])
        labels = self._labels.get(episode.folder.name)
        motion = labels.motion(row) if labels else None
        return RobotSample(
            images={name: images[row] for name, images in episode.images.items()},
            state=episode.states[row],
            actions=chunk_with_padding(episode.actions, row, self.contract.horizon),
            instruction=episode.instructions[row],
            motion=motion or episode.motions[row],
            annotation=labels.annotation if labels else None,
            source=f"{episode.folder}, frame {row}",
        )

    def states(self) -> np.ndarray:
        """States [N, S]."""
        return np.concatenate([episode.states for episode in self.episodes])

    def actions(self) -> np.ndarray:
        """Actions [N, A]."""
        return np.concatenate([episode.actions for episode in self.episodes])


def bag_folders(folder: str | Path) -> list[Path]:
    """The bags in a folder, by name, or the folder itself where it is one.

    Raises DatasetError where there is none.
    """
    folder = Path(folder)
    if (folder / METADATA_FILE).is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{METADATA_FILE}"))
    if not found:
        raise DatasetError(f"no bags in {folder}; each is a folder with {METADATA_FILE}")
    return found


def read_bag_episode(folder: str | Path, contract: EmbodimentContract) -> BagEpisode:
    """Reads a bag and takes frames of it, from the first moment with all streams on.

    Raises BagError for a damaged bag, ContractError for that of another robot, and DatasetError,
    which names bag, topic and time, where a stream is missing, malformed or silent for too long.
    """
    folder = Path(folder)
    metadata = read_metadata(folder)
    if text := metadata.custom_data.get("contract"):
        recorded = contract_from_dict(yaml.safe_load(text), f"{folder}: contract")
        contract.require_same(recorded, "ours", f"that of {folder.name}")
    try:
        return _read(folder, metadata, contract)
    except ValueError as error:
        raise type(error)(f"{folder}: {error}") from error


def _read(folder: Path, metadata: BagMetadata, contract: EmbodimentContract) -> BagEpisode:
    cameras = {c.name: Stream(_topic(metadata, c.topic, True), c.max_age) for c in contract.cameras}
    age = contract.state_max_age
    poses = Stream(_topic(metadata, contract.end_effector_pose_topic), age)
    widths = Stream(_topic(metadata, contract.joint_states_topic), age)
    said: list[tuple[int, str]] = []
    torn = metadata.custom_data.get(COMPLETE_KEY) == "false"
    _fill(folder, metadata, torn, contract, cameras, poses, widths, said)

    reference = cameras[contract.reference_camera]
    streams = [poses, widths, *(s for s in cameras.values() if s is not reference)]
    times = frame_times(reference, streams, contract.rate)
    later = times + round(NANOSECONDS / contract.rate)
    now, then = poses.newest(times), poses.newest(later)
    width, next_width = np.array(widths.newest(times)), np.array(widths.newest(later))
    layout = (contract.state_names, contract.gripper_open_width)
    states = [state_vector(*pose, w, *layout) for pose, w in zip(now, width, strict=True)]
    motions = [_motion(*pair, contract.representation) for pair in zip(now, then, strict=True)]
    gripper = gripper_commands(width, next_width, contract)
    received = reference.newest(times)
    first = metadata.custom_data.get("instruction", "")
    instructions = [_in_force(said, moment) or first for moment in received]
    if not all(instructions):
        raise DatasetError(
            f"no instruction: neither on '{INSTRUCTION}' nor in {METADATA_FILE} (custom_data: "
            "instruction)"
        )
    return BagEpisode(
        folder=folder,
        times=times,
        images={c.name: _images(folder, torn, c, cameras[c.name], times) for c in contract.cameras},
        states=np.array(states, dtype=np.float32),
        actions=np.column_stack([motions, gripper]).astype(np.float32),
        instructions=instructions,
        motions=language_motion(
            np.array([position for position, _ in now]),
            np.array([quaternion for _, quaternion in now]),
            1.0 - gripper,
            MotionThresholds(window=max(1, round(MOTION_SPAN * contract.rate))),
        ),
    )


def _topic(metadata: BagMetadata, name: str, image: bool = False) -> str:
    """The bag's topic of that name, in whatever namespace; of an image, raw or compressed."""
    names = (name, name + COMPRESSED) if image else (name,)
    wanted = tuple(f"/{known.lstrip('/')}" for known in names)
    found = [topic for topic, count in metadata.topics.items() if topic.endswith(wanted) and count]
    if len(found) != 1:
        known = ", ".join(sorted(metadata.topics))
        problem = f"has several: {', '.join(found)}" if found else f"has none; it has: {known}"
        raise DatasetError(f"needs one topic '{name}', but {problem}")
    return found[0]


def _fill(
    folder: Path,
    metadata: BagMetadata,
    torn: bool,
    contract: EmbodimentContract,
    cameras: dict[str, Stream],
    poses: Stream,
    widths: Stream,
    said: list[tuple[int, str]],
) -> None:
    """Reads all stamps, poses and finger widths, and what was said when, but no image.

    torn: the recorder was killed, and the end of the bag may be missing. A camera's values are the
    times at which its images were received [ns].
    """
    by_topic = {stream.topic: stream for stream in cameras.values()}
    spoken = {t for t in metadata.topics if t.endswith(f"/{INSTRUCTION}")}
    topics = {*by_topic, poses.topic, widths.topic, *spoken}
    for message, value in read_decoded(folder, topics, torn):
        if message.topic in spoken:
            if value.mode != ASK:
                said.append((message.receive_time, value.instruction))
            continue
        stamp = stamp_to_nanoseconds(value.header.stamp)
        if message.topic in by_topic:
            by_topic[message.topic].add(stamp, message.receive_time)
        elif message.topic == poses.topic:
            if value.header.frame_id != contract.base_frame:
                raise DatasetError(
                    f"'{poses.topic}' is in frame '{value.header.frame_id}'; the contract says "
                    f"'{contract.base_frame}'"
                )
            poses.add(stamp, pose_to_arrays(value.pose))
        # Some drivers send arm and gripper in separate messages on the same topic.
        elif contract.finger_joint_names[0] in value.name:
            fingers = joint_positions(value, contract.finger_joint_names)
            widths.add(stamp, float(fingers.sum()))
    for stream in (*by_topic.values(), poses, widths):
        stream.sort()


def _images(
    folder: Path, torn: bool, camera: CameraContract, stream: Stream, times: np.ndarray
) -> np.ndarray:
    """Images [N, H, W, 3] of a camera at these times; only those that are used are decoded."""
    wanted: dict[int, list[int]] = {}
    for row, received in enumerate(stream.newest(times)):
        wanted.setdefault(received, []).append(row)
    images = np.zeros((len(times), camera.height, camera.width, 3), np.uint8)
    for message, value in read_decoded(folder, {stream.topic}, torn):
        if rows := wanted.get(message.receive_time):
            images[rows] = prepare_image(_pixels(value, stream.topic), camera)
    return images


def _pixels(message: Any, topic: str) -> np.ndarray:
    try:
        return (compressed_to_array if topic.endswith(COMPRESSED) else image_to_array)(message)
    except ValueError as error:
        raise DatasetError(f"malformed image on '{topic}': {error}") from error


def _motion(
    now: tuple[np.ndarray, np.ndarray], then: tuple[np.ndarray, np.ndarray], representation: str
) -> np.ndarray:
    """The motion [6] from one pose to another, as the contract's actions give it."""
    shift = then[0] - now[0]
    if representation == "delta":
        return np.concatenate([shift, difference(then[1], now[1])])
    before, after = (matrix_to_euler(quaternion_to_matrix(pose[1])) for pose in (now, then))
    turn = (after - before + np.pi) % (2 * np.pi) - np.pi
    return np.concatenate([shift, turn])


def gripper_commands(
    width: np.ndarray, next_width: np.ndarray, contract: EmbodimentContract
) -> np.ndarray:
    """What the fingers were told in each step [N], 1 open and 0 closed, by how they moved.

    width, next_width: [N], before and after the step [m]. Fingers that rest do what they were told
    last, so that a held object, which keeps them apart, does not look like an open gripper.
    """
    told = float(width[0] > contract.gripper_open_width / 2)
    least = FINGER_SPEED * contract.time_step
    commands = np.empty(len(width))
    for row, change in enumerate(next_width - width):
        if abs(change) > least:
            told = float(change > 0)
        commands[row] = told
    return commands


def _in_force(said: list[tuple[int, str]], moment: int) -> str:
    """The newest instruction that was received by then; empty before the first."""
    return next((text for received, text in reversed(said) if received <= moment), "")
