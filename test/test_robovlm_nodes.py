"""A RoboVLM in the graph: its chunks are those of its history, which each instruction empties."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from fake_robot import CONTRACT_PATH, observation_of_noise
from node_harness import Graph
from rclpy.duration import Duration
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_srvs.srv import Trigger
from tiny_checkpoint import save_tiny_checkpoint
from tiny_robovlm import tiny
from vla_ros.msg import ActionChunk, Instruction, LatentAction, PolicyStatus
from vla_ros.msg import Observation as ObservationMessage
from vla_ros.srv import Ask, ResetScene, SetInstruction

from vla.control.robots import panda
from vla.control.session import HoldReason, State
from vla.observations.messages import stamp_to_nanoseconds
from vla.policies.base import Observation
from vla.policies.parts import ReasoningPart
from vla_nodes.core import qos
from vla_nodes.models.scene import unpack_scene

pytestmark = pytest.mark.nodes
PICK = "pick the red block"


def stamp(message) -> int:
    return stamp_to_nanoseconds(message.header.stamp)


class Watched:
    """What a policy in the graph sees and sends, and the same policy in this process."""

    def __init__(self, graph: Graph, checkpoint):
        self.graph, self.part = graph, ReasoningPart.from_pretrained(checkpoint)
        self.statuses = graph.collect(PolicyStatus, "vla/status", qos.LATCHED)
        # Deep enough to miss none between two looks: each is one more frame of the history.
        deep = QoSProfile(depth=100)
        self.chunks = graph.collect(ActionChunk, "vla/action_chunk", deep)
        self.latents = graph.collect(LatentAction, "vla/latent_action", deep)
        self.seen: dict[int, ObservationMessage] = {}
        self.mark = 0  # the newest stamp before the newest instruction
        self.compared_tokens = 0
        graph.node.create_subscription(
            ObservationMessage,
            "vla/observation",
            lambda message: self.seen.setdefault(stamp(message), message),
            QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT),
        )
        graph.call(ResetScene, "sim/reset_scene", ResetScene.Request(seed=1, family="pick"))

    def instruct(self, instruction: str, mode: str = "act") -> int:
        self.mark = max(self.seen, default=0)
        ask = SetInstruction.Request(instruction=instruction, mode=mode)
        answer = self.graph.call(SetInstruction, "vla/set_instruction", ask)
        assert answer.success, answer.message
        return answer.instruction_id

    def latent_of(self, chunk: ActionChunk) -> LatentAction | None:
        """The learned tokens behind a chunk; None where this process missed them, as it may."""

        def found() -> list[LatentAction]:
            kept = [m for m in self.latents if m.instruction_id == chunk.instruction_id]
            return [message for message in kept if stamp(message) >= stamp(chunk)]

        self.graph.wait(found, "the learned tokens of a chunk, or later ones")
        first = min(found(), key=stamp)
        return first if stamp(first) == stamp(chunk) else None

    def observation(self, seen: int) -> Observation:
        """The observation of a stamp, as the node unpacks it."""
        scene = unpack_scene(self.seen[seen], self.part.contract, 0.0, 0.0)
        return Observation(scene.images, scene.state, scene.stamp * 1e-9)

    def compare(self, instruction_id: int, instruction: str, count: int, after: int = 0) -> int:
        """Compares the instruction's first chunks of stamps above `after` with a fresh history.

        A chunk that this process did not hear is a frame of the history all the same: between two
        chunks up to three observations may be such, none from before the instruction. Returns how
        many could be compared: this process may miss an observation that the node had.
        """

        def own() -> list[ActionChunk]:
            kept = [c for c in self.chunks if c.instruction_id == instruction_id]
            return [chunk for chunk in kept if stamp(chunk) > after]

        self.graph.wait(lambda: len(own()) >= count, f"{count} chunks of '{instruction}'", 60.0)
        history: list[int] = []
        for number, chunk in enumerate(own()[:count]):
            newest, before = stamp(chunk), history[-1] if history else max(after, self.mark)
            if newest not in self.seen:
                return number
            actions = np.array(chunk.actions).reshape(chunk.horizon, chunk.action_dim)
            between = sorted(seen for seen in self.seen if before < seen < newest)[-5:]
            tried = (
                [*history, *unheard, newest]
                for size in range(4)
                for unheard in combinations(between, size)
            )
            history = next((h for h in tried if self.gives(h, instruction, actions)), [])
            assert history, f"chunk {number} of '{instruction}' follows from no history"
            if latent := self.latent_of(chunk):
                tokens = np.array(latent.data).reshape(latent.num_queries, latent.hidden_size)
                np.testing.assert_allclose(tokens, self.part.learned_tokens, atol=1e-5)
                self.compared_tokens += 1
        return count

    def gives(self, history: list[int], instruction: str, actions: np.ndarray) -> bool:
        """Whether these observations, by stamp, end in this chunk."""
        self.part.reset()
        for seen in history:
            chunk = self.part.act(self.observation(seen), instruction)
        return np.allclose(actions, chunk, atol=1e-6)


@pytest.mark.parametrize("structure", ["policy_head", "interleaved"])
def test_chunks_follow_from_the_history_of_the_instruction(structure, tmp_path):
    checkpoint = save_tiny_checkpoint(tmp_path / "tiny", config=tiny(structure), scale=1.5)
    with Graph() as graph:
        reasoning = graph.start_with_policy(checkpoint)["reasoning"]
        graph.wait_diagnostic(
            "action_expert", lambda s: any("one part" in value.value for value in s.values)
        )
        watched = Watched(graph, checkpoint)
        statuses, compared = watched.statuses, 0
        for instruction in (PICK, "what is on the table", PICK):
            compared += watched.compare(watched.instruct(instruction), instruction, 6)
        graph.wait(lambda: statuses[-1].state == State.EXECUTING, "motion")

        assert compared >= 6 and watched.compared_tokens >= 3

        reasoning.kill()
        graph.wait(
            lambda: statuses[-1].hold_reason == HoldReason.STALE_CHUNK,
            "hold after the death of the policy",
            alive=False,
        )
        graph.processes.remove(reasoning)
        graph.call(Trigger, "vla/stop", Trigger.Request())


def test_a_resume_whose_stop_was_missed_and_an_activation_start_the_history_over(tmp_path):
    checkpoint = save_tiny_checkpoint(tmp_path / "tiny", config=tiny("policy_head"), scale=1.5)
    part, noise = ReasoningPart.from_pretrained(checkpoint), np.random.default_rng(0)
    with Graph() as graph:
        parameters = {"contract": str(CONTRACT_PATH), "checkpoint": str(checkpoint)}
        graph.start("reasoning", threads=1, max_observation_age=60.0, **parameters)
        graph.wait_state("reasoning", "active", 90.0)
        chunks = graph.collect(ActionChunk, "vla/action_chunk", qos.RESULT)
        announcements = graph.publisher(Instruction, "vla/instruction", qos.LATCHED)
        observations = graph.publisher(ObservationMessage, "vla/observation", qos.LATEST)

        def announce(number: int) -> None:
            """Gives the instruction, or resumes it, just before an observation."""
            message = Instruction(instruction_id=7, instruction=PICK, mode=Instruction.MODE_ACT)
            message.header.stamp = moment(number).to_msg()
            announcements.publish(message)

        def moment(number: int):
            # 20 ms apart, however slowly this runs: a gap would empty the history, too.
            return began + Duration(nanoseconds=20_000_000 * number)

        def chunk_of(number: int) -> tuple[Observation, np.ndarray]:
            """The next observation, and the chunk that it becomes."""
            message = observation_of_noise(panda.HOME, moment(number).to_msg(), noise)
            observations.publish(message)
            graph.wait(lambda: any(stamp(c) == stamp(message) for c in chunks), f"chunk {number}")
            scene = unpack_scene(message, part.contract, 0.0, 0.0)
            actions = np.array(chunks[-1].actions).reshape(chunks[-1].horizon, -1)
            return Observation(scene.images, scene.state, scene.stamp * 1e-9), actions

        began = graph.node.get_clock().now() - Duration(seconds=1)
        announce(0)
        for number in range(3):
            seen, actions = chunk_of(number)
            if number == 0:
                part.reset()
            np.testing.assert_allclose(actions, part.act(seen, PICK), atol=1e-6)
        # The same id again, later: what comes between was missed.
        announce(3)
        for number in range(3, 30):
            seen, actions = chunk_of(number)
            goes_on = part.act(seen, PICK)
            if not np.allclose(actions, goes_on, atol=1e-6):
                break
        else:
            pytest.fail("the history goes on over the second announcement")
        part.reset()
        np.testing.assert_allclose(actions, part.act(seen, PICK), atol=1e-6)
        # So does a node that did not look meanwhile; the instruction is the same, and latched.
        assert graph.transition("reasoning", "deactivate")
        assert graph.transition("reasoning", "activate")
        part.reset()
        for later in range(number + 1, number + 4):
            seen, actions = chunk_of(later)
            np.testing.assert_allclose(actions, part.act(seen, PICK), atol=1e-6)


def test_what_it_can_not_say_is_refused_with_a_reason(tmp_path):
    checkpoint = save_tiny_checkpoint(tmp_path / "tiny", config=tiny("one_step"))
    with Graph() as graph:
        graph.start_with_policy(checkpoint)
        watched = Watched(graph, checkpoint)
        refused = watched.instruct(PICK, "think")
        graph.wait(
            lambda: "does not say what it will do" in watched.statuses[-1].message, "the refusal"
        )
        assert watched.statuses[-1].state == State.WAITING
        assert not any(chunk.instruction_id == refused for chunk in watched.chunks)
        answer = graph.call(Ask, "vla/ask", Ask.Request(question="what is on the table ?"))
        assert not answer.success and "learned from no conversations" in answer.message
        # Another instruction ends it.
        watched.compare(watched.instruct(PICK), PICK, 2)
        graph.wait(lambda: watched.statuses[-1].state == State.EXECUTING, "motion")
        assert watched.statuses[-1].message == ""
        graph.call(Trigger, "vla/stop", Trigger.Request())
