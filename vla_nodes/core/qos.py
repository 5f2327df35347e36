"""Every quality-of-service profile of the graph, with the reason for it.

A best-effort reader takes from any writer, a best-effort writer serves only best-effort readers. So
readers of a robot's drivers are best effort, and our own writers are reliable wherever a reliable
reader (a bag recorder, a command line tool) is likely.
"""

from __future__ import annotations

from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def changed(profile: QoSProfile, **policies: Any) -> QoSProfile:
    """The profile with other policies; deadline, lifespan and liveliness are left open."""
    names = ("depth", "history", "reliability", "durability")
    return QoSProfile(**({name: getattr(profile, name) for name in names} | policies))


def _profile(
    depth: int,
    reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
    durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
) -> QoSProfile:
    return QoSProfile(
        depth=depth,
        history=HistoryPolicy.KEEP_LAST,
        reliability=reliability,
        durability=durability,
    )


# Reading cameras, joint states and poses: best effort, because drivers publish them so and because
# a lost sample is better replaced by the next than sent again. Five deep, so that the samples of
# several cameras that arrive while a callback runs are still there to be synchronised.
SENSOR = _profile(5, ReliabilityPolicy.BEST_EFFORT)

# A robot's state at 1 kHz, of which only the newest is used.
NEWEST_SENSOR = _profile(1, ReliabilityPolicy.BEST_EFFORT)

# Joint states and poses, of which the newest until an image's stamp counts: deep enough that none
# is lost at 1 kHz while images are processed, since an older one would change the observation.
RESAMPLED = _profile(100, ReliabilityPolicy.BEST_EFFORT)

# Writing simulated joint states, poses and time: reliable, so that it also reaches tools that ask
# for reliable delivery; shallow, so that a slow reader loses samples and does not delay the others.
SENSOR_OUTPUT = _profile(5)

# Writing simulated images: best effort, as most camera drivers do. After 4 of 39 SIGKILLs of a
# reader a reliable writer of them (Fast DDS 2.14) sent nothing any more, not even to new readers; a
# best-effort one went on after all of 45.
IMAGE_OUTPUT = _profile(5, ReliabilityPolicy.BEST_EFFORT)

# Commands to the arm and the gripper: reliable, because a lost one would leave the arm on an old
# target; only the newest, because an older target is worthless once a newer one exists.
COMMAND = _profile(1)

# Observations for the models: only the newest, never sent again, so that a busy model never works
# on an old one and never slows the camera side.
LATEST = _profile(1, ReliabilityPolicy.BEST_EFFORT)

# Latent actions and action chunks: reliable, because they are rare and expensive; only the newest
# counts.
RESULT = _profile(1)

# Heartbeats: never sent again, since the next one says as much. Deep enough for those of all nodes
# between two cycles.
HEARTBEAT = _profile(50, ReliabilityPolicy.BEST_EFFORT)

# Text answers: reliable and a few deep, because people read each of them.
RESPONSE = _profile(10)

# Instruction and status: also kept for late readers, so that a restarted node knows at once what is
# in force.
LATCHED = _profile(1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

# Transforms: what tf2's listeners expect. Many nodes send them and none may be lost, so the history
# is deep; the fixed ones are LATCHED.
TRANSFORMS = _profile(100)

# As a reader of fixed transforms: those of many nodes, each latched by its own.
FIXED_TRANSFORMS = _profile(100, durability=DurabilityPolicy.TRANSIENT_LOCAL)

# Markers for viewers: reliable, as RViz and Foxglove read them; only the newest is drawn.
MARKERS = _profile(1)

# Episode events: as the instruction, and ten deep, so that a late reader sees start and stop.
EVENT = _profile(10, durability=DurabilityPolicy.TRANSIENT_LOCAL)

# Simulated time: best effort and only the newest, as rclcpp and rclpy read it.
CLOCK = _profile(1, ReliabilityPolicy.BEST_EFFORT)

# Services and those of actions: the queues of requests and of answers. With the usual ten places a
# burst of requests silently loses all but the last ten; a thousand are ten seconds at a hundred a
# second. A caller that expects several answers at a time needs it, too.
SERVICE = _profile(1000)

# The same for the three services of an action, as ActionServer and ActionClient name them.
ACTION = dict.fromkeys(
    ("goal_service_qos_profile", "result_service_qos_profile", "cancel_service_qos_profile"),
    SERVICE,
)

# Diagnostics: what aggregators and rqt expect.
DIAGNOSTICS = _profile(10)
