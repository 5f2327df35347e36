"""The whole graph from its launch file: an instruction moves the arm, and the task is judged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from node_harness import ROOT, Graph, NodeProcess
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from tiny_checkpoint import save_tiny_checkpoint
from viewer_files import check_views
from vla_ros.msg import ActionChunk, LatentAction, PolicyStatus, Response
from vla_ros.srv import (
    Ask,
    CheckTask,
    ResetScene,
    SetInstruction,
    StartEpisode,
    StopEpisode,
)

from vla.bags.reader import read_metadata, validate_bag
from vla.contract.embodiment import load_contract
from vla.evaluation.graph_timing import measure_graph
from vla_nodes.core import qos

pytestmark = pytest.mark.nodes
NODES = ("sim", "perception", "reasoning", "action_expert", "controller", "recorder")
CONTRACT = ROOT / "config/contracts/sim_panda.yaml"
MOVED = 0.02


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """The shipped policy, or where there is none, an untrained one of the smallest size."""
    shipped = ROOT / "checkpoints/nano"
    if (shipped / "config.json").is_file():
        return shipped
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def launch(graph: Graph, folder: Path, *arguments: str) -> NodeProcess:
    """Runs sim.launch.xml in the graph's domain."""
    log = folder / "launch.log"
    command = [sys.executable, "-m", "vla_cli", "launch", "sim.launch.xml", *arguments]
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=graph.environment,
            cwd=folder,
            start_new_session=True,
        )
    graph.processes.append(NodeProcess("launch", process, log))
    return graph.processes[-1]


def processes_of(domain: int) -> list[str]:
    """Command lines of this machine's node processes in a ROS domain."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        ours = f"ROS_DOMAIN_ID={domain}".encode() in environment
        if entry.name != str(os.getpid()) and ours and "vla" in command:
            found.append(command)
    return found


def test_instruction_moves_the_arm_and_the_task_is_judged(tmp_path, checkpoint):
    with Graph() as graph:
        launcher = launch(
            graph, tmp_path, f"checkpoint:={checkpoint}", f"bag_directory:={tmp_path / 'bags'}"
        )
        for node in NODES:
            graph.wait_state(node, "active", timeout=90.0)
        joints = graph.collect(JointState, "joint_states", qos.SENSOR)
        statuses = graph.collect(PolicyStatus, "vla/status", qos.LATCHED)
        responses = graph.collect(Response, "vla/response", qos.RESPONSE)
        latents = graph.collect(LatentAction, "vla/latent_action", qos.RESULT)
        chunks = graph.collect(ActionChunk, "vla/action_chunk", qos.RESULT)

        scene = graph.call(ResetScene, "sim/reset_scene", ResetScene.Request(seed=5, family="pick"))
        assert scene.success and scene.task.startswith("pick/") and scene.instruction
        answer = graph.call(Ask, "vla/ask", Ask.Request(question="what is on the table?"))
        assert answer.success, answer.message

        def episode_starts():
            started = graph.call(StartEpisode, "vla/start_episode", StartEpisode.Request())
            return started if started.success else None

        episode = graph.wait(episode_starts, "episode that starts")
        before = graph.call(CheckTask, "sim/check_task", CheckTask.Request(task=scene.task))
        assert before.valid and not before.success

        joints.clear()
        graph.wait(lambda: len(joints) > 0, "joint states")
        start = np.array(joints[-1].position)
        accepted = graph.call(
            SetInstruction,
            "vla/set_instruction",
            SetInstruction.Request(instruction=scene.instruction, mode="think"),
        )
        assert accepted.success, accepted.message
        graph.wait(
            lambda: any(
                status.instruction_id == accepted.instruction_id
                and status.state == PolicyStatus.EXECUTING
                for status in statuses
            ),
            "execution",
        )
        graph.wait(
            lambda: np.abs(np.array(joints[-1].position) - start)[:7].max() > MOVED, "motion"
        )
        check_views(graph)
        assert any(r.instruction_id == accepted.instruction_id for r in responses)
        graph.wait(lambda: len(chunks) >= 5 and len(latents) >= 3, "chunks and latent actions")
        assert {m.instruction_id for m in chunks + latents} == {accepted.instruction_id}

        after = graph.call(CheckTask, "sim/check_task", CheckTask.Request(task=scene.task))
        assert after.valid and after.elapsed > before.elapsed
        assert graph.call(Trigger, "vla/stop", Trigger.Request()).success
        graph.wait(
            lambda: (
                joints.clear()
                or (
                    graph.wait(lambda: len(joints) >= 10, "joint states")
                    and np.ptp([message.position[:7] for message in joints], axis=0).max() < 1e-3
                )
            ),
            "arm at rest",
        )
        outcome = "success" if after.success else "failure"
        stopped = graph.call(StopEpisode, "vla/stop_episode", StopEpisode.Request(outcome=outcome))
        assert stopped.success, stopped.message

        assert launcher.stop(signal.SIGINT, timeout=10.0) == 0
        graph.wait(lambda: not processes_of(graph.domain), "end of every node", alive=False)

    report = validate_bag(episode.uri)
    for topic in ("/camera/front/image_raw", "/joint_states", "/vla/action_chunk", "/sim/state"):
        assert report.counts.get(topic, 0) > 0, topic
    custom = read_metadata(episode.uri).custom_data
    assert custom["instruction"] == scene.instruction
    assert custom["checkpoint_id"] == chunks[0].checkpoint_id
    timing = measure_graph([episode.uri], load_contract(CONTRACT))
    assert timing["camera_to_command_ms"]["total"]["count"] > 0
