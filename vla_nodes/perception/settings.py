"""The parameters of the node `perception`."""

from __future__ import annotations

from vla_nodes.core.settings import Setting

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
        "synchronization",
        "as_of",
        "How images of several cameras are matched: as_of takes the newest until the reference "
        "camera's stamp, as training data has it; approximate_time those nearest to each other, by "
        "message_filters.",
        choices=("as_of", "approximate_time"),
    ),
    Setting(
        "synchronization_slop",
        0.03,
        "With approximate_time: stamps of matched images differ by less than this [s].",
        bounds=(0.001, 0.5),
    ),
    Setting(
        "pose_source",
        "topic",
        "Where the tool's pose comes from: topic is the contract's end_effector_pose_topic, tf the "
        "transforms from its base_frame to its tool_frame on /tf and /tf_static.",
        choices=("topic", "tf"),
    ),
    Setting(
        "longest_wait",
        0.02,
        "Longest time that an image waits for what else was measured until its stamp [s].",
        bounds=(0.0, 1.0),
    ),
    Setting(
        "silence_timeout",
        1.0,
        "A camera that sends nothing for so long is reported [s].",
        bounds=(0.1, 60.0),
        live=True,
    ),
    Setting(
        "frozen_motion",
        0.1,
        "A camera whose image has not changed at all although a joint is this far from where "
        "it was is frozen, and nothing is observed until it changes [rad].",
        bounds=(0.001, 10.0),
    ),
)
