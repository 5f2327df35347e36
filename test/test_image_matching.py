"""Images matched by message_filters: the matcher, and the perception node over DDS."""

from importlib.util import find_spec

import numpy as np
import pytest
from node_harness import Graph
from sensor_msgs.msg import Image
from test_perception_node import (
    WRIST,
    FakeSensors,
    FakeSensorsWithClock,
    changed,
    shifted,
)
from vla_ros.msg import Observation

from vla.observations.messages import NANOSECONDS, image_to_array, stamp_to_nanoseconds
from vla_nodes.core import qos
from vla_nodes.core.conversions import array_to_image, nanoseconds_to_stamp
from vla_nodes.perception.matching import QUEUE, ImageMatcher

HAS_FILTERS = find_spec("message_filters") is not None
needs_filters = pytest.mark.skipif(
    not HAS_FILTERS, reason="message_filters is not installed, and no wheel of ROS 2's exists"
)


def image(seconds: float) -> Image:
    stamp = nanoseconds_to_stamp(round(seconds * NANOSECONDS))
    return array_to_image(np.zeros((1, 1, 3), np.uint8), stamp, "camera")


@needs_filters
def test_images_within_the_slop_are_matched_once():
    matcher = ImageMatcher(["wrist", "front"], 0.03)
    front, wrist = image(100.0), image(100.02)
    assert matcher.add("front", front) == []
    assert matcher.add("wrist", wrist) == [{"wrist": wrist, "front": front}]
    assert matcher.add("wrist", image(100.04)) == []
    assert matcher.add("front", image(100.08)) == []


@needs_filters
def test_one_camera_needs_no_partner():
    matcher = ImageMatcher(["front"], 0.03)
    assert len(matcher.add("front", image(1.0))) == 1


@needs_filters
def test_images_of_a_clock_that_was_set_back_do_not_push_out_new_ones():
    matcher = ImageMatcher(["wrist", "front"], 0.03)
    for number in range(2 * QUEUE):
        assert matcher.add("front", image(100.0 + 0.05 * number)) == []
    assert matcher.add("front", image(50.0)) == []
    assert len(matcher.add("wrist", image(50.0))) == 1


def ages(observations: list[Observation]) -> set[int]:
    """Milliseconds by which the wrist's image is older than the observation."""
    return {
        round((stamp_to_nanoseconds(o.header.stamp) - stamp_to_nanoseconds(i.header.stamp)) / 1e6)
        for o in observations
        for i in o.images[1:]
    }


def half_a_period_apart(name, message):
    if name not in ("front", "wrist"):
        return message
    period = NANOSECONDS // 20
    stamp = stamp_to_nanoseconds(message.header.stamp) // period * period
    message.header.stamp = nanoseconds_to_stamp(stamp - period // 2 * (name == "wrist"))
    return message


def later(graph: Graph, sensors: FakeSensors, seen: list[Observation]) -> list[Observation]:
    """Waits for three observations of images that were taken from now on."""
    begin = sensors.now()

    def new() -> list[Observation]:
        return [o for o in list(seen) if stamp_to_nanoseconds(o.header.stamp) > begin]

    graph.wait(lambda: len(new()) >= 3, "observations from now on")
    return new()


@pytest.mark.nodes
@needs_filters
@pytest.mark.parametrize("compressed", [False, True])
def test_offsets_within_and_beyond_the_slop_and_a_camera_that_stops(compressed):
    with Graph() as graph:
        graph.start(
            "perception",
            synchronization="approximate_time",
            synchronization_slop=0.02,
            compressed=compressed,
            longest_wait=0.1,
        )
        sensors = FakeSensors(graph, compressed)
        seen = graph.collect(Observation, "vla/observation", qos.LATEST)
        first = later(graph, sensors, seen)
        assert ages(first) == {0}
        assert np.array_equal(image_to_array(first[0].images[1]), WRIST)
        # The reference is older than the other image, which as_of would not take.
        sensors.spoil = lambda name, m: shifted(m, -0.015) if name == "front" else m
        later(graph, sensors, seen)
        assert ages(later(graph, sensors, seen)) == {-15}
        sensors.spoil = lambda name, m: shifted(m, -0.015) if name == "wrist" else m
        later(graph, sensors, seen)
        assert ages(later(graph, sensors, seen)) == {15}
        # Cameras of 20 Hz that are half a period apart.
        sensors.spoil = half_a_period_apart
        graph.wait_diagnostic("perception", lambda s: "within synchronization_slop" in s.message)
        count = len(seen)
        sensors.spoil = lambda name, m: None if name == "wrist" else m
        graph.wait_diagnostic("perception", lambda s: "no image of camera 'wrist'" in s.message)
        assert len(seen) == count
        sensors.spoil = lambda name, m: changed(m, data=m.data[:9]) if name == "front" else m
        words = "cannot decode" if compressed else "data has 9 bytes"
        graph.wait_diagnostic("perception", lambda s: words in s.message)
        sensors.spoil = lambda name, m: m
        assert ages(later(graph, sensors, seen)) == {0}


@pytest.mark.nodes
@needs_filters
def test_simulated_time_that_goes_back_while_a_camera_is_silent():
    with Graph() as graph:
        graph.start(
            "perception", synchronization="approximate_time", use_sim_time=True, longest_wait=0.1
        )
        sensors = FakeSensorsWithClock(graph)
        seen = graph.collect(Observation, "vla/observation", qos.LATEST)
        later(graph, sensors, seen)
        sensors.spoil = lambda name, m: None if name == "wrist" else m
        graph.wait_diagnostic("perception", lambda s: "no image of camera 'wrist'" in s.message)
        sensors.set_by -= 20 * NANOSECONDS
        sensors.spoil = lambda name, m: m
        begin = sensors.now()
        seen.clear()
        graph.wait(
            lambda: any(
                begin < stamp_to_nanoseconds(o.header.stamp) <= sensors.now() for o in list(seen)
            ),
            "observations of the new time",
        )


@pytest.mark.nodes
@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"synchronization": "nearest"}, "must be one of as_of, approximate_time"),
        ({"synchronization_slop": 0.0}, "at least 0.001"),
        pytest.param(
            {"synchronization": "approximate_time"},
            "needs message_filters",
            marks=pytest.mark.skipif(HAS_FILTERS, reason="message_filters is installed"),
        ),
    ],
)
def test_parameters_are_checked_at_start(parameters, words):
    with Graph() as graph:
        graph.start("perception", **parameters)
        graph.wait_diagnostic("perception", lambda s: words in s.message and s.level == s.ERROR)
        assert graph.state("perception") == "unconfigured"
