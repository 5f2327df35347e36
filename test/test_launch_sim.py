"""The whole graph from its launch file: instructions move the arm, and the task is judged."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from chat_server import Reply, chat_server
from node_harness import ROOT, Graph, NodeProcess
from PIL import Image
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from tiny_checkpoint import save_tiny_checkpoint
from viewer_files import check_views
from vla_ros.msg import ActionChunk, Instruction, LatentAction, PolicyStatus, Response
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
from vla.control.session import State
from vla.evaluation.graph_timing import measure_graph
from vla_nodes.core import qos

pytestmark = pytest.mark.nodes
NODES = ("sim", "perception", "reasoning", "action_expert", "controller", "recorder")
CONTRACT = ROOT / "config/contracts/sim_panda.yaml"
MOVED = 0.02
STEPS = ["pick up the green can", "put the green can in the bowl"]


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


@pytest.fixture(scope="module")
def launched(tmp_path_factory, checkpoint) -> Iterator[tuple[Graph, NodeProcess]]:
    """The graph with all nodes active, and its launcher."""
    folder = tmp_path_factory.mktemp("launched")
    with Graph() as graph:
        words = f"checkpoint:={checkpoint}", f"bag_directory:={folder / 'bags'}"
        launcher = launch(graph, folder, *words)
        for node in NODES:
            graph.wait_state(node, "active", timeout=90.0)
        yield graph, launcher


def seen_in(request: dict) -> np.ndarray:
    """The image that a request shows to a model, uint8 [height, width, 3]."""
    url = request["messages"][1]["content"][0]["image_url"]["url"]
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    return np.asarray(image.convert("RGB"))


def test_steps_of_another_model_are_followed_and_the_arm_holds_while_it_is_asked(
    tmp_path, launched
):
    graph, result = launched[0], tmp_path / "result.json"
    statuses = graph.collect(PolicyStatus, "vla/status", qos.LATCHED)
    told = graph.collect(Instruction, "vla/instruction", qos.LATCHED)
    replies: SimpleQueue[Reply] = SimpleQueue()
    with chat_server(lambda *_: replies.get(timeout=120.0)) as server:
        options = ["--split-by", "m", "--base-url", server.url, "--camera", "front"]
        # Without thinking: a can in the gripper is sometimes hard to see, and would be refused.
        options += ["--mode", "act", "--timeout", "4", "--json", str(result)]
        process = subprocess.Popen(
            [sys.executable, "-m", "vla_cli", "instruct", "clear the table", *options],
            stdout=subprocess.PIPE,
            text=True,
            env=graph.environment,
        )
        done = {"reason": "the can is there", "done": True}
        for number, content in enumerate([{"steps": STEPS}, done, done]):
            graph.wait(lambda n=number: len(server.requests) > n, f"question {number}", 90.0)
            graph.wait(lambda: statuses[-1].state == State.IDLE, "arm without an instruction")
            followed = {status.instruction for status in statuses if status.instruction_id}
            assert followed == set(STEPS[:number])
            replies.put(Reply(content))
        graph.wait(lambda: process.poll() is not None, "end of the command", 90.0)
    assert process.returncode == 0
    assert "step 2 of 2: put the green can in the bowl" in process.communicate()[0]
    # Each is announced again and again while it is in force.
    given = {message.instruction_id: message.instruction for message in told}
    assert [given[number] for number in sorted(given) if number] == STEPS
    front = next(c for c in load_contract(CONTRACT).cameras if c.name == "front")
    for image in map(seen_in, server.requests):
        assert image.shape == (front.height, front.width, 3) and image.std() > 10
    written = json.loads(result.read_text())
    assert (written["outcome"], written["done"], written["steps"]) == ("done", 2, STEPS)


# The last of this module: it ends the launcher.
def test_instruction_moves_the_arm_and_the_task_is_judged(launched):
    graph, launcher = launched
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
    graph.wait(lambda: np.abs(np.array(joints[-1].position) - start)[:7].max() > MOVED, "motion")
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
