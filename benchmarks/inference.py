r"""Speed of inference, ours against recomputing everything: steps per second and where time goes.

python benchmarks/inference.py --preset nano small --json output/inference.json
python benchmarks/inference.py --preset base --device cuda --dtype bfloat16 \
    --graphs none manual inductor --budget 540 --json output/inference_gpu.json

Weights are random, so a text is as long as --tokens says. Each mode is measured in turns with the
others, so that a noisy machine is noisy for all of them. --graphs names how our variant runs, see
vla/policies/compiled.py; with openvino, OpenVINO computes the chunks that are not guided, on the
CPU. With --budget nothing new begins after so many seconds.

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
import tempfile
import time
import unittest.mock
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.policies.checkpoint import build_model
from vla.policies.compiled import MODES as COMPILED
from vla.policies.compiled import require_mode
from vla.policies.config import LoraConfig
from vla.policies.expert_mixture import GATES
from vla.policies.heads.flow_matching import integrate
from vla.policies.instructvla.action_expert import ExpertContext
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.instructvla.exported_chunk import ExpertChunk
from vla.policies.instructvla.static_chunk import StaticChunk
from vla.policies.instructvla.static_reasoning import StaticReasoning
from vla.policies.instructvla.vision_language_action import InstructVLA
from vla.policies.lora import merge_for_inference
from vla.policies.real_time_chunking import Inpainting, soft_mask
from vla.policies.registry import preset
from vla.policies.runtimes import Computation, openvino_computation
from vla.policies.sequence import IMAGE

EXPERTS = ("language", "action")
LANGUAGE_EVERY, LATENT_EVERY = 20, 2
PROMPT_TOKENS = 40
PART_RUNS = 10
FAST_MODES = ("act", "real time", "language", "latent caching", "think")
MODES = (*FAST_MODES, "naive act", "naive think")
OPENVINO = "openvino"
GRAPHS = (*COMPILED, OPENVINO)
PUBLISHED = {"act": 3.50, "language": 2.07, "latent caching": 4.96}


class Subject:
    """A model with random weights, and one scene."""

    def __init__(self, config: InstructVLAConfig, device: str, dtype: torch.dtype, tokens: int):
        torch.manual_seed(0)
        self.device, self.tokens, self.config = device, tokens, config
        contract = load_contract(contract_path("sim_panda"))
        with torch.device(device):
            self.model: InstructVLA = build_model(self.config, contract).to(dtype).eval()
        # As in use: real-time chunking asks for gradients, but not for those of the weights.
        self.model.requires_grad_(False)
        backbone, cameras = self.config.backbone, self.config.vlm_images
        gated = self.model.reasoning.backbone.scale_head is not None
        merge_for_inference(self.model.reasoning.backbone, gated)
        self.vlm_images = self._images(cameras, backbone.image_size)
        size = self.config.expert.image_size
        self.expert_images = self._images(len(self.config.expert_cameras), size)[None]
        self.state = torch.zeros(1, len(contract.state_names), device=device, dtype=dtype)
        words = torch.randint(5, min(300, backbone.vocabulary), (PROMPT_TOKENS,)).tolist()
        self.prompt = [IMAGE] * (cameras * backbone.image_tokens) + words
        vocabulary = backbone.vocabulary
        self.queries = [*range(vocabulary, vocabulary + self.config.num_queries)]
        self.text = torch.randint(5, 300, (tokens,)).tolist()
        self.latent: torch.Tensor | None = None

    def _images(self, count: int, size: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8).to(self.device)

    def ids(self, tokens: list[int]) -> torch.Tensor:
        """Token ids [1, T] on the device."""
        return torch.tensor([tokens], device=self.device)

    def noise(self) -> torch.Tensor:
        """Noise [1, H, A] of a chunk."""
        expert = self.model.expert
        return torch.randn(1, expert.horizon, expert.action_size, device=self.device)


def exported_chunk(subject: Subject) -> Computation:
    """The chunk by OpenVINO."""
    module = ExpertChunk(subject.model.expert, subject.config.flow.steps).eval()
    latent = torch.zeros(1, subject.config.num_queries, subject.config.backbone.width)
    example = subject.expert_images, latent, subject.state, subject.noise()
    with tempfile.TemporaryDirectory() as folder:
        threads = torch.get_num_threads()
        return openvino_computation(module, example, Path(folder), "random", threads)


class Fast:
    """One step each of our variant, in a mode of vla.policies.compiled or with OpenVINO."""

    def __init__(self, subject: Subject, mode: str):
        self.subject, self.model = subject, subject.model
        self.computation = exported_chunk(subject) if mode == OPENVINO else None
        mode = "none" if mode == OPENVINO else mode
        self.chunks = StaticChunk(self.model.expert, subject.config.flow.steps, mode)
        self.static: StaticReasoning | None = None
        if mode != "none":
            shortest = len(subject.prompt + subject.queries)
            shape = subject.vlm_images.shape
            self.static = StaticReasoning(
                self.model.reasoning, mode, shortest, shape, subject.tokens
            )

    def warm_up(self) -> None:
        """Compiles and runs everything."""
        for _ in self.static.warm_up() if self.static is not None else ():
            pass
        self.read_and_act()
        self.chunk()
        self.guided_chunk()

    def think(self) -> None:
        """Text and latent action on one cache."""
        subject = self.subject
        if self.static is not None:
            reading = self.static.read(subject.vlm_images, subject.prompt)
            self.static.generate(reading, set(), subject.tokens)
            subject.latent = self.static.latent_action()
            return
        ids, reasoning = subject.ids(subject.prompt), self.model.reasoning
        read = reasoning.read(subject.vlm_images, ids, torch.ones_like(ids))
        reasoning.generate(read, set(), subject.tokens)
        subject.latent = reasoning.latent_action(read)

    def read_and_act(self, text: bool = False) -> None:
        """Latent action of the prompt, with or without a text that is there already."""
        subject = self.subject
        tokens = subject.prompt + (subject.text if text else []) + subject.queries
        if self.static is not None:
            subject.latent = self.static.act(subject.vlm_images, tokens)
            return
        ids = subject.ids(tokens)
        subject.latent = self.model.reasoning.act(subject.vlm_images, ids, torch.ones_like(ids))

    def chunk(self, inpainting: Inpainting | None = None) -> None:
        """A chunk from the latent action that is there."""
        subject = self.subject
        assert subject.latent is not None
        given = subject.expert_images, subject.latent, subject.state, subject.noise()
        if self.computation is not None and inpainting is None:
            self.computation(*(value.numpy() for value in given))
        else:
            self.chunks(*given, inpainting)

    def guided_chunk(self) -> None:
        """A chunk that keeps the first quarter of another one, and is drawn to its next half."""
        noise, horizon = self.subject.noise(), self.model.expert.horizon
        weights = soft_mask(horizon, committed=horizon // 4, covered=3 * horizon // 4)
        weights = weights[None].to(self.subject.device)
        self.chunk(Inpainting(torch.zeros_like(noise), weights))

    def parts(self) -> dict[str, Callable[[], None]]:
        """What a step is made of, by name."""
        return {
            "latent action": self.read_and_act,
            "text and latent action": self.think,
            "chunk": self.chunk,
            "guided chunk": self.guided_chunk,
        }


class Naive:
    """One step each of the same model without what makes it fast."""

    def __init__(self, subject: Subject):
        self.subject, self.model = subject, subject.model

    def read(self) -> None:
        """Latent action of the prompt."""
        subject = self.subject
        ids = subject.ids(subject.prompt + subject.queries)
        subject.latent = self.model.reasoning.act(subject.vlm_images, ids, torch.ones_like(ids))

    def think(self) -> None:
        """Text on a cache, then the latent action in a pass over the prompt, text and queries."""
        subject, reasoning = self.subject, self.model.reasoning
        ids = subject.ids(subject.prompt)
        reading = reasoning.read(subject.vlm_images, ids, torch.ones_like(ids))
        (text,) = reasoning.generate(reading, set(), subject.tokens)
        ids = subject.ids(subject.prompt + text + subject.queries)
        subject.latent = reasoning.act(subject.vlm_images, ids, torch.ones_like(ids))

    @torch.no_grad()
    def chunk(self) -> None:
        """All tokens of the action expert in every integration step."""
        subject, expert = self.subject, self.model.expert
        assert subject.latent is not None
        # Keys and values that nothing would use are not made.
        with unittest.mock.patch.object(expert, "_run_context", return_value=None):
            context = expert.encode_context(subject.expert_images, subject.latent, subject.state)
        again = ExpertContext(context.tokens, None)
        steps = subject.config.flow.steps
        integrate(lambda x, times: expert.velocity(again, x, times), subject.noise(), steps)


def fast_modes(fast: Fast) -> dict[str, Callable[[int], None]]:
    """What is measured of our variant, by name: functions of the step's number."""

    def act(step: int) -> None:
        fast.read_and_act()
        fast.chunk()

    def real_time(step: int) -> None:
        fast.read_and_act()
        fast.guided_chunk()

    def language(step: int) -> None:
        fast.think() if step % LANGUAGE_EVERY == 0 else fast.read_and_act(text=True)
        fast.chunk()

    def latent_caching(step: int) -> None:
        if step % LATENT_EVERY == 0:
            fast.read_and_act()
        fast.chunk()

    def think(step: int) -> None:
        fast.think()
        fast.chunk()

    runs = (act, real_time, language, latent_caching, think)
    return dict(zip(FAST_MODES, runs, strict=True))


def naive_modes(naive: Naive) -> dict[str, Callable[[int], None]]:
    """The same of the naive variant."""
    first = {"naive act": naive.read, "naive think": naive.think}
    return {name: lambda step, run=run: (run(), naive.chunk()) for name, run in first.items()}


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
        started, fast = time.monotonic(), Fast(subject, name)
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
        require_mode("none" if mode == OPENVINO else mode, arguments.device)
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
