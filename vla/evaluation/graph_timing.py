"""Rates and delays of the running graph, measured afterwards from recorded bags.

Every message that a policy derives carries the stamp of the image behind it, and a bag knows when
each message was published, so that one command can be traced back to the light that caused it
without any measuring code in the nodes.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vla.bags.reader import read_decoded
from vla.contract.embodiment import EmbodimentContract
from vla.observations.messages import stamp_to_nanoseconds

CLOCK = "/clock"
OBSERVATION = "/vla/observation"
LATENT = "/vla/latent_action"
CHUNK = "/vla/action_chunk"
RESPONSE = "/vla/response"
COMMAND = "/joint_trajectory_controller/joint_trajectory"
# A command later than this after a chunk has another cause, such as the operator's resume [ns].
LONGEST_CONTROL_DELAY = 1_000_000_000

STAGES = {
    "camera": "camera stamp to image published",
    "perception": "image published to observation published",
    "waiting": "observation published to action expert starts",
    "action_expert": "action expert's model",
    "control": "chunk published to first command from it",
    "total": "camera stamp to first command",
    "not_model": "total without the model",
}


@dataclass
class _Trace:
    """Times of one bag, in nanoseconds of the wall clock unless said otherwise."""

    clock: list[tuple[int, int]] = field(default_factory=list)
    published: dict[str, list[int]] = field(default_factory=dict)
    image: dict[int, int] = field(default_factory=dict)
    observation: dict[int, int] = field(default_factory=dict)
    chunks: list[tuple[int, int, int, int]] = field(default_factory=list)
    latents: list[tuple[int, int, int]] = field(default_factory=list)
    responses: list[int] = field(default_factory=list)


def percentiles(milliseconds: Iterable[float]) -> dict[str, float | int | None]:
    """count, p50, p99, mean and maximum, rounded to microseconds; None where there is no value."""
    values = np.asarray(list(milliseconds), dtype=np.float64)
    if not len(values):
        return {"count": 0, "p50": None, "p99": None, "mean": None, "maximum": None}
    p50, p99 = np.percentile(values, [50, 99])
    summary = {"p50": p50, "p99": p99, "mean": values.mean(), "maximum": values.max()}
    return {"count": len(values), **{name: round(float(v), 3) for name, v in summary.items()}}


def measure_graph(
    folders: Iterable[str | Path], contract: EmbodimentContract, namespace: str = ""
) -> dict[str, Any]:
    """Rates [Hz], delays [ms] and real-time factor over some bags of one run.

    Topics are those of the contract and of the nodes, below `namespace`. The bags need `/clock` if
    the robot was simulated, and `vla/observation` for the stages before the model; what a bag
    lacks is reported with count 0. Raises BagError for a bag that cannot be read.
    """
    traces = [_read_trace(Path(folder), contract, namespace) for folder in folders]
    paths = [path for trace in traces for path in _command_paths(trace)]
    reasoning = [path for trace in traces for path in _latent_paths(trace)]
    return {
        "real_time_factor": _real_time_factor(traces),
        "rates": _rates(traces),
        "image_age_at_perception_ms": percentiles(
            (published - _wall(trace, stamp)) * 1e-6
            for trace in traces
            for stamp, published in trace.observation.items()
        ),
        "reasoning_inference_ms": percentiles(
            inference * 1e-6 for trace in traces for _, _, inference in trace.latents
        ),
        "reasoning_text_ms": percentiles(
            inference * 1e-6 for trace in traces for inference in trace.responses
        ),
        "reasoning_waiting_ms": percentiles(reasoning),
        "expert_inference_ms": percentiles(
            chunk[2] * 1e-6 for trace in traces for chunk in trace.chunks
        ),
        "latent_age_ms": percentiles(
            (stamp - latent) * 1e-6 for trace in traces for stamp, _, _, latent in trace.chunks
        ),
        "camera_to_command_ms": {
            stage: percentiles(path[stage] for path in paths if stage in path) for stage in STAGES
        },
    }


def _read_trace(folder: Path, contract: EmbodimentContract, namespace: str) -> _Trace:
    trace = _Trace()
    reference = f"{namespace}/{contract.camera(contract.reference_camera).topic}"
    cameras = {f"{namespace}/{camera.topic}" for camera in contract.cameras}
    others = {f"{namespace}{name}" for name in (OBSERVATION, LATENT, CHUNK, RESPONSE, COMMAND)}
    clocks = {CLOCK, namespace + CLOCK}
    others |= {f"{namespace}/{contract.joint_states_topic}", *clocks}
    for message, value in read_decoded(folder, cameras | others, allow_truncated=True):
        name, published = message.topic, message.publish_time
        trace.published.setdefault(name, []).append(published)
        if name in clocks:
            trace.clock.append((stamp_to_nanoseconds(value.clock), published))
        elif name == reference:
            trace.image[stamp_to_nanoseconds(value.header.stamp)] = published
        elif name == namespace + OBSERVATION:
            trace.observation[stamp_to_nanoseconds(value.header.stamp)] = published
        elif name == namespace + LATENT:
            inference = int(value.inference_time * 1e9)
            trace.latents.append((stamp_to_nanoseconds(value.header.stamp), published, inference))
        elif name == namespace + CHUNK:
            inference = int(value.inference_time * 1e9)
            latent = stamp_to_nanoseconds(value.latent_stamp)
            trace.chunks.append(
                (stamp_to_nanoseconds(value.header.stamp), published, inference, latent)
            )
        elif name == namespace + RESPONSE:
            trace.responses.append(int(value.inference_time * 1e9))
    trace.chunks.sort(key=lambda chunk: chunk[1])
    return trace


def _wall(trace: _Trace, stamp: int) -> float:
    """When the ROS clock showed `stamp`, on the wall clock; the same where nothing is simulated."""
    if len(trace.clock) < 2:
        return stamp
    simulated, wall = zip(*trace.clock, strict=True)
    # From the first wall time on: a float64 cannot hold nanoseconds since the epoch.
    return wall[0] + np.interp(stamp, simulated, np.asarray(wall) - wall[0])


def _command_paths(trace: _Trace) -> list[dict[str, float]]:
    """Milliseconds by stage for every chunk that was executed."""
    commands = next((t for name, t in trace.published.items() if name.endswith(COMMAND)), [])
    commands = sorted(commands)
    paths = []
    for index, (stamp, published, inference, _) in enumerate(trace.chunks):
        following = bisect.bisect_right(commands, published)
        if following == len(commands):
            continue
        command = commands[following]
        replaced = index + 1 < len(trace.chunks) and trace.chunks[index + 1][1] < command
        if replaced or command - published > LONGEST_CONTROL_DELAY:
            continue
        path = {
            "action_expert": inference,
            "control": command - published,
            "total": command - _wall(trace, stamp),
        }
        path["not_model"] = path["total"] - inference
        if stamp in trace.image:
            path["camera"] = trace.image[stamp] - _wall(trace, stamp)
        if stamp in trace.observation:
            path["waiting"] = published - inference - trace.observation[stamp]
            if stamp in trace.image:
                path["perception"] = trace.observation[stamp] - trace.image[stamp]
        paths.append({name: value * 1e-6 for name, value in path.items()})
    return paths


def _latent_paths(trace: _Trace) -> list[float]:
    """Milliseconds from an observation's publication to the start of the reasoning on it."""
    return [
        (published - inference - trace.observation[stamp]) * 1e-6
        for stamp, published, inference in trace.latents
        if stamp in trace.observation
    ]


def _real_time_factor(traces: list[_Trace]) -> float | None:
    simulated = wall = 0
    for trace in traces:
        if len(trace.clock) > 1:
            simulated += trace.clock[-1][0] - trace.clock[0][0]
            wall += trace.clock[-1][1] - trace.clock[0][1]
    return round(simulated / wall, 4) if wall else None


def _rates(traces: list[_Trace]) -> dict[str, dict[str, Any]]:
    """Mean rate [Hz] and intervals [ms] by topic, from publication times."""
    gaps: dict[str, list[np.ndarray]] = {}
    for trace in traces:
        for name, times in trace.published.items():
            gaps.setdefault(name, []).append(np.diff(np.sort(np.asarray(times))) * 1e-6)
    rates = {}
    for name in sorted(gaps):
        intervals = np.concatenate(gaps[name])
        rates[name] = {
            "hz": round(1000.0 / float(intervals.mean()), 2) if intervals.sum() > 0 else None,
            "interval_ms": percentiles(intervals),
        }
    return rates


def format_table(report: dict[str, Any]) -> str:
    """The delays and rates of `measure_graph` as a Markdown table that also reads well as text."""
    rows: list[tuple[str, dict[str, Any]]] = [
        (text, report["camera_to_command_ms"][stage]) for stage, text in STAGES.items()
    ]
    rows += [
        ("image age when perception publishes", report["image_age_at_perception_ms"]),
        ("reasoning's model, latent action", report["reasoning_inference_ms"]),
        ("reasoning's model, text answer", report["reasoning_text_ms"]),
        ("observation published to reasoning starts", report["reasoning_waiting_ms"]),
        ("latent action older than the chunk's image by", report["latent_age_ms"]),
    ]
    lines = [f"| {'delay [ms]':<46} | {'p50':>8} | {'p99':>8} | {'count':>6} |"]
    lines.append(f"|{'-' * 48}|{'-' * 9}:|{'-' * 9}:|{'-' * 7}:|")
    for text, values in rows:
        lines.append(
            f"| {text:<46} | {_cell(values['p50']):>8} | {_cell(values['p99']):>8} "
            f"| {values['count']:>6} |"
        )
    lines += ["", f"| {'topic':<46} | {'rate [Hz]':>9} | {'gap p99 [ms]':>12} |"]
    lines.append(f"|{'-' * 48}|{'-' * 10}:|{'-' * 13}:|")
    for name, rate in report["rates"].items():
        gap = rate["interval_ms"]["p99"]
        lines.append(f"| {name:<46} | {_cell(rate['hz']):>9} | {_cell(gap):>12} |")
    factor = report["real_time_factor"]
    lines += ["", f"Real-time factor of the simulator: {_cell(factor, 3)}"]
    return "\n".join(lines) + "\n"


def _cell(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
