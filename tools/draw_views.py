"""Draws what config/vla.rviz and config/vla.foxglove.json show of a running graph, without either.

    vla launch vla_ros sim.launch.xml record:=false &
    vla instruct "pick up the red block" &
    python tools/draw_views.py          # docs/images/view_rviz.png and view_foxglove.png

It reads the topics that the two files name, builds the tree of frames from TF, and draws the URDF
and the markers with MuJoCo. So the pictures show the messages as the files arrange them, and are
not screenshots of the programs.
"""

from __future__ import annotations

import argparse
import json
import time
import xml.etree.ElementTree as ElementTree
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import vla  # noqa: F401 - before mujoco, whose renderer it chooses

# isort: split
import mujoco
import numpy as np
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from PIL import Image, ImageDraw, ImageFont
from rclpy.node import Node
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray
from vla_ros.msg import PolicyStatus, Response

from vla.core.rotations import from_rotation_vector, multiply, quaternion_to_matrix
from vla.observations.messages import image_to_array, raw_pose, stamp_to_nanoseconds
from vla.observations.transforms import Transform
from vla_nodes.core import qos

ROOT = Path(__file__).resolve().parent.parent
BOX, BALL = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_ELLIPSOID
ROD, LINE = mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_CAPSULE
INK, PAPER, BAR = (40, 40, 46), (250, 250, 251), (226, 227, 232)
TITLE = 24


class Snapshot:
    """The newest message of everything that the views show, and the last statuses."""

    def __init__(self, node: Node):
        self.frames: dict[str, Transform] = {}
        self.urdf = ""
        self.markers: dict[str, MarkerArray] = {}
        self.images: dict[str, np.ndarray] = {}
        self.statuses: deque[PolicyStatus] = deque(maxlen=150)
        self.diagnostics: dict[str, tuple[bytes, str]] = {}
        self.answer = ""
        read = node.create_subscription
        read(TFMessage, "tf", self._on_frames, qos.TRANSFORMS)
        read(TFMessage, "tf_static", self._on_frames, qos.FIXED_TRANSFORMS)
        read(String, "robot_description", lambda m: setattr(self, "urdf", m.data), qos.LATCHED)
        for topic, profile in (("sim/scene", qos.LATCHED), ("vla/markers", qos.MARKERS)):
            read(MarkerArray, topic, lambda m, t=topic: self.markers.__setitem__(t, m), profile)
        for camera in ("front", "wrist"):
            topic = f"camera/{camera}/image_raw"
            read(ImageMessage, topic, lambda m, t=topic: self._on_image(t, m), qos.SENSOR)
        read(PolicyStatus, "vla/status", lambda message: self.statuses.append(message), qos.LATCHED)
        read(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.DIAGNOSTICS)
        read(Response, "vla/response", lambda m: setattr(self, "answer", m.text), qos.RESPONSE)

    @property
    def is_moving(self) -> bool:
        """Whether everything is there, and a chunk is drawn."""
        drawn = self.markers.get("vla/markers")
        has_chunk = drawn is not None and any(m.ns == "chunk path" for m in drawn.markers)
        return has_chunk and bool(self.urdf and len(self.images) == 2 and len(self.markers) == 2)

    def place(self, frame: str, root: str) -> Transform:
        """Where a frame is in the root of the tree."""
        place = Transform(frame, frame, np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))
        while place.parent != root:
            place = self.frames[place.parent].then(place)
        return place

    def _on_frames(self, message: TFMessage) -> None:
        for entry in message.transforms:
            place, turn = entry.transform.translation, entry.transform.rotation
            self.frames[entry.child_frame_id] = Transform(
                entry.header.frame_id,
                entry.child_frame_id,
                np.array([place.x, place.y, place.z]),
                np.array([turn.x, turn.y, turn.z, turn.w]),
            )

    def _on_image(self, topic: str, message: ImageMessage) -> None:
        self.images[topic] = image_to_array(message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name] = status.level, status.message


class Drawing:
    """Shapes in the root frame, drawn by MuJoCo."""

    def __init__(self, snapshot: Snapshot, root: str, width: int, height: int):
        self._snapshot, self._root = snapshot, root
        self.texts: list[str] = []  # of the markers that are words
        xml = (
            f'<mujoco><visual><global offwidth="{width}" offheight="{height}"/>'
            '<headlight ambient=".5 .5 .5" diffuse=".5 .5 .5"/><map znear="0.01"/></visual>'
            '<asset><texture type="skybox" builtin="flat" rgb1=".94 .94 .95" width="8" height="8"/>'
            "</asset></mujoco>"
        )
        self._model = mujoco.MjModel.from_xml_string(xml)
        self._data = mujoco.MjData(self._model)
        self._renderer = mujoco.Renderer(self._model, height, width, max_geom=4000)

    def draw(self, camera: mujoco.MjvCamera, axes: list[str]) -> np.ndarray:
        """The picture [height, width, 3] of robot, markers and the axes of some frames."""
        mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, camera)
        self._grid()
        self._robot()
        for message in self._snapshot.markers.values():
            for marker in message.markers:
                if marker.action == Marker.ADD:
                    self._marker(marker)
        for frame in axes:
            place = self._snapshot.place(frame, self._root)
            for color, axis in zip(
                np.eye(3), quaternion_to_matrix(place.quaternion).T, strict=True
            ):
                self._line(place.position, place.position + 0.08 * axis, 0.003, [*color, 1.0])
        picture = self._renderer.render().copy()
        self._renderer.close()
        return picture

    def _grid(self) -> None:
        for offset in np.arange(-1.5, 1.51, 0.25):
            for start, end in (((-1.5, offset), (1.5, offset)), ((offset, -1.5), (offset, 1.5))):
                self._line(np.array([*start, 0]), np.array([*end, 0]), 0.001, [0.6, 0.6, 0.62, 1])

    def _robot(self) -> None:
        robot = ElementTree.fromstring(self._snapshot.urdf)
        paints = {m.get("name"): m.find("color").get("rgba") for m in robot.findall("material")}
        for link in robot.findall("link"):
            for visual in link.findall("visual"):
                origin, (shape,) = visual.find("origin"), visual.find("geometry")
                x, y, z = (
                    from_rotation_vector(v * a)
                    for v, a in zip(_numbers(origin, "rpy"), np.eye(3), strict=True)
                )
                turn = multiply(z, multiply(y, x))
                here = Transform(link.get("name") or "", "", _numbers(origin, "xyz"), turn)
                place = self._snapshot.place(here.parent, self._root).then(here)
                color = np.array(
                    [float(v) for v in paints[visual.find("material").get("name")].split()]
                )
                radius = float(shape.get("radius", 0))
                if shape.tag == "box":
                    self._add(BOX, _numbers(shape, "size") / 2, place, color)
                elif shape.tag == "sphere":
                    self._add(BALL, np.full(3, radius), place, color)
                else:
                    size = np.array([radius, radius, float(shape.get("length", 0)) / 2])
                    self._add(ROD, size, place, color)

    def _marker(self, marker: Marker) -> None:
        position, quaternion = raw_pose(marker.pose)
        here = Transform(marker.header.frame_id, "", position, quaternion)
        place = self._snapshot.place(here.parent, self._root).then(here)
        size = np.array([marker.scale.x, marker.scale.y, marker.scale.z])
        color = _rgba(marker.color)
        kinds = {Marker.CUBE: BOX, Marker.SPHERE: BALL, Marker.CYLINDER: ROD}
        if marker.type in kinds:
            self._add(kinds[marker.type], size / 2, place, color)
        elif marker.type == Marker.TEXT_VIEW_FACING:
            self.texts.append(marker.text)
        points = [np.array([p.x, p.y, p.z]) for p in marker.points]
        colors = [_rgba(c) for c in marker.colors] or [color] * len(points)
        if marker.type == Marker.SPHERE_LIST:
            for point, own in zip(points, colors, strict=True):
                self._add(BALL, size / 2, Transform("", "", point, place.quaternion), own)
        elif marker.type in (Marker.LINE_STRIP, Marker.LINE_LIST):
            step = 2 if marker.type == Marker.LINE_LIST else 1
            for index in range(0, len(points) - 1, step):
                self._line(points[index], points[index + 1], size[0] / 2, colors[index])

    def _line(self, start: np.ndarray, end: np.ndarray, radius: float, color) -> None:
        geom = self._next()
        mujoco.mjv_initGeom(geom, LINE, np.zeros(3), np.zeros(3), np.zeros(9), np.float32(color))
        mujoco.mjv_connector(geom, LINE, radius, start, end)

    def _add(self, kind: int, size, place: Transform, color) -> None:
        turn = quaternion_to_matrix(place.quaternion).reshape(9)
        if kind == ROD:
            size = np.array([size[0], size[2], 0.0])
        geom = self._next()
        mujoco.mjv_initGeom(geom, kind, size, place.position, turn, np.float32(color))

    def _next(self) -> mujoco.MjvGeom:
        scene = self._renderer.scene
        scene.ngeom += 1
        return scene.geoms[scene.ngeom - 1]


def _numbers(element, name: str) -> np.ndarray:
    return np.array([float(part) for part in element.get(name).split()])


def _rgba(color) -> np.ndarray:
    return np.array([color.r, color.g, color.b, color.a])


def _camera(focus, distance: float, yaw: float, pitch: float) -> mujoco.MjvCamera:
    """A camera at an angle above the plane, at `yaw` about the focus; both [rad]."""
    camera = mujoco.MjvCamera()
    camera.lookat[:], camera.distance = focus, distance
    camera.azimuth, camera.elevation = np.degrees(yaw) + 180.0, -np.degrees(pitch)
    return camera


class Page:
    """A picture that is made of titled panels."""

    def __init__(self, width: int, height: int):
        self.image = Image.new("RGB", (width, height), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def panel(self, box: tuple[int, int, int, int], title: str) -> tuple[int, int, int, int]:
        """Draws a panel's frame and title; the box left for its content."""
        x, y, width, height = box
        self.pen.rectangle((x, y, x + width - 1, y + height - 1), outline=BAR)
        self.pen.rectangle((x, y, x + width - 1, y + TITLE), fill=BAR)
        self.text(x + 7, y + 4, title)
        return x + 1, y + TITLE + 1, width - 2, height - TITLE - 2

    def text(self, x: int, y: int, text: str, size: int = 14, color=INK) -> None:
        """Writes one line."""
        self.pen.text((x, y), text, font=ImageFont.load_default(size), fill=color)

    def paste(self, box: tuple[int, int, int, int], pixels: np.ndarray) -> None:
        """Puts an image into a box, as large as fits."""
        x, y, width, height = box
        image = Image.fromarray(pixels)
        scale = min(width / image.width, height / image.height)
        size = round(image.width * scale), round(image.height * scale)
        image = image.resize(size, Image.Resampling.BICUBIC)
        self.image.paste(image, (x + (width - size[0]) // 2, y + (height - size[1]) // 2))

    def save(self, path: Path) -> None:
        """Writes a PNG of few colours, which is small."""
        self.image.quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)


def draw_rviz(snapshot: Snapshot) -> Page:
    """What config/vla.rviz shows: the three-dimensional view, and the two images."""
    manager = yaml.safe_load((ROOT / "config/vla.rviz").read_text())["Visualization Manager"]
    view = manager["Views"]["Current"]
    focus = [view["Focal Point"][axis] for axis in "XYZ"]
    camera = _camera(focus, view["Distance"], view["Yaw"], view["Pitch"])
    page = Page(1200, 760)
    boxes = iter([(800, 0, 400, 380), (800, 380, 400, 380)])
    axes = []
    for display in manager["Displays"]:
        if display["Class"].endswith("/Image"):
            box = page.panel(next(boxes), display["Name"])
            page.paste(box, snapshot.images[display["Topic"]["Value"]])
        elif display["Class"].endswith("/TF"):
            axes = [frame for frame in display["Frames"] if frame != "All Enabled"]
    box = page.panel((0, 0, 800, 760), "config/vla.rviz, drawn from the messages")
    _draw_scene(page, box, snapshot, manager["Global Options"]["Fixed Frame"], camera, axes)
    return page


def _draw_scene(page: Page, box, snapshot: Snapshot, root: str, camera, axes: list[str]) -> None:
    """The three-dimensional view in a box, and the words of markers in its corner."""
    x, y, width, height = box
    drawing = Drawing(snapshot, root, width, height)
    page.paste(box, drawing.draw(camera, axes))
    for row, text in enumerate(drawing.texts):
        page.text(x + 10, y + 8 + 20 * row, text, 15, (200, 100, 0))


def draw_foxglove(snapshot: Snapshot) -> Page:
    """What config/vla.foxglove.json shows, panel by panel."""
    layout = json.loads((ROOT / "config/vla.foxglove.json").read_text())
    page = Page(1280, 800)
    for name, box in _split(layout["layout"], (0, 0, 1280, 800)):
        panel, kind = layout["configById"][name], name.partition("!")[0]
        x, y, width, _ = inner = page.panel(box, panel["foxglovePanelTitle"])
        if kind == "3D":
            given = panel["cameraState"]
            angles = np.radians([given["thetaOffset"], 90 - given["phi"]])
            camera = _camera(given["targetOffset"], given["distance"], angles[0] + 3.4, angles[1])
            axes = [frame.removeprefix("frame:") for frame in panel["transforms"]]
            _draw_scene(page, inner, snapshot, panel["followTf"], camera, axes)
        elif kind == "Image":
            page.paste(inner, snapshot.images[panel["imageMode"]["imageTopic"].lstrip("/")])
        elif kind == "DiagnosticSummary":
            for row, (task, (level, text)) in enumerate(sorted(snapshot.diagnostics.items())):
                color = {0: (30, 130, 60), 1: (200, 130, 0)}.get(ord(level), (190, 30, 40))
                page.text(x + 8, y + 6 + 20 * row, f"{task}: {text}"[: width // 7], 13, color)
        elif kind == "RawMessages":
            page.text(x + 8, y + 8, snapshot.answer or "(nothing yet)", 13)
        elif kind == "CallService":
            color = panel.get("buttonColor", "#4a6fa5")
            button = (x + width // 6, y + 8, x + width - width // 6, y + 40)
            page.pen.rounded_rectangle(button, 6, fill=color)
            page.text(button[0] + 10, y + 15, panel["buttonText"], 14, PAPER)
        else:
            _curves(page, inner, snapshot, [path["value"] for path in panel["paths"]])
    return page


def _split(layout: dict | str, box: tuple[int, int, int, int]) -> Iterator[tuple[str, tuple]]:
    """The panels of a layout, each with its box."""
    if isinstance(layout, str):
        yield layout, box
        return
    x, y, width, height = box
    share = layout.get("splitPercentage", 50) / 100
    if layout["direction"] == "row":
        first = round(width * share)
        boxes = (x, y, first, height), (x + first, y, width - first, height)
    else:
        first = round(height * share)
        boxes = (x, y, width, first), (x, y + first, width, height - first)
    yield from _split(layout["first"], boxes[0])
    yield from _split(layout["second"], boxes[1])


def _curves(page: Page, box, snapshot: Snapshot, paths: list[str]) -> None:
    """Fields of the status over the last seconds, each in a band of its own."""
    x, y, width, height = box
    times = np.array([stamp_to_nanoseconds(s.header.stamp) * 1e-9 for s in snapshot.statuses])
    band = height // len(paths)
    for index, path in enumerate(paths):
        name = path.split(".")[-1]
        values = np.array([float(getattr(status, name)) for status in snapshot.statuses])
        known = np.isfinite(values)
        top = max(float(values[known].max(initial=0.0)) * 1.15, 1e-6)
        page.text(x + 8, y + index * band + 4, f"{name}, at most {top / 1.15:.3g}", 12)
        across = x + 8 + (times - times[0]) / max(times[-1] - times[0], 1e-6) * (width - 16)
        up = y + (index + 1) * band - 6 - values / top * (band - 30)
        points = [(float(a), float(b)) for a, b in zip(across[known], up[known], strict=True)]
        if len(points) > 1:
            page.pen.line(points, fill=(30, 90, 170), width=2)


def main() -> None:
    """Waits until the arm of the running graph moves, and writes both pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="how long to listen once it moves"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images", help="folder")
    arguments = parser.parse_args()
    rclpy.init()
    node = rclpy.create_node("draw_views")
    snapshot = Snapshot(node)
    until = float("inf")
    while not snapshot.is_moving or time.monotonic() < until:
        rclpy.spin_once(node, timeout_sec=0.1)
        if snapshot.is_moving and until == float("inf"):
            until = time.monotonic() + arguments.seconds
    rclpy.shutdown()
    for name, draw in (("rviz", draw_rviz), ("foxglove", draw_foxglove)):
        draw(snapshot).save(arguments.output / f"view_{name}.png")


if __name__ == "__main__":
    main()
