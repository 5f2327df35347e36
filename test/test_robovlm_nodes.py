"""A RoboVLM in the graph: its chunks are those of its history, which each instruction empties."""

import numpy as np
import pytest
from node_harness import Graph
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_srvs.srv import Trigger
from tiny_checkpoint import save_tiny_checkpoint
from tiny_robovlm import tiny
from vla_ros.msg import ActionChunk, PolicyStatus
from vla_ros.msg import Observation as ObservationMessage
from vla_ros.srv import ResetScene, SetInstruction

from vla.control.session import HoldReason, State
from vla.observations.messages import stamp_to_nanoseconds
from vla.policies.base import Observation
from vla.policies.parts import ReasoningPart
from vla_nodes.core import qos
from vla_nodes.models.scene import unpack_scene

pytestmark = pytest.mark.nodes


def stamp(message) -> int:
    return stamp_to_nanoseconds(message.header.stamp)


@pytest.mark.parametrize("structure", ["policy_head", "interleaved"])
def test_chunks_follow_from_the_history_of_the_instruction(structure, tmp_path):
    checkpoint = save_tiny_checkpoint(tmp_path / "tiny", config=tiny(structure), scale=1.5)
    part, seen = ReasoningPart.from_pretrained(checkpoint), {}
    with Graph() as graph:
        timed = {"use_sim_time": True}
        policy = timed | {"checkpoint": str(checkpoint)}
        graph.start("sim")
        graph.start("perception", parameters=timed)
        reasoning = graph.start("reasoning", parameters=policy)
        graph.start("action_expert", parameters=policy)
        graph.start("controller", parameters=timed)
        for name in ("sim", "perception", "reasoning", "action_expert", "controller"):
            graph.wait_state(name, "active", 90.0)
        graph.wait_diagnostic(
            "action_expert", lambda s: any("one part" in value.value for value in s.values)
        )
        statuses = graph.collect(PolicyStatus, "vla/status", qos.LATCHED)
        # Deep enough to miss none between two looks: each is one more frame of the history.
        chunks = graph.collect(ActionChunk, "vla/action_chunk", QoSProfile(depth=100))
        graph.node.create_subscription(
            ObservationMessage,
            "vla/observation",
            lambda message: seen.setdefault(stamp(message), message),
            QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT),
        )
        graph.call(ResetScene, "sim/reset_scene", ResetScene.Request(seed=1, family="pick"))

        def chunks_of(instruction: str, count: int) -> list[ActionChunk]:
            ask = SetInstruction.Request(instruction=instruction)
            answer = graph.call(SetInstruction, "vla/set_instruction", ask)
            assert answer.success, answer.message

            def own() -> list[ActionChunk]:
                return [c for c in chunks if c.instruction_id == answer.instruction_id]

            graph.wait(lambda: len(own()) >= count, f"{count} chunks of '{instruction}'", 60.0)
            return own()

        compared = 0
        for instruction in ("pick the red block", "what is on the table", "pick the red block"):
            part.reset()
            for number, chunk in enumerate(chunks_of(instruction, 6)):
                if stamp(chunk) not in seen:
                    break  # This process missed an observation that the node had.
                scene = unpack_scene(seen[stamp(chunk)], part.contract, 0.0, 0.0)
                now = Observation(scene.images, scene.state, scene.stamp * 1e-9)
                actions = np.array(chunk.actions).reshape(chunk.horizon, chunk.action_dim)
                np.testing.assert_allclose(
                    actions, part.act(now, instruction), atol=1e-6, err_msg=f"chunk {number}"
                )
                compared += 1
        assert compared >= 6
        assert statuses[-1].state == State.EXECUTING, statuses[-1].message

        reasoning.kill()
        graph.wait(
            lambda: statuses[-1].hold_reason == HoldReason.STALE_CHUNK,
            "hold after the death of the policy",
            alive=False,
        )
        graph.processes.remove(reasoning)
        graph.call(Trigger, "vla/stop", Trigger.Request())
