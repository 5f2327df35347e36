"""Two simulated robots in one ROS domain, each in a namespace of its own."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
from background_launch import start_launch
from node_harness import ROOT, Graph
from sensor_msgs.msg import JointState
from vla_ros.msg import PolicyStatus
from vla_ros.srv import SetInstruction

from vla_nodes.core import qos

pytestmark = [pytest.mark.nodes, pytest.mark.slow]

SIDES = ("left", "right")
NODES = ("sim", "perception", "reasoning", "action_expert", "controller")
INSTRUCTIONS = ("pick up the red block", "pick up the green can", "pick up the blue ball")
MOVED = 0.02


def test_both_follow_three_instructions_at_once():
    with Graph() as graph, ExitStack() as launches:
        for side in SIDES:
            words = [
                "sim.launch.xml",
                f"namespace:={side}",
                f"checkpoint:={ROOT / 'checkpoints/nano'}",
                "record:=false",
            ]
            launch = launches.enter_context(start_launch(words, environment=graph.environment))
            for node in NODES:
                launch.wait_for(rf"\[{side}\.{node}\]: active$", timeout=300.0)
        assert [graph.node.count_publishers(f"/{side}/clock") for side in SIDES] == [1, 1]
        assert graph.node.count_publishers("/clock") == 0

        joints = {s: graph.collect(JointState, f"{s}/joint_states", qos.SENSOR) for s in SIDES}
        statuses = {s: graph.collect(PolicyStatus, f"{s}/vla/status", qos.LATCHED) for s in SIDES}
        for instruction in INSTRUCTIONS:
            graph.wait(lambda: all(joints.values()), "joint states")
            start = {side: np.array(joints[side][-1].position[:7]) for side in SIDES}
            ids = {side: send(graph, side, instruction) for side in SIDES}

            def follows(side: str, ids=ids, start=start) -> bool:
                motion = np.abs(joints[side][-1].position[:7] - start[side]).max()
                executing = {s.instruction_id for s in statuses[side] if s.state == s.EXECUTING}
                return ids[side] in executing and motion > MOVED

            for side in SIDES:
                graph.wait(lambda side=side: follows(side), f"motion on the {side}", 120.0)


def send(graph: Graph, side: str, instruction: str) -> str:
    """Puts an instruction in force; returns its id."""
    request = SetInstruction.Request(instruction=instruction, mode="act")
    answer = graph.call(SetInstruction, f"{side}/vla/set_instruction", request)
    assert answer.success, answer.message
    return answer.instruction_id
