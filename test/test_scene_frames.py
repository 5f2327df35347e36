"""Frames and description of the simulated arm, against the simulator itself and its images."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla.contract.embodiment import load_contract
from vla.control.kinematics import DifferentialIK
from vla.control.robot_model import model_from_urdf
from vla.control.robots import panda
from vla.core.resources import contract_path
from vla.envs.tabletop.description import robot_description
from vla.envs.tabletop.frames import (
    BASE_FRAME,
    TOOL_FRAME,
    ArmFrames,
    fixed_frames,
    optical_frame,
    scene_bodies,
    scene_places,
)
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.observations.transforms import Transform, TransformBuffer

CONTRACT = load_contract(contract_path("sim_panda"))
STAMP = 5


@pytest.fixture(scope="module")
def simulator():
    simulator = TableTopSimulator(camera_size=192)
    yield simulator
    simulator.close()


def tree_of(simulator: TableTopSimulator) -> TransformBuffer:
    """All frames as the node `sim` sends them."""
    buffer = TransformBuffer()
    for fixed in fixed_frames(simulator):
        buffer.add(fixed, 0, is_static=True)
    arm, bodies = ArmFrames(simulator.model), scene_bodies(simulator)
    for parents, names, places in (
        (arm.parents, arm.names, arm.places(simulator.data)),
        ([BASE_FRAME] * len(bodies), bodies, scene_places(simulator, list(bodies.values()))),
    ):
        for parent, name, position, quaternion in zip(parents, names, *places, strict=True):
            buffer.add(Transform(parent, name, position, quaternion), STAMP)
    return buffer


def turn_to(simulator: TableTopSimulator, joints: np.ndarray) -> None:
    """Puts the arm into a configuration, and computes where everything is."""
    simulator.place_arm(joints, 0.05, 0.05)
    simulator.set_qpos(simulator.qpos)


def test_the_tree_has_the_tool_where_the_simulator_has_it(simulator):
    simulator.reset(4, "place")
    turn_to(simulator, panda.HOME + 0.3)
    tree = tree_of(simulator)
    stamp, tool = tree.newest(BASE_FRAME, TOOL_FRAME)
    position, quaternion = simulator.end_effector_pose()
    assert stamp == STAMP
    assert np.allclose(tool.position, position, atol=1e-9)
    assert abs(tool.quaternion @ quaternion) == pytest.approx(1.0, abs=1e-9)
    for name in simulator.objects():
        _, place = tree.newest(BASE_FRAME, name.replace(" ", "_"))
        assert np.allclose(place.position, simulator.object_position(name))


@pytest.mark.parametrize("camera", ["front", "wrist"])
def test_an_object_is_in_the_image_where_its_frame_is(simulator, camera):
    matches = []
    for seed in range(6):
        simulator.reset(seed, "pick")
        image = simulator.render(camera).astype(float)
        tree = tree_of(simulator)
        # A can's lid has another colour.
        for name in filter(lambda name: name.endswith("block"), simulator.objects()):
            _, place = tree.newest(optical_frame(camera), name.replace(" ", "_"))
            x, y, z = place.position  # right, down, forward
            assert z > 0 or camera == "wrist"
            pixel = simulator.camera_matrix(camera) @ (x / z, y / z, 1.0)
            column, row = np.round(pixel[:2]).astype(int)
            if z < 0 or not (8 <= column < 184 and 8 <= row < 184):
                continue
            color = image[row - 1 : row + 2, column - 1 : column + 2].mean(axis=(0, 1))
            body = simulator.scene_objects[name].body
            paint = simulator.model.geom(body).rgba[:3]
            # Light changes how bright it is; fingers hide some from the wrist.
            likeness = float(color @ paint / np.linalg.norm(color) / np.linalg.norm(paint))
            matches.append(likeness > 0.95)
    assert len(matches) >= 4 and np.mean(matches) > 0.7


def test_the_description_moves_as_the_simulator_does(simulator):
    simulator.reset(1, "pick")
    urdf = robot_description(simulator)
    model = model_from_urdf(urdf, CONTRACT.joint_names, BASE_FRAME, TOOL_FRAME)
    assert np.allclose(model.limits.lower, panda.JOINT_LOWER)
    assert np.allclose(model.limits.upper, panda.JOINT_UPPER)
    assert np.allclose(model.limits.velocity, panda.JOINT_MAX_VELOCITY)
    kinematics = DifferentialIK(
        model.model_xml, model.tool_site, model.limits.velocity, model.posture
    )
    generator = np.random.default_rng(2)
    for _ in range(5):
        joints = generator.uniform(panda.JOINT_LOWER, panda.JOINT_UPPER)
        turn_to(simulator, joints)
        position, quaternion = kinematics.tool_pose(joints)
        wanted, turn = simulator.end_effector_pose()
        assert np.allclose(position, wanted, atol=1e-5)
        assert abs(quaternion @ turn) == pytest.approx(1.0, abs=1e-8)


def test_every_link_of_the_description_is_in_the_tree(simulator):
    simulator.reset(2, "pick")
    robot = ElementTree.fromstring(robot_description(simulator))
    links = {link.get("name") for link in robot.findall("link")}
    tree = tree_of(simulator)
    kinds = {joint.get("name"): joint.get("type") for joint in robot.findall("joint")}
    assert {kinds[name] for name in panda.ARM_JOINTS} == {"revolute"}
    assert {kinds[name] for name in panda.FINGER_JOINTS} == {"prismatic"}
    for joint in robot.findall("joint"):
        parent, child = joint.find("parent").get("link"), joint.find("child").get("link")
        assert tree._links[child].parent == parent
        if joint.get("type") == "fixed":
            origin, given = joint.find("origin"), tree._links[child].values[0]
            assert np.allclose([*map(float, origin.get("xyz").split())], given.position, atol=1e-8)
            turn = Rotation.from_euler("xyz", [*map(float, origin.get("rpy").split())])
            assert abs(turn.as_quat() @ given.quaternion) == pytest.approx(1.0, abs=1e-8)
    assert links - {BASE_FRAME} == {
        joint.find("child").get("link") for joint in robot.findall("joint")
    }
    assert {link.get("name") for link in robot.findall("link[visual]")} >= {
        "panda_link0",
        "panda_hand",
    }


@pytest.mark.parametrize("family", ["pick", "lay", "recall", "press_button", "insert_book"])
def test_what_a_scene_does_not_use_has_no_frame(simulator, family):
    simulator.reset(3, family)
    bodies = scene_bodies(simulator)
    assert {"cabinet", "drawer"} <= bodies.keys()
    assert {item.body for item in simulator.scene_objects.values()} <= set(bodies.values())
    positions, quaternions = scene_places(simulator, list(bodies.values()))
    assert (np.abs(positions) < 1.0).all()
    assert np.allclose(np.linalg.norm(quaternions, axis=1), 1.0)
    assert ("bowl" in bodies) == (family in ("pick", "lay"))
