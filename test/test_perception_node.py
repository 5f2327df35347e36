"""The perception node as a process, fed with synthetic sensors over DDS."""

import io
import re
import signal
import time

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from node_harness import ROOT, Graph
from PIL import Image as PillowImage
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from vla_ros.msg import Observation

from vla.contract.embodiment import load_contract, state_vector
from vla.contract.image_fit import prepare_image
from vla.observations.messages import image_to_array, stamp_to_nanoseconds
from vla_nodes.core import qos
from vla_nodes.core.conversions import array_to_image, arrays_to_pose, nanoseconds_to_stamp
from vla_nodes.core.liveliness import WriterWatch

pytestmark = pytest.mark.nodes

CONTRACT = load_contract(ROOT / "config/contracts/sim_panda.yaml")
POSITION, QUATERNION = [0.4, -0.1, 0.3], [0.6, 0.8, 0.0, 0.0]
GENERATOR = np.random.default_rng(1)
FRONT = GENERATOR.integers(0, 256, (120, 160, 3), dtype=np.uint8)
WRIST = GENERATOR.integers(0, 256, (96, 96, 3), dtype=np.uint8)


class FakeSensors:
    """Publishes cameras at 20 Hz and states at 100 Hz, changed by `spoil`, a function."""

    def __init__(self, graph: Graph, compressed: bool = False, has_pose: bool = True):
        self.graph = graph
        self.spoil = lambda topic, message: message
        kind, suffix = (CompressedImage, "/compressed") if compressed else (Image, "")
        self.compressed = compressed
        self.outputs = {
            "front": (kind, f"camera/front/image_raw{suffix}"),
            "wrist": (kind, f"camera/wrist/image_raw{suffix}"),
            "joints": (JointState, "joint_states"),
        }
        if has_pose:
            self.outputs["pose"] = PoseStamped, "end_effector_pose"
        self.publishers = {
            name: graph.publisher(kind, topic, qos.SENSOR_OUTPUT)
            for name, (kind, topic) in self.outputs.items()
        }
        self.ticks = 0
        graph.node.create_timer(0.01, self.send)

    def now(self) -> int:
        return self.graph.node.get_clock().now().nanoseconds

    def send(self) -> None:
        stamp = nanoseconds_to_stamp(self.now())
        joints = JointState(
            name=[*reversed(CONTRACT.joint_names), *CONTRACT.finger_joint_names],
            position=[0.1] * 7 + [0.02, 0.03],
        )
        pose = PoseStamped(pose=arrays_to_pose(POSITION, QUATERNION))
        pose.header.frame_id = CONTRACT.base_frame
        messages = {"joints": joints}
        if "pose" in self.outputs:
            messages["pose"] = pose
        if self.ticks % 5 == 0:
            messages |= {"front": self.image(FRONT), "wrist": self.image(WRIST)}
        self.ticks += 1
        for name, message in messages.items():
            message.header.stamp = stamp
            if (message := self.spoil(name, message)) is not None:
                self.publishers[name].publish(message)

    def image(self, pixels):
        if not self.compressed:
            return array_to_image(pixels, nanoseconds_to_stamp(0), "camera")
        stream = io.BytesIO()
        PillowImage.fromarray(pixels).save(stream, "png")
        return CompressedImage(format="png", data=stream.getvalue())


class FakeSensorsWithClock(FakeSensors):
    """The same with a clock of its own, which can be set."""

    def __init__(self, graph: Graph):
        self.set_by = 1_000 * 10**9
        self.clocks = graph.publisher(Clock, "/clock", qos.SENSOR_OUTPUT)
        super().__init__(graph)

    def now(self) -> int:
        return time.monotonic_ns() + self.set_by

    def send(self) -> None:
        clock = Clock()
        clock.clock = nanoseconds_to_stamp(self.now())
        self.clocks.publish(clock)
        super().send()


def stamp_span(messages):
    first, last = (stamp_to_nanoseconds(messages[place].header.stamp) for place in (0, -1))
    return (last - first) * 1e-9


# On a busy machine a clock message comes late, which the measured step has in it.
@pytest.mark.parametrize(("seconds", "words"), [(20, "ahead by (19|20)"), (-20, "back by (19|20)")])
def test_a_clock_that_jumps_is_named_and_observing_goes_on(seconds, words):
    with Graph() as graph:
        graph.start("perception", use_sim_time=True, longest_wait=0.1)
        sensors = FakeSensorsWithClock(graph)
        seen = graph.collect(Observation, "vla/observation", qos.LATEST)
        # The clock must have been looked at before it jumps, which is done ten times a second.
        graph.wait(
            lambda: len(seen) >= 3 and stamp_span(seen) > 0.5, "observations of half a second"
        )
        sensors.set_by += seconds * 10**9
        graph.wait_diagnostic(
            "perception", lambda s: re.search(f"the clock jumped {words}", s.message)
        )
        begin = sensors.now()
        graph.wait(
            lambda: begin < stamp_to_nanoseconds(seen[-1].header.stamp) <= sensors.now(),
            "observations of the new time",
        )


@pytest.fixture(scope="module")
def running():
    with Graph() as graph:
        # Longer than by default: a busy machine delivers late, and waiting is not tested here.
        node = graph.start(
            "perception", parameters_file=ROOT / "config/perception.yaml", longest_wait=0.1
        )
        sensors = FakeSensors(graph)
        seen = graph.collect(Observation, "vla/observation", qos.LATEST)
        graph.wait(lambda: len(seen) >= 3, "observations")
        yield graph, node, sensors, seen


def shifted(message, seconds):
    stamp = stamp_to_nanoseconds(message.header.stamp) + round(seconds * 1e9)
    message.header.stamp = nanoseconds_to_stamp(stamp)
    return message


def changed(message, **values):
    for name, value in values.items():
        setattr(message, name, value)
    return message


FROZEN = []


def at_one_time(message):
    FROZEN.append(message.header.stamp)
    message.header.stamp = FROZEN[0]
    return message


def nan_position(message):
    message.pose.position.z = float("nan")
    return message


def in_frame(message, frame):
    message.header.frame_id = frame
    return message


def without_fingers(message):
    return changed(message, name=message.name[:7], position=message.position[:7])


def with_fingers(message, position):
    return changed(message, position=[*message.position[:7], position, position])


def in_degrees(message):
    return changed(message, position=[45.0] * 7 + list(message.position[7:]))


def shifted_pose(message, to):
    message.pose.position.x = to
    return message


def test_an_observation_holds_what_the_sensors_said(running):
    graph, _, sensors, seen = running
    begin = sensors.now()
    seen.clear()

    def new():
        return [o for o in list(seen) if stamp_to_nanoseconds(o.header.stamp) > begin]

    graph.wait(new, "a new one")
    observation = new()[0]
    assert list(observation.camera_names) == ["front", "wrist"]
    for camera, pixels, image in zip(
        CONTRACT.cameras, (FRONT, WRIST), observation.images, strict=True
    ):
        assert np.array_equal(image_to_array(image), prepare_image(pixels, camera))
        assert image.header.stamp == observation.header.stamp
    assert observation.header.frame_id == "panda_link0"
    assert observation.state_stamp == observation.header.stamp
    assert list(observation.state_names) == list(CONTRACT.state_names)
    assert observation.gripper_width == pytest.approx(0.05)
    expected = state_vector(np.array(POSITION), np.array(QUATERNION), 0.05)
    assert np.allclose(observation.state, expected)
    assert observation.contract_id == CONTRACT.contract_id


def test_observations_come_at_camera_rate_with_little_delay(running):
    graph, *_ = running

    def is_fast(status):
        values = {entry.key: entry.value for entry in status.values}
        # On an idle machine it takes 1 ms; tests share theirs.
        return float(values["rate_hz"]) > 15 and float(values["latency_p50_ms"]) < 10

    graph.wait_diagnostic("perception", is_fast)


@pytest.mark.parametrize(
    ("topic", "fault", "reason", "words"),
    [
        ("front", lambda m: changed(m, step=100), "bad_image", "camera 'front': step is 100"),
        ("wrist", lambda m: changed(m, encoding="16UC1"), "bad_image", "encoding is '16UC1'"),
        ("wrist", lambda m: changed(m, data=m.data[:50]), "bad_image", "data has 50 bytes"),
        ("wrist", lambda m: None, "no_camera_wrist", "no image of camera 'wrist'"),
        ("wrist", lambda m: shifted(m, -0.3), "not_synchronized", "'wrist' has no image of the la"),
        ("front", at_one_time, "not_synchronized", "had a later stamp"),
        ("pose", nan_position, "bad_pose", "not finite"),
        ("pose", lambda m: in_frame(m, "world"), "wrong_frame", "is in frame 'world'"),
        ("pose", lambda m: None, "stale_state", "end_effector_pose"),
        (
            "joints",
            lambda m: changed(m, position=[float("nan")] * 9),
            "bad_joint_states",
            "no finite position",
        ),
        ("joints", without_fingers, "stale_state", "joint_states"),
        ("joints", lambda m: with_fingers(m, 0.4), "bad_joint_states", "0.800 m apart; open is"),
        ("joints", in_degrees, "bad_joint_states", "panda_joint1 is at 45.0, which is more than"),
        ("pose", lambda m: shifted_pose(m, 400.0), "bad_pose", "400 m from the base"),
        ("joints", lambda m: shifted(m, 5.0), "future_stamp", "in the future"),
        ("pose", lambda m: shifted(m, 0.3), "future_stamp", "end_effector_pose"),
        ("front", lambda m: shifted(m, 0.45), "future_stamp", "camera/front"),
    ],
)
def test_bad_input_is_named_gives_nothing_and_is_survived(running, topic, fault, reason, words):
    graph, node, sensors, seen = running
    sensors.spoil = lambda name, message: fault(message) if name == topic else message
    begin = sensors.now()
    try:
        status = graph.wait_diagnostic(
            "perception", lambda s: words in s.message and s.level == s.ERROR
        )
        assert any(entry.key == f"errors_{reason}" for entry in status.values)
        # The state's history reaches a little behind the begin of the fault.
        late = begin + round((CONTRACT.state_max_age + 0.1) * 1e9)
        assert all(stamp_to_nanoseconds(o.header.stamp) < late for o in seen)
    finally:
        sensors.spoil = lambda name, message: message
    recovered = sensors.now() + round(0.3e9)
    graph.wait(
        lambda: stamp_to_nanoseconds(seen[-1].header.stamp) > recovered, "observations again"
    )
    graph.wait_diagnostic("perception", lambda s: s.level == s.OK)
    assert node.running


def test_an_image_waits_for_late_states_but_not_for_long():
    with Graph() as graph:
        graph.start("perception", parameters_file=ROOT / "config/perception.yaml")
        sensors = FakeSensors(graph)
        sensors.spoil = lambda name, message: shifted(message, -0.05) if name == "pose" else message
        seen = graph.collect(Observation, "vla/observation", qos.LATEST)

        def waited(status):
            values = {entry.key: entry.value for entry in status.values}
            late = float(values.get("latency_p50_ms", 0.0)) >= 20.0
            return late and int(values.get("waits_run_out", 0)) > 10

        graph.wait_diagnostic("perception", waited)
        assert len(seen) > 10 and seen[-1].state_stamp == seen[-1].header.stamp


def test_old_images_are_refused(running):
    graph, _, sensors, seen = running

    def age(name, message):
        return shifted(message, -2.0)

    sensors.spoil = age
    try:
        graph.wait_diagnostic("perception", lambda s: "2.0" in s.message and "old" in s.message)
    finally:
        sensors.spoil = lambda name, message: message
    recovered = sensors.now()
    graph.wait(
        lambda: stamp_to_nanoseconds(seen[-1].header.stamp) > recovered, "observations again"
    )


def test_compressed_images():
    with Graph() as graph:
        graph.start("perception", compressed=True)
        sensors = FakeSensors(graph, compressed=True)
        seen = graph.collect(Observation, "vla/observation", qos.LATEST)
        graph.wait(lambda: seen, "an observation")
        assert np.array_equal(image_to_array(seen[0].images[1]), WRIST)
        sensors.spoil = lambda name, message: (
            changed(message, data=b"noise") if name == "front" else message
        )
        graph.wait_diagnostic("perception", lambda s: "cannot decode" in s.message)


def test_other_names_of_joints_are_said():
    with Graph() as graph:
        graph.start("perception", longest_wait=0.1)
        sensors = FakeSensors(graph)
        sensors.spoil = lambda name, message: (
            changed(message, name=[f"left_{joint}" for joint in message.name])
            if name == "joints"
            else message
        )
        words = "the joint states call it left_panda_joint1, the contract panda_joint1"
        graph.wait_diagnostic("perception", lambda s: words in s.message)
        sensors.spoil = lambda name, message: message
        seen = graph.collect(Observation, "vla/observation", qos.LATEST)
        graph.wait(lambda: seen, "an observation")


def test_a_missing_contract_is_named_and_can_be_corrected():
    with Graph() as graph:
        node = graph.start("perception", contract="no_such_robot")
        graph.wait_diagnostic("perception", lambda s: "no contract 'no_such_robot'" in s.message)
        assert graph.state("perception") == "unconfigured"
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value="sim_panda")
        request = SetParameters.Request(parameters=[Parameter(name="contract", value=value)])
        result = graph.call(SetParameters, "perception/set_parameters", request).results[0]
        assert result.successful, result.reason
        assert graph.transition("perception", "configure")
        assert graph.transition("perception", "activate")
        assert graph.state("perception") == "active"
        assert node.stop(signal.SIGTERM) == 0


def test_its_death_is_noticed_at_once():
    with Graph() as graph:
        process = graph.start("perception", contract=str(ROOT / "config/contracts/sim_panda.yaml"))
        alive = []
        watch = WriterWatch(
            graph.node,
            Observation,
            "vla/observation",
            qos.LATEST,
            lambda value: alive.append((value, time.monotonic())),
        )

        def lives():
            watch.poll()
            return bool(alive) and alive[-1][0]

        graph.wait(lives, "its sign of life")
        died_at = time.monotonic()
        process.kill()
        graph.wait(lambda: not lives(), "the silence", alive=False)
        assert alive[-1][1] - died_at < 0.3
        watch.destroy()
        graph.processes.remove(process)
