"""The model nodes with a tiny policy, the controller and a fake robot, for their tests."""

from fake_robot import CONTRACT_PATH, FakeRobot
from vla_ros.msg import ActionChunk, LatentAction, Response

from vla_nodes.core import qos

# The longest a node takes to load its model [s].
START_UP = 90.0


def start(graph, name, checkpoint, **parameters):
    return graph.start(
        name, contract=str(CONTRACT_PATH), checkpoint=str(checkpoint), threads=1, **parameters
    )


def is_active(status):
    return any(value.key == "state" and value.value == "active" for value in status.values)


class Bench:
    """The two model nodes and the controller, and what the model nodes said."""

    def __init__(self, graph, checkpoint):
        self.graph = graph
        self.processes = {
            name: start(graph, name, checkpoint) for name in ("reasoning", "action_expert")
        }
        graph.start("controller", contract=str(CONTRACT_PATH))
        # While a node loads its model it answers no service, but it says when it is active.
        for name in ("reasoning", "action_expert", "controller"):
            graph.wait_diagnostic(name, is_active, START_UP)
        self.latents = graph.collect(LatentAction, "vla/latent_action", qos.RESULT)
        self.chunks = graph.collect(ActionChunk, "vla/action_chunk", qos.RESULT)
        self.responses = graph.collect(Response, "vla/response", qos.RESPONSE)
        self.robot = FakeRobot(graph, models=False)
        self.restore()

    def restore(self):
        self.robot.restore()
        self.robot.trigger("vla/stop")

    def clear(self):
        for messages in (self.latents, self.chunks, self.responses):
            messages.clear()

    def assert_silent(self):
        """The model nodes publish no results for half a second from now."""
        self.clear()
        before = self.robot.ticks
        self.wait(lambda: self.robot.ticks > before + 50, "half a second")
        assert not self.latents and not self.chunks

    def latents_for(self, instruction_id):
        """Latent actions of one instruction; one of an earlier test may still be on its way."""
        return [m for m in self.latents if m.instruction_id == instruction_id]

    def chunks_for(self, instruction_id):
        return [m for m in self.chunks if m.instruction_id == instruction_id]

    def wait(self, condition, what, timeout=15.0):
        return self.graph.wait(condition, what, timeout)
