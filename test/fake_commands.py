"""Streams commands into a backend on the test's own node, as the controller's cycle does."""

import time

import numpy as np
from sensor_msgs.msg import JointState

from vla.control.command import ArmCommand, StoppingMotion
from vla.control.kinematics import DifferentialIK
from vla.control.robots import panda
from vla.core.rotations import from_rotation_vector, multiply
from vla_nodes.core import qos

AT_REST = StoppingMotion(np.zeros(0), np.zeros((0, 7)), np.zeros((0, 7)))


def settings_of(module):
    """A backend's parameters with their defaults."""
    return {setting.name: setting.default for setting in module.SETTINGS}


class Stream:
    """Calls problem() and send() of a backend in cycles; what is sent is `place` and `speed`.

    hold: whether commands are sent at all. place [3], speed [3]: of the commanded tool, m and m/s.
    turn [4], turning [3]: the same for its orientation, rad/s.
    tool [3], pose: of the fake robot, from its joint states.
    """

    period = 0.02

    def __init__(self, graph):
        self.graph = graph
        self.arm = DifferentialIK(
            panda.arm_model_xml(), panda.TOOL_SITE, panda.JOINT_MAX_VELOCITY, panda.HOME
        )
        self.backend, self.joints, self.own = None, None, set()
        self.moved_at = time.monotonic()
        graph.node.create_subscription(JointState, "joint_states", self.on_joints, qos.SENSOR)

    def read(self, kind, topic, profile):
        """Messages of a topic, in a list that fills."""
        messages = []
        self.graph.node.create_subscription(kind, topic, messages.append, profile)
        return messages

    def on_joints(self, message):
        joints = np.array(message.position)
        if self.joints is None or np.abs(joints - self.joints).max() > 1e-6:
            self.moved_at = time.monotonic()
        self.joints = joints

    @property
    def pose(self):
        return self.arm.tool_pose(self.joints)

    @property
    def tool(self):
        return self.pose[0]

    def start(self, backend):
        self.graph.wait(lambda: self.joints is not None, "joint states")
        self.backend, self.hold, self.problem, self.problems = backend, False, None, []
        self.asked = False
        self.place, self.turn = self.pose
        self.speed, self.turning = np.zeros(3), np.zeros(3)
        self.graph.node.create_timer(self.period, self.cycle)

    def entities(self):
        node = self.graph.node
        return {
            entity: destroy
            for group, destroy in (
                (node.timers, node.destroy_timer),
                (node.subscriptions, node.destroy_subscription),
                (node.clients, node.destroy_client),
                (node.publishers, node.destroy_publisher),
            )
            for entity in group
        }

    def keep(self):
        """What is on the graph now stays there after end()."""
        self.own = set(self.entities())

    def end(self):
        """Takes the backend off the graph, as the node's cleanup does."""
        if self.backend is not None:
            self.backend.close()
            self.backend = None
        # The clients of graph.call() serve the next test, too.
        own = self.own | set(self.graph._clients.values())
        for entity, destroy in self.entities().items():
            if entity not in own:
                destroy(entity)

    def cycle(self):
        self.problem, self.asked = self.backend.problem(), True
        if self.problem and self.problem.message not in self.problems:
            self.problems.append(self.problem.message)
        if self.hold:
            self.place = self.place + self.speed * self.period
            self.turn = multiply(from_rotation_vector(self.turning * self.period), self.turn)
            self.backend.send(self.command())

    def command(self):
        return ArmCommand(
            joint_positions=self.joints,
            joint_velocities=np.zeros(7),
            joint_accelerations=np.zeros(7),
            tool_position=self.place,
            tool_quaternion=self.turn,
            tool_velocity=np.concatenate([self.speed, self.turning]),
            gripper_width=0.08,
            stop=AT_REST,
            executing=True,
            limited=False,
            chunk_age=0.1,
        )

    def release(self):
        self.hold, self.speed = False, np.zeros(3)
        self.backend.release()

    def wait_sound(self):
        self.graph.wait(lambda: self.asked and self.problem is None, "an end of the problem")

    def wait_problem(self, words):
        self.graph.wait(
            lambda: self.problem and words in self.problem.message,
            f"problem '{words}', but {self.problems}",
            10.0,
        )
        return self.problem

    def spin(self, seconds):
        end = time.monotonic() + seconds
        self.graph.wait(lambda: time.monotonic() > end, "time")

    def way(self, distance, seconds):
        """Leads the tool along x, lets it settle, and returns how far it went [m]."""
        start = self.tool[0]
        self.hold, goal = True, self.place[0] + distance
        self.speed = np.array([distance / seconds, 0.0, 0.0])
        self.graph.wait(lambda: (self.place[0] - goal) * distance >= -1e-9, "the end of the way")
        self.speed = np.zeros(3)
        self.rest()
        return self.tool[0] - start

    def rest(self):
        """Waits until the arm has not moved for a quarter of a second."""
        self.graph.wait(lambda: time.monotonic() - self.moved_at > 0.25, "rest")

    def cost(self, count=500):
        """Median time of one cycle's send() and problem() [us]."""
        times = []
        command = self.command()
        for _ in range(count):
            start = time.perf_counter()
            self.backend.send(command)
            self.backend.problem()
            times.append(time.perf_counter() - start)
            self.graph.spin(0.0)
        return 1e6 * float(np.median(times))
