"""The simulated arm as a URDF, for viewers and for whatever else reads robot_description.

Links, joints and limits come from the MuJoCo model, so that both agree. Shapes are cylinders,
spheres and boxes of about the arm's size, which need no file on the viewer's machine.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import mujoco
import numpy as np

from vla.control.robots import panda
from vla.core.rotations import matrix_to_euler, quaternion_to_matrix
from vla.envs.tabletop.frames import BASE_FRAME, HAND, fixed_frames
from vla.envs.tabletop.simulator import GRIPPER_SPEED, TableTopSimulator
from vla.observations.transforms import Transform

# Capsules about the links, which are along the joints' axes: centre [m], axis, length without the
# caps [m], radius [m].
_CAPSULES: dict[str, tuple[tuple[tuple[float, float, float], str, float, float], ...]] = {
    "panda_link0": (((-0.075, 0.0, 0.06), "x", 0.10, 0.06), ((0.0, 0.0, 0.05), "z", 0.06, 0.07)),
    "panda_link1": (((0.0, 0.0, -0.12), "z", 0.16, 0.06), ((0.0, -0.03, 0.0), "y", 0.06, 0.06)),
    "panda_link2": (((0.0, -0.12, 0.0), "y", 0.14, 0.06), ((0.0, 0.0, 0.03), "z", 0.06, 0.06)),
    "panda_link3": (((0.0, 0.0, -0.08), "z", 0.08, 0.058), ((0.08, 0.03, 0.0), "y", 0.06, 0.055)),
    "panda_link4": (((-0.08, 0.08, 0.0), "y", 0.09, 0.055), ((0.0, 0.0, 0.03), "z", 0.06, 0.055)),
    "panda_link5": (((0.0, 0.0, -0.25), "z", 0.10, 0.055), ((0.0, 0.07, -0.11), "z", 0.18, 0.03)),
    "panda_link6": (((0.0, 0.0, 0.0), "z", 0.05, 0.05), ((0.08, 0.02, 0.0), "y", 0.05, 0.05)),
    "panda_link7": (((0.0, 0.0, 0.07), "z", 0.03, 0.042),),
}
# Boxes: centre and sides [m].
_BOXES = {
    HAND: ((0.0, 0.0, 0.03), (0.05, 0.20, 0.065)),
    "panda_finger1": ((0.0, 0.012, 0.027), (0.02, 0.016, 0.054)),
    "panda_finger2": ((0.0, 0.012, 0.027), (0.02, 0.016, 0.054)),
}
_PAINT = {"light": "0.92 0.93 0.95 1", "grey": "0.55 0.56 0.58 1", "dark": "0.25 0.26 0.28 1"}
_AXES = {"x": (0.0, np.pi / 2, 0.0), "y": (-np.pi / 2, 0.0, 0.0), "z": (0.0, 0.0, 0.0)}


def robot_description(simulator: TableTopSimulator) -> str:
    """The URDF of arm, fingers, tool and cameras; its root is the base frame."""
    robot = ElementTree.Element("robot", name="sim_panda")
    for paint, color in _PAINT.items():
        material = ElementTree.SubElement(robot, "material", name=paint)
        ElementTree.SubElement(material, "color", rgba=color)
    model = simulator.model
    _add_link(robot, BASE_FRAME)
    joints = [*panda.ARM_JOINTS, *panda.FINGER_JOINTS]
    for name in joints:
        _add_link(robot, model.body(model.joint(name).bodyid[0]).name)
    for frame in fixed_frames(simulator):
        _add_link(robot, frame.child)
        _add_joint(robot, f"{frame.child}_joint", "fixed", frame)
    for name in joints:
        _add_moving_joint(robot, model, name)
    ElementTree.indent(robot)
    return ElementTree.tostring(robot, encoding="unicode", xml_declaration=True)


def _add_link(robot: ElementTree.Element, name: str) -> None:
    link = ElementTree.SubElement(robot, "link", name=name)
    paint = "dark" if "finger" in name else "grey" if name == "panda_link7" else "light"
    for center, axis, length, radius in _CAPSULES.get(name, ()):
        along = np.array([0.0, 0.0, 0.0])
        along["xyz".index(axis)] = length / 2
        size = {"radius": f"{radius:g}", "length": f"{length:g}"}
        _add_visual(link, paint, np.array(center), _AXES[axis], "cylinder", size)
        for end in (np.array(center) - along, np.array(center) + along):
            _add_visual(link, paint, end, _AXES["z"], "sphere", {"radius": f"{radius:g}"})
    if name in _BOXES:
        center, sides = _BOXES[name]
        _add_visual(link, paint, np.array(center), _AXES["z"], "box", {"size": _text(sides)})


def _add_visual(link, paint, center, turn, shape: str, size: dict[str, str]) -> None:
    visual = ElementTree.SubElement(link, "visual")
    ElementTree.SubElement(visual, "origin", xyz=_text(center), rpy=_text(turn))
    ElementTree.SubElement(ElementTree.SubElement(visual, "geometry"), shape, size)
    ElementTree.SubElement(visual, "material", name=paint)


def _add_joint(robot, name: str, kind: str, place: Transform) -> ElementTree.Element:
    joint = ElementTree.SubElement(robot, "joint", name=name, type=kind)
    turn = matrix_to_euler(quaternion_to_matrix(place.quaternion))
    ElementTree.SubElement(joint, "origin", xyz=_text(place.position), rpy=_text(turn))
    ElementTree.SubElement(joint, "parent", link=place.parent)
    ElementTree.SubElement(joint, "child", link=place.child)
    return joint


def _add_moving_joint(robot, model: mujoco.MjModel, name: str) -> None:
    given = model.joint(name)
    body = model.body(given.bodyid[0])
    parent = model.body(body.parentid[0]).name
    place = Transform(parent, body.name, body.pos, body.quat[[1, 2, 3, 0]])
    slides = mujoco.mjtJoint(given.type[0]) == mujoco.mjtJoint.mjJNT_SLIDE
    joint = _add_joint(robot, name, "prismatic" if slides else "revolute", place)
    ElementTree.SubElement(joint, "axis", xyz=_text(given.axis))
    speeds = dict(zip(panda.ARM_JOINTS, panda.JOINT_MAX_VELOCITY, strict=True))
    limits = {
        "lower": given.range[0],
        "upper": given.range[1],
        "velocity": speeds.get(name, GRIPPER_SPEED / 2),
        "effort": model.actuator(name).forcerange[1],
    }
    ElementTree.SubElement(joint, "limit", {key: f"{value:g}" for key, value in limits.items()})


def _text(values) -> str:
    return " ".join(f"{value:.10g}" for value in values)
