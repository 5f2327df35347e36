"""What the shipped views of RViz and Foxglove ask of a graph, and whether one has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import yaml
from geometry_msgs.msg import PoseStamped
from node_harness import ROOT, Graph
from rclpy.qos import (
    DurabilityPolicy,
    LivelinessPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray
from vla_ros.msg import ActionChunk, Observation, SceneState

from vla_nodes.core import qos

RVIZ, FOXGLOVE = ROOT / "config/vla.rviz", ROOT / "config/vla.foxglove.json"
STRING, IMAGE = "std_msgs/msg/String", "sensor_msgs/msg/Image"
MARKERS, POSE = "visualization_msgs/msg/MarkerArray", "geometry_msgs/msg/PoseStamped"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
# What RViz's displays read; the others of the file read no topic.
DISPLAYS = {"RobotModel": STRING, "MarkerArray": MARKERS, "Pose": POSE, "Image": IMAGE}
WITHOUT_TOPIC = {"Grid", "TF"}


DRAWN = {"sim/scene": qos.LATCHED, "vla/markers": qos.MARKERS}
# Whatever has a frame in the simulated graph.
STAMPED: dict[str, Any] = {
    **{f"camera/{name}/image_raw": Image for name in ("front", "wrist")},
    **{f"camera/{name}/camera_info": CameraInfo for name in ("front", "wrist")},
    "end_effector_pose": PoseStamped,
    "sim/state": SceneState,
    "vla/observation": Observation,
    "vla/action_chunk": ActionChunk,
}


@dataclass(frozen=True)
class Need:
    """A topic that a view reads."""

    topic: str  # absolute
    kinds: tuple[str, ...] = ()  # types that will do; none of them: any
    path: tuple[str, ...] = ()  # fields of the message that are drawn
    profile: QoSProfile | None = None  # of the reader, where the file says it


@dataclass(frozen=True)
class View:
    """All that a file asks for."""

    needs: tuple[Need, ...]  # the topics
    frames: frozenset[str]  # of the tree
    services: frozenset[str] = frozenset()  # absolute


def rviz_view() -> View:
    """What config/vla.rviz asks for."""
    manager = yaml.safe_load(RVIZ.read_text())["Visualization Manager"]
    frames = {manager["Global Options"]["Fixed Frame"]}
    frames.add(manager["Views"]["Current"]["Target Frame"])
    needs = []
    for display in manager["Displays"]:
        kind = display["Class"].removeprefix("rviz_default_plugins/")
        frames |= set(display.get("Frames", {})) - {"All Enabled"}
        if kind in WITHOUT_TOPIC:
            continue
        topic = display.get("Topic") or display["Description Topic"]
        profile = QoSProfile(
            depth=topic["Depth"],
            reliability=ReliabilityPolicy[topic["Reliability Policy"].upper().replace(" ", "_")],
            durability=DurabilityPolicy[topic["Durability Policy"].upper().replace(" ", "_")],
            liveliness=LivelinessPolicy.AUTOMATIC,
        )
        needs.append(Need(f"/{topic['Value']}", (DISPLAYS[kind],), profile=profile))
    return View(tuple(needs), frozenset(frames))


def foxglove_view() -> View:
    """What config/vla.foxglove.json asks for."""
    layout = json.loads(FOXGLOVE.read_text())
    panels = layout["configById"]
    assert set(panels) == set(_leaves(layout["layout"]))
    frames, needs, services = set(), [], set()
    for name, panel in panels.items():
        kind = name.partition("!")[0]
        if kind == "3D":
            frames.add(panel["followTf"])
            frames |= {frame.removeprefix("frame:") for frame in panel["transforms"]}
            needs += [Need(topic, (MARKERS, POSE)) for topic in panel["topics"]]
            for layer in panel["layers"].values():
                if layer["layerId"] == "foxglove.Urdf":
                    needs.append(Need(layer["topic"], (STRING,)))
                else:
                    frames.add(layer["frameId"])
        elif kind == "Image":
            mode = panel["imageMode"]
            needs.append(Need(mode["imageTopic"], (IMAGE,)))
            needs.append(Need(mode["calibrationTopic"], ("sensor_msgs/msg/CameraInfo",)))
        elif kind == "DiagnosticSummary":
            needs.append(Need(panel["topicToRender"], (DIAGNOSTICS,)))
        elif kind == "CallService":
            services.add(panel["serviceName"])
        else:
            paths = [path["value"] for path in panel.get("paths", [])] or [panel["topicPath"]]
            for topic, *path in (path.split(".") for path in paths):
                needs.append(Need(topic, path=tuple(path)))
    return View(tuple(needs), frozenset(frames), frozenset(services))


def _leaves(layout: dict | str) -> list[str]:
    if isinstance(layout, str):
        return [layout]
    return [*_leaves(layout["first"]), *_leaves(layout["second"])]


def _tree_of(graph: Graph) -> set[str]:
    """The frames on the graph's TF, once it is one tree."""
    parents: dict[str, str] = {}

    def add(message: TFMessage) -> None:
        for entry in message.transforms:
            parents[entry.child_frame_id] = entry.header.frame_id

    node = graph.node
    readers = [
        node.create_subscription(TFMessage, "tf", add, qos.TRANSFORMS),
        node.create_subscription(TFMessage, "tf_static", add, qos.FIXED_TRANSFORMS),
    ]
    graph.wait(lambda: len(set(parents.values()) - set(parents)) == 1 and "drawer" in parents, "TF")
    for reader in readers:
        node.destroy_subscription(reader)
    return {*parents, *parents.values()}


def check_views(graph: Graph) -> None:
    """Fails where a running graph, whose arm moves, lacks what the two views show of it."""
    frames = _tree_of(graph)
    for view in (rviz_view(), foxglove_view()):
        _check_view(graph, view, frames)
    markers = {topic: graph.collect(MarkerArray, topic, p) for topic, p in DRAWN.items()}
    stamped = {t: graph.collect(kind, t, qos.SENSOR) for t, kind in STAMPED.items()}
    graph.wait(lambda: all(stamped.values()), "messages with frames", 60.0)
    used = {message.header.frame_id for messages in stamped.values() for message in messages}
    graph.wait(lambda: all(markers.values()), "markers")
    drawn = [m for messages in markers.values() for message in messages for m in message.markers]
    used |= {marker.header.frame_id for marker in drawn}
    assert used <= frames, used - frames
    assert {"chunk path", "chunk steps", "chunk tool", "workspace", "drawer"} <= {
        marker.ns for marker in drawn
    }


def _check_view(graph: Graph, view: View, frames: set[str]) -> None:
    node = graph.node
    assert view.frames <= frames, view.frames - frames
    services = {name for name, _ in node.get_service_names_and_types()}
    assert view.services <= services, view.services - services
    for need in view.needs:
        offers = node.get_publishers_info_by_topic(need.topic)
        assert len(offers) >= 1, need.topic
        for offer in offers:
            assert not need.kinds or offer.topic_type in need.kinds, (need.topic, offer.topic_type)
            if need.profile is not None:
                compatible, why = qos_check_compatible(offer.qos_profile, need.profile)
                assert compatible == QoSCompatibility.OK, (need.topic, why)
            package, _, name = offer.topic_type.split("/")
            value = getattr(import_module(f"{package}.msg"), name)()
            for part in need.path:
                value = getattr(value, part)
