"""Which of a bag's topics are the contract's: bags hold others, in any namespace."""

from __future__ import annotations

from collections.abc import Mapping

from vla.contract.embodiment import EmbodimentContract
from vla.core.shown import first_few
from vla.datasets.frames import DatasetError

COMPRESSED = "/compressed"
INSTRUCTION, STATUS = "vla/instruction", "vla/status"
IMAGE, COMPRESSED_IMAGE = "sensor_msgs/Image", "sensor_msgs/CompressedImage"
JOINT_STATE, POSE = "sensor_msgs/JointState", "geometry_msgs/PoseStamped"
SAID, ARRAY = "vla_ros/Instruction", "std_msgs/Float64MultiArray"
TOLD = "vla_ros/PolicyStatus"
# The recorder's topic of commanded openings [m].
OPENING = "gripper_position_controller/commands"
# Raw images are lost by a busy recorder; where fewer than this share of them came, the compressed
# ones of the same camera are taken.
RAW_SHARE = 0.95
# Topics that an error names at most.
SHOWN = 20


def contract_topics(
    contract: EmbodimentContract, counts: Mapping[str, int], types: Mapping[str, str]
) -> dict[str, str]:
    """The bag's topic for each topic of the contract.

    counts, types: of the bag's topics. An exact name wins over one in a namespace. A camera's raw
    images are taken, or the compressed ones if those are missing or fewer than RAW_SHARE of them.
    Raises DatasetError that names all candidates.
    """
    wanted = {camera.topic: (IMAGE, COMPRESSED_IMAGE) for camera in contract.cameras} | {
        contract.joint_states_topic: (JOINT_STATE,),
        contract.end_effector_pose_topic: (POSE,),
    }
    return {name: _one(name, kinds, counts, types, wanted) for name, kinds in wanted.items()}


def camera_topics(counts: Mapping[str, int], types: Mapping[str, str]) -> list[str]:
    """The topics of all cameras in a bag, by name; of raw and compressed images the fuller."""
    forms: dict[str, list[str]] = {}
    for topic, count in counts.items():
        if count and is_of(types.get(topic, ""), (IMAGE, COMPRESSED_IMAGE)):
            forms.setdefault(camera_base(topic, types), []).append(topic)
    return [_form(topics, counts) for _, topics in sorted(forms.items())]


def camera_base(topic: str, types: Mapping[str, str]) -> str:
    """The topic of a camera's raw images, given the one of either kind."""
    compressed = is_of(types.get(topic, COMPRESSED_IMAGE), (COMPRESSED_IMAGE,))
    return topic.removesuffix(COMPRESSED) if compressed else topic


def instruction_topic(counts: Mapping[str, int], types: Mapping[str, str]) -> str | None:
    """The bag's topic of instructions; None where it has none.

    Raises DatasetError where there are several and none is called exactly vla/instruction.
    """
    if not _candidates(INSTRUCTION, (SAID,), counts, types):
        return None
    return _one(INSTRUCTION, (SAID,), counts, types, {})


def status_topic(spoken: str, counts: Mapping[str, int], types: Mapping[str, str]) -> str | None:
    """The bag's topic of the status that belongs to a topic of instructions; None without one."""
    topic = spoken.removesuffix(INSTRUCTION) + STATUS
    has_it = bool(counts.get(topic)) and is_of(types.get(topic, TOLD), (TOLD,))
    return topic if has_it else None


def opening_topic(counts: Mapping[str, int], types: Mapping[str, str]) -> str | None:
    """The bag's topic of commanded openings; None where that is not clear."""
    found = _candidates(OPENING, (ARRAY,), counts, types)
    if _absolute(OPENING) in found:
        return _absolute(OPENING)
    return next(iter(found)) if len(found) == 1 else None


def is_of(kind: str, kinds: tuple[str, ...]) -> bool:
    """Whether a type, package/msg/Name, is one of some given as package/Name."""
    return kind.replace("/msg/", "/") in kinds


def _one(
    name: str,
    kinds: tuple[str, ...],
    counts: Mapping[str, int],
    types: Mapping[str, str],
    wanted: Mapping[str, tuple[str, ...]],
) -> str:
    candidates = _candidates(name, kinds, counts, types)
    if exact := candidates.get(_absolute(name)):
        return _form(exact, counts)
    # A longer matching name is a better match.
    closer = tuple(o for o in map(_absolute, wanted) if len(o) > len(_absolute(name)))
    alike = {base: forms for base, forms in candidates.items() if not base.endswith(closer)}
    if len(alike) == 1:
        return _form(next(iter(alike.values())), counts)
    if alike:
        raise DatasetError(
            f"needs one topic '{name}', but has several that end so: {first_few(alike, SHOWN)}; "
            "give the full name of the right one in the contract, or record only that"
        )
    others = [
        f"{topic} is {kind}"
        for topic, kind in types.items()
        if topic.endswith(_absolute(name)) and counts.get(topic) and not is_of(kind, kinds)
    ]
    if others:
        raise DatasetError(
            f"needs one topic '{name}' of type {' or '.join(kinds)}, but "
            f"{first_few(others, SHOWN)}: correct the topic in the contract"
        )
    have = first_few(sorted(counts), SHOWN) or "none"
    raise DatasetError(f"needs one topic '{name}', but has none; it has: {have}")


def _candidates(
    name: str, kinds: tuple[str, ...], counts: Mapping[str, int], types: Mapping[str, str]
) -> dict[str, list[str]]:
    """Topics with messages that end in a name, by their names without /compressed."""
    found: dict[str, list[str]] = {}
    for topic, count in counts.items():
        base = camera_base(topic, types) if COMPRESSED_IMAGE in kinds else topic
        if count and base.endswith(_absolute(name)) and is_of(types.get(topic, kinds[0]), kinds):
            found.setdefault(base, []).append(topic)
    return found


def _form(topics: list[str], counts: Mapping[str, int]) -> str:
    """The one that is taken of a camera's raw and compressed topics."""
    raw, most = min(topics, key=len), max(topics, key=lambda topic: counts[topic])
    return raw if counts[raw] >= RAW_SHARE * counts[most] else most


def _absolute(name: str) -> str:
    return f"/{name.lstrip('/')}"
