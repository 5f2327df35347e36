"""A scripted operator demonstrates through the ROS graph, and the recorder records it."""

from __future__ import annotations

import numpy as np
import pytest
from node_harness import ROOT, Graph
from vla_ros.msg import PolicyStatus
from vla_ros.srv import SetInstruction

from vla.bags.episodes import BagEpisodes
from vla.bags.reader import read_metadata, validate_bag
from vla.contract.embodiment import load_contract
from vla_nodes.client.demo import DemoClient
from vla_nodes.client.graph import UnreachableError
from vla_nodes.client.scripted_operator import OperatorStation, demonstrate_episode
from vla_nodes.core import qos

pytestmark = pytest.mark.nodes
CONTRACT = ROOT / "config/contracts/sim_panda.yaml"


@pytest.fixture
def graph(monkeypatch, tmp_path):
    with Graph() as graph:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(graph.domain))
        graph.start("sim", parameters_file=ROOT / "config/sim.yaml")
        graph.start("controller", contract=str(CONTRACT))
        graph.start("recorder", contract=str(CONTRACT), directory=str(tmp_path))
        for node in ("sim", "controller", "recorder"):
            graph.wait_state(node, "active")
        yield graph


def test_demonstrations_are_recorded_while_the_controller_rests(graph, tmp_path):
    contract = load_contract(CONTRACT)
    statuses = graph.collect(PolicyStatus, "vla/status", qos.LATCHED)
    with DemoClient() as client, OperatorStation(client, contract) as operator:
        assert graph.state("controller") == "inactive"
        # This cannot be done in half a second, so it is not kept.
        short = demonstrate_episode(client, operator, 1_000_000, "store", time_limit=0.5)
        assert not short.success and short.bag == "" and list(tmp_path.glob("*/")) == []
        shown = demonstrate_episode(client, operator, 1_000_000, "store")
        assert shown.success and 2.0 < shown.seconds < 10.0
        with pytest.raises(UnreachableError, match="unknown task family 'juggle'"):
            demonstrate_episode(client, operator, 0, "juggle")
    assert graph.state("controller") == "active"
    graph.wait(lambda: statuses[-1].state == PolicyStatus.IDLE, "the idle status")
    request = SetInstruction.Request(instruction="pick up the red block")
    assert graph.call(SetInstruction, "vla/set_instruction", request).success

    custom = read_metadata(shown.bag).custom_data
    assert custom["outcome"] == "success" and custom["note"] == "store, seed 1000000"
    assert custom["instruction"] == shown.instruction and "cabinet" in shown.instruction
    counts = validate_bag(shown.bag).counts
    assert counts["/joint_trajectory_controller/joint_trajectory"] > 40 * shown.seconds
    for topic, rate in (
        ("/gripper_position_controller/commands", 4),
        ("/camera/front/image_raw", 15),
        ("/camera/wrist/image_raw", 15),
        ("/joint_states", 80),
        ("/end_effector_pose", 80),
    ):
        assert counts[topic] > rate * shown.seconds, topic

    (episode,) = BagEpisodes(tmp_path, contract).episodes
    assert set(episode.instructions) == {shown.instruction}
    assert len(episode.states) > 10 * shown.seconds
    # What the arm did: grasped, carried above the cabinet, let go, went up.
    gripper = episode.actions[:, 6]
    assert gripper[0] == 1 and gripper[-1] == 1 and gripper.min() == 0
    assert np.count_nonzero(np.diff(gripper)) == 2
    released = np.flatnonzero(np.diff(gripper))[-1]
    assert episode.states[released, 1] > 0.3 and episode.states[released, 2] > 0.08
