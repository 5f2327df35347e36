"""Judges a robot's topics and cameras against the contract before anything moves.

No ROS. Times are seconds of the robot's clock: simulated time where
that is used, else this machine's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np

from vla.contract.embodiment import CameraContract
from vla.core.findings import Finding, fine, problem, warning

# Share of a rate that still counts as met: rates are measured over a few seconds.
RATE_SHARE = 0.9
# Stamps may lie so far after their arrival, by rounding and by the way of a simulated clock [s].
FUTURE_TOLERANCE = 0.005
# Beyond this, two clocks are not merely badly synchronised [s].
OTHER_CLOCK = 1.0
# How long an image waits for what was measured before its stamp, as in the node perception [s].
LONGEST_WAIT = 0.02
# Mean brightness (of 255) outside of which no lit scene lies.
DARKEST, BRIGHTEST = 8.0, 247.0


@dataclass
class TopicStatistics:
    """A topic over some seconds."""

    name: str
    kinds: tuple[str, ...] = ()  # message types that its publishers offer
    publishers: tuple[str, ...] = ()  # names of their nodes
    best_effort: bool = False  # whether any of them is
    incompatible: tuple[str, ...] = ()  # publishers whose quality of service does not fit ours
    seconds: float = 0.0  # how long it was measured
    arrivals: list[float] = field(default_factory=list)  # of each message [s]
    stamps: list[float] = field(default_factory=list)  # of each message [s], 0 where it has none

    @property
    def count(self) -> int:
        """Messages that came."""
        return len(self.arrivals)

    @property
    def rate(self) -> float:
        """Messages per second [Hz]."""
        return self.count / self.seconds if self.seconds > 0 else 0.0

    @property
    def gap(self) -> float:
        """Longest time between two messages [s]."""
        return float(np.diff(self.arrivals).max()) if self.count > 1 else 0.0

    @property
    def jitter(self) -> float:
        """Standard deviation of the times between messages [s]."""
        return float(np.diff(self.arrivals).std()) if self.count > 2 else 0.0

    @property
    def offset(self) -> float:
        """Median of stamp less arrival [s]: minus the latency where the clocks agree."""
        return float(np.median(np.subtract(self.stamps, self.arrivals))) if self.count else 0.0


@dataclass
class CameraStatistics:
    """Images of one camera."""

    width: int = 0
    height: int = 0
    encoding: str = ""
    error: str = ""
    changed: bool = False  # whether any two images differ
    mean: float = 127.0  # brightness, 0 dark to 255 bright


def check_topic(
    area: str,
    topic: TopicStatistics,
    kind: str,
    least_rate: float,
    max_age: float,
    known: Mapping[str, Sequence[str]],
    several_publishers: bool = False,
) -> list[Finding]:
    """Presence, type, quality of service, publishers, rate and stamps of one topic.

    kind: the type that it must have. least_rate [Hz]. max_age: of a message when it arrives [s].
    known: all topics that somebody publishes, with their types. several_publishers: that they are
    judged elsewhere.
    """
    if not topic.publishers:
        return [problem(area, f"nobody publishes {topic.name}", _where_else(topic, kind, known))]
    if kind not in topic.kinds:
        return [
            problem(
                area,
                f"{topic.name} is {', '.join(topic.kinds)}",
                f"it must be {kind}: correct the topic in the contract, or the driver",
            )
        ]
    if topic.incompatible:
        return [
            problem(
                area,
                f"the quality of service of {topic.name} does not fit ours: {reason}",
                "change it in the parameters of its driver",
            )
            for reason in topic.incompatible
        ]
    found = []
    if len(topic.publishers) > 1 and not several_publishers:
        found.append(two_publishers(area, topic))
    if topic.count == 0:
        return [
            *found,
            problem(
                area,
                f"{topic.name} is announced, but nothing came",
                "see its driver's log; if it runs elsewhere, look at the network's multicast, MTU "
                "and firewall",
            ),
        ]
    found += _check_rate(area, topic, least_rate)
    found += check_stamps(area, topic, max_age)
    if not found:
        quality = "best effort" if topic.best_effort else "reliable"
        text = (
            f"{topic.name}: {topic.rate:.1f} Hz, longest gap {1e3 * topic.gap:.0f} ms, jitter "
            f"{1e3 * topic.jitter:.1f} ms, stamps {1e3 * topic.offset:+.0f} ms, {quality}"
        )
        found.append(fine(area, text))
    return found


def two_publishers(area: str, topic: TopicStatistics, of: str = "") -> Finding:
    """The problem of a topic with more than one publisher. of: what they all send."""
    names = ", ".join(topic.publishers)
    text = f"{topic.name} has {len(topic.publishers)} publishers{of}: {names}"
    return problem(area, text, "stop all but one, or remap the others")


def _where_else(topic: TopicStatistics, kind: str, known: Mapping[str, Sequence[str]]) -> str:
    """The cure for a topic that nobody publishes: its other form, or one of a similar name."""
    full = "/" + topic.name.strip("/")
    compressed = f"{full}/compressed"
    if any(name.endswith(compressed) for name in known):
        return (
            f"only {compressed} is there: give --compressed, and set perception's parameter "
            "compressed"
        )
    raw = full.removesuffix("/compressed")
    if raw != full and any(name.endswith(raw) for name in known):
        return f"only {raw} is there: leave --compressed and perception's parameter compressed out"
    alike = [name for name, types in known.items() if kind in types]
    near = get_close_matches(topic.name, alike, 1, 0.4) or alike[:1]
    hint = f"; there is {near[0]}: name it in the contract, or remap it" if near else ""
    return f"start its driver{hint}"


def _check_rate(area: str, topic: TopicStatistics, least_rate: float) -> list[Finding]:
    if topic.rate < RATE_SHARE * least_rate:
        return [
            problem(
                area,
                f"{topic.name} comes at {topic.rate:.1f} Hz",
                f"it needs {least_rate:g} Hz: raise the rate of its driver",
            )
        ]
    if topic.gap > 5.0 / topic.rate + 0.05:
        return [
            warning(
                area,
                f"{topic.name} paused for {topic.gap:.2f} s at a rate of {topic.rate:.0f} Hz",
                "look at the load and the network: the arm holds during longer pauses",
            )
        ]
    return []


def check_stamps(area: str, topic: TopicStatistics, max_age: float) -> list[Finding]:
    """Stamps that are zero, stand still, are too old, or come from another clock."""
    if 0.0 in topic.stamps:
        text = f"{topic.name} has zero stamps"
        return [problem(area, text, "its driver must stamp with the time of the measurement")]
    if np.count_nonzero(np.diff(topic.stamps) == 0.0) > 0.2 * topic.count:
        text = f"the stamps of {topic.name} stand still"
        cure = "restart its driver: it sends an old measurement again and again"
        return [problem(area, text, cure)]
    offset = topic.offset
    if abs(offset) > OTHER_CLOCK:
        return [
            problem(
                area,
                f"the stamps of {topic.name} are {offset:+.1f} s from this machine's clock",
                "synchronise the clocks (chrony or PTP), and set use_sim_time alike in all nodes",
            )
        ]
    text = f"the stamps of {topic.name} are {1e3 * offset:+.0f} ms from their arrival"
    if abs(offset) > max_age:
        cure = (
            f"the contract takes {1e3 * max_age:.0f} ms at most: synchronise the clocks (chrony or "
            "PTP), or make the driver faster"
        )
        return [problem(area, text, cure)]
    if offset > FUTURE_TOLERANCE or offset < -max_age / 2:
        cure = "synchronise the clocks of camera, robot and this machine (chrony or PTP)"
        return [warning(area, text, cure)]
    return []


def check_together(
    reference: TopicStatistics, others: Sequence[tuple[str, TopicStatistics, float]]
) -> list[Finding]:
    """What there is of each other topic at the stamps of the reference camera's images.

    others: what it is, the topic, and how much older than the image it may be [s]. Each image takes
    the newest from before its stamp that arrived within LONGEST_WAIT, as perception does.
    """
    area, found = "time", []
    for what, topic, max_age in others:
        arrivals, stamps = np.array(topic.arrivals), np.array(topic.stamps)
        ages = []
        for arrival, stamp in zip(reference.arrivals, reference.stamps, strict=True):
            there = stamps[arrivals <= arrival + LONGEST_WAIT]
            before = there[there <= stamp]
            # The first images come before anything else has.
            if there.size:
                ages.append(stamp - before.max() if before.size else np.inf)
        if not ages:
            continue
        age = float(np.median(ages))
        text = f"{what}: {1e3 * age:.0f} ms older than the images of {reference.name}"
        if age > max_age:
            cure = (
                f"the contract takes {1e3 * max_age:.0f} ms at most: synchronise the clocks, raise "
                "the rate, or make the driver faster"
            )
            found.append(problem(area, text, cure))
        else:
            found.append(fine(area, text))
    return found


def check_joint_publishers(
    topic: TopicStatistics, sets: Sequence[tuple[str, ...]]
) -> list[Finding]:
    """Whether several publishers of joint states share no joint, as arm and gripper do.

    sets: the lists of joint names that came, each once.
    """
    if len(topic.publishers) < 2:
        return []
    names = [name for names in sets for name in set(names)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not twice and len(sets) < len(topic.publishers):
        twice = sorted(names)
    if not twice:
        return []
    shown = ", ".join(twice[:3]) + (" and others" if len(twice) > 3 else "")
    return [two_publishers("joints", topic, f" of {shown}")]


def check_camera(camera: CameraContract, seen: CameraStatistics, simulated: bool) -> list[Finding]:
    """Size, encoding and content of a camera's images.

    simulated: that images of a scene at rest may be the same; a real camera's noise differs.
    """
    area, name = "cameras", f"camera '{camera.name}'"
    if seen.error:
        return [problem(area, f"{name}: {seen.error}", "correct its driver; rgb8 always works")]
    found = []
    if seen.width < camera.width or seen.height < camera.height:
        found.append(
            problem(
                area,
                f"{name} sends {seen.width} x {seen.height}",
                f"the contract needs {camera.width} x {camera.height}: raise its resolution",
            )
        )
    if not seen.changed and not simulated:
        text = f"{name} is frozen: it sent the same image all the time"
        found.append(problem(area, text, "restart its driver; look at cable and power"))
    if not DARKEST < seen.mean < BRIGHTEST:
        found.append(
            problem(
                area,
                f"{name} is nearly {'black' if seen.mean < DARKEST else 'white'}",
                "take its cap off, or set its exposure",
            )
        )
    if found:
        return found
    still = "" if seen.changed else ", nothing moves in it"
    return [fine(area, f"{name}: {seen.width} x {seen.height}, {seen.encoding}{still}")]
