r"""Speed of inference, ours against recomputing everything: steps per second and where time goes.

python benchmarks/inference.py --preset nano small --json output/inference.json
python benchmarks/inference.py --preset base --device cuda --dtype bfloat16 \
    --graphs none manual inductor --budget 540 --json output/inference_gpu.json

Weights are random, so a text is as long as --tokens says. Each mode is measured in turns with the
others, so that a noisy machine is noisy for all of them. --graphs names how our variant runs, see
vla/policies/compiled.py; with openvino, OpenVINO computes the chunks, on the CPU, and with both,
Inductor has compiled the vision-language half beside it (both_bf16: chunks in bfloat16). With
--budget nothing new begins after so many seconds.

- act: the latent action and a chunk in every step; real time: with real-time chunking.
- language: in mode think, the text again every 20 steps.
- latent caching: the latent action every other step.
- think: the text again in every step.
- naive: the same without what makes it fast, as the published code runs it: all tokens of the
  action expert in every integration step, and a text, generated with a cache, is read again with
  all that comes before it.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from inference_steps import (
    GRAPHS,
    MODES,
    WITH_OPENVINO,
    Fast,
    Naive,
    Subject,
    fast_modes,
    naive_modes,
)
from torch.profiler import ProfilerActivity, profile

from vla.policies.compiled import require_mode
from vla.policies.config import LoraConfig
from vla.policies.expert_mixture import GATES
from vla.policies.registry import preset

EXPERTS = ("language", "action")
PART_RUNS = 10
PUBLISHED = {"act": 3.50, "language": 2.07, "latent caching": 4.96}


@dataclass
class Times:
    """Seconds of the steps of one mode."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def take(self, run: Callable[[], None]) -> None:
        """Runs and times a step, the device's work included."""
        started, worked = time.perf_counter(), time.process_time()
        run()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.wall.append(time.perf_counter() - started)
        self.cpu.append(time.process_time() - worked)

    def figures(self) -> dict[str, float]:
        """Rate, and quantiles of the time."""
        return {
            "hz": 1.0 / float(np.mean(self.wall)),
            "p50_ms": 1000 * float(np.median(self.wall)),
            "p99_ms": 1000 * float(np.quantile(self.wall, 0.99)),
            "cpu_ms": 1000 * float(np.median(self.cpu)),
            "steps": len(self.wall),
        }


def busy_share(run: Callable[[], None]) -> float:
    """Share of a run's time in which a GPU computes."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return sum(event.self_device_time_total for event in seen.key_averages()) / 1e6 / seconds


def measure(
    subject: Subject, graphs: list[str], modes: list[str], steps: int, rounds: int, until: float
) -> dict[str, Any]:
    """Figures by mode and part, the modes and graphs in turns; no round begins after `until`."""
    runs: dict[str, Callable[[int], None]] = naive_modes(Naive(subject))
    report: dict[str, Any] = {"warm_up_s": {}, "parts": {}, "gpu_busy": {}}
    parts: dict[str, Callable[[], None]] = {}
    for name in graphs:
        if time.monotonic() > until:
            report["left_out"] = graphs[graphs.index(name) :]
            break
        started, fast = time.monotonic(), Fast(subject, name, "real time" in modes)
        fast.warm_up()
        report["warm_up_s"][name] = time.monotonic() - started
        suffix = "" if name == "none" else f" {name}"
        runs |= {f"{mode}{suffix}": run for mode, run in fast_modes(fast).items()}
        parts |= {f"{part}{suffix}": run for part, run in fast.parts().items()}
    runs = {name: run for name, run in runs.items() if any(name.startswith(m) for m in modes)}
    times = {name: Times() for name in runs}
    for run in runs.values():
        run(0)
    for number in range(rounds):
        if number and time.monotonic() > until:
            break
        for name, run in runs.items():
            for step in range(max(1, steps // 10) if "think" in name else steps):
                times[name].take(lambda run=run, step=step: run(step))  # type: ignore[misc]
    for name, part in parts.items():
        own = Times()
        for _ in range(PART_RUNS):
            own.take(part)
        report["parts"][name] = own.figures()
        if subject.device != "cpu":
            report["gpu_busy"][name] = busy_share(part)
    return report | {"modes": {name: own.figures() for name, own in times.items()}}


def main() -> None:
    """Measures every preset, prints tables, writes the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", nargs="+", default=["nano", "small"], help="(nano small)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--gate", choices=GATES, help="give presets two LoRA experts and this gate")
    parser.add_argument("--tokens", type=int, default=50, help="of a text (50)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="(all)")
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=["none"], help="(none)")
    parser.add_argument("--steps", type=int, default=20, help="of each mode and round (20)")
    parser.add_argument("--rounds", type=int, default=3, help="(3)")
    parser.add_argument("--budget", type=float, default=math.inf, help="of all [s] (none)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--json", type=Path, default=Path("output/inference.json"), help="results")
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.budget
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    cuda = arguments.device != "cpu"
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "dtype": arguments.dtype,
        "gate": arguments.gate or "the preset's",
        "text_tokens": arguments.tokens,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "published_hz_on_a100": PUBLISHED,
        "presets": {},
    }
    for mode in arguments.graphs:
        require_mode(WITH_OPENVINO.get(mode, (mode, ""))[0], arguments.device)
    for name in arguments.preset:
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        config = preset(name)
        if arguments.gate:
            config = replace(config, lora=LoraConfig(experts=EXPERTS, gate=arguments.gate))
        dtype = getattr(torch, arguments.dtype)
        subject = Subject(config, arguments.device, dtype, arguments.tokens)
        counts = arguments.steps, arguments.rounds, until
        entry = measure(subject, arguments.graphs, arguments.modes, *counts)
        entry["parameters"] = sum(p.numel() for p in subject.model.parameters())
        peak = torch.cuda.max_memory_allocated() if cuda else 1024 * resource.getrusage(
            resource.RUSAGE_SELF
        ).ru_maxrss  # fmt: skip
        entry["peak_memory_gb"] = peak / 1e9
        report["presets"][name] = entry
        show(name, entry)
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def show(name: str, entry: dict[str, Any]) -> None:
    """Prints the figures of a preset."""
    millions, peak = entry["parameters"] / 1e6, entry["peak_memory_gb"]
    print(f"\n{name}: {millions:.1f} M parameters, {peak:.1f} GB at most")
    for mode, seconds in entry["warm_up_s"].items():
        print(f"warmed up {mode}: {seconds:.0f} s")
    for kind in ("modes", "parts"):
        print(f"{kind:<32}     Hz    p50 ms    p99 ms    cpu ms   steps  GPU busy")
        for row, values in entry[kind].items():
            busy = entry["gpu_busy"].get(row)
            print(
                f"{row:<32} {values['hz']:>6.2f} {values['p50_ms']:>9.1f} "
                f"{values['p99_ms']:>9.1f} {values['cpu_ms']:>9.1f} {values['steps']:>7}"
                + ("" if busy is None else f" {100 * busy:>8.0f}%")
            )
    modes = entry["modes"]
    for kind in ("act", "think"):
        if (slow := modes.get(f"naive {kind}")) is None:
            continue
        faster = {row: modes[row]["hz"] / slow["hz"] for row in modes if row.startswith(kind)}
        print(", ".join(f"{row} {ratio:.1f} times naive" for row, ratio in faster.items()))
    if left_out := entry.get("left_out"):
        print(f"left out, since the time was over: {', '.join(left_out)}")


if __name__ == "__main__":
    main()
