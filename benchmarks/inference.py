r"""Speed of inference, ours against recomputing everything: steps per second and where time goes.

python benchmarks/inference.py --preset nano small --json output/inference.json
python benchmarks/inference.py --preset base base_generalist --device cuda --dtype bfloat16 \
    --compile --steps 200 --json output/inference_gpu.json

Weights are random, so a text is as long as --tokens says. Each mode is measured in turns with the
others, so that a noisy machine is noisy for all of them. The CPU time of all threads stands beside
the time that passes, and suffers less from what else runs. With --runtime openvino, OpenVINO
computes those chunks that are not guided, on the CPU; the naive way stays torch's.

- act: the latent action and a chunk in every step.
- real time: as act, and the chunk is drawn to the one before, as real-time chunking does it.
- language: in mode think, the text again every 20 steps.
- latent caching: the latent action every other step.
- think: the text again in every step.
- "naive" does the same without what makes it fast, as the published code runs it: in every
  integration step all tokens of the action expert are run, and a text that was generated (with a
  cache) is read again with all that comes before it, for the latent action.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import tempfile
import time
import unittest.mock
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.policies.checkpoint import build_model
from vla.policies.config import LoraConfig
from vla.policies.expert_mixture import GATES
from vla.policies.heads.flow_matching import draw_noise, integrate
from vla.policies.instructvla.action_expert import ExpertContext
from vla.policies.instructvla.compiled import compile_for_inference
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.instructvla.exported_chunk import ExpertChunk
from vla.policies.instructvla.vision_language_action import InstructVLA, sample_actions
from vla.policies.real_time_chunking import Inpainting, soft_mask
from vla.policies.registry import preset
from vla.policies.runtimes import RUNTIMES, Computation, openvino_computation
from vla.policies.sequence import IMAGE

EXPERTS = ("language", "action")
LANGUAGE_EVERY, LATENT_EVERY = 20, 2
PROMPT_TOKENS = 40
PUBLISHED = {"act": 3.50, "language": 2.07, "latent caching": 4.96}


class Subject:
    """A model with random weights, and one scene."""

    def __init__(
        self,
        config: InstructVLAConfig,
        device: str,
        dtype: torch.dtype,
        tokens: int,
        compiled: bool,
        runtime: str = "eager",
    ):
        torch.manual_seed(0)
        self.device, self.tokens, self.config = device, tokens, config
        contract = load_contract(contract_path("sim_panda"))
        with torch.device(device):
            self.model: InstructVLA = build_model(self.config, contract).to(dtype).eval()
        # As in use: real-time chunking asks for gradients, but not for those of the weights.
        self.model.requires_grad_(False)
        backbone, cameras = self.config.backbone, self.config.vlm_images
        # The same weights, run by the functions as they are.
        self.plain_reasoning = copy.copy(self.model.reasoning)
        self.plain_expert = copy.copy(self.model.expert)
        if compiled:
            compile_for_inference(self.model)
        self.vlm_images = self._images(cameras, backbone.image_size)
        self.expert_images = self._images(len(self.config.expert_cameras), self._expert_size)[None]
        self.state = torch.zeros(1, len(contract.state_names), device=device, dtype=dtype)
        images = torch.full((cameras * backbone.image_tokens,), IMAGE)
        words = torch.randint(5, min(300, backbone.vocabulary), (PROMPT_TOKENS,))
        self.prompt = torch.cat([images, words])[None].to(device)
        queries = backbone.vocabulary + torch.arange(self.config.num_queries)
        self.queries = queries[None].to(device)
        self.text = torch.randint(5, 300, (1, tokens)).to(device)
        self.latent: torch.Tensor | None = None
        self.computation = self._exported() if runtime == "openvino" else None

    def _exported(self) -> Computation:
        """The chunk by OpenVINO."""
        expert = self.plain_expert
        example = (
            self.expert_images,
            torch.zeros(1, self.config.num_queries, self.config.backbone.width),
            self.state,
            torch.zeros(1, expert.horizon, expert.action_size),
        )
        module = ExpertChunk(expert, self.config.flow.steps).eval()
        with tempfile.TemporaryDirectory() as folder:
            return openvino_computation(
                module, example, Path(folder), "random", torch.get_num_threads()
            )

    @property
    def _expert_size(self) -> int:
        return self.config.expert.image_size

    def _images(self, count: int, size: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8).to(self.device)

    # One step each; the models' own functions.

    def think(self) -> None:
        """Text and latent action on one cache."""
        mask = torch.ones_like(self.prompt)
        reading = self.model.reasoning.read(self.vlm_images, self.prompt, mask)
        self.model.reasoning.generate(reading, set(), self.tokens)
        self.latent = self.model.reasoning.latent_action(reading)

    def read_and_act(self, text: bool) -> None:
        """Latent action of the prompt, with or without a text that is there already."""
        parts = [self.prompt, self.text, self.queries] if text else [self.prompt, self.queries]
        ids = torch.cat(parts, dim=1)
        self.latent = self.model.reasoning.act(self.vlm_images, ids, torch.ones_like(ids))

    def chunk(self, inpainting: Inpainting | None = None) -> None:
        """A chunk from the latent action that is there."""
        expert, flow = self.model.expert, self.config.flow
        if self.computation is not None and inpainting is None and self.latent is not None:
            noise = draw_noise((1, expert.horizon, expert.action_size), flow)
            given = (self.expert_images, self.latent, self.state, noise)
            self.computation(*(value.numpy() for value in given))
            return
        sample_actions(
            expert, self.expert_images, self.latent, self.state, flow, inpainting=inpainting
        )

    def guided_chunk(self) -> None:
        """A chunk that keeps the first quarter of another one, and is drawn to its next half."""
        horizon, size = self.model.expert.horizon, self.model.expert.action_size
        weights = soft_mask(horizon, committed=horizon // 4, covered=3 * horizon // 4)
        self.chunk(Inpainting(torch.zeros(1, horizon, size), weights[None]))

    # The same without what makes it fast

    def naive_read(self) -> None:
        """Latent action of the prompt."""
        ids = torch.cat([self.prompt, self.queries], dim=1)
        self.latent = self.plain_reasoning.act(self.vlm_images, ids, torch.ones_like(ids))

    @torch.no_grad()
    def naive_think(self) -> None:
        """Text on a cache, then the latent action in a pass over the prompt, text and queries."""
        reasoning, mask = self.plain_reasoning, torch.ones_like(self.prompt)
        reading = reasoning.read(self.vlm_images, self.prompt, mask)
        text = reasoning.generate(reading, set(), self.tokens)
        said = torch.tensor(text, device=self.device, dtype=self.prompt.dtype)
        ids = torch.cat([self.prompt, said, self.queries], dim=1)
        self.latent = reasoning.act(self.vlm_images, ids, torch.ones_like(ids))

    @torch.no_grad()
    def naive_chunk(self) -> None:
        """All tokens of the action expert in every integration step."""
        expert = self.plain_expert
        # Keys and values that nothing would use are not made.
        with unittest.mock.patch.object(expert, "_run_context", return_value=None):
            context = expert.encode_context(self.expert_images, self.latent, self.state)
        again = ExpertContext(context.tokens, None)
        noise = torch.randn(1, expert.horizon, expert.action_size, device=self.device)
        steps = self.config.flow.steps
        integrate(lambda x, times: expert.velocity(again, x, times), noise, steps)


def modes(subject: Subject) -> dict[str, Callable[[int], None]]:
    """What is measured, by name: functions of the step's number."""

    def act(step: int) -> None:
        subject.read_and_act(text=False)
        subject.chunk()

    def real_time(step: int) -> None:
        subject.read_and_act(text=False)
        subject.guided_chunk()

    def language(step: int) -> None:
        subject.think() if step % LANGUAGE_EVERY == 0 else subject.read_and_act(text=True)
        subject.chunk()

    def latent_caching(step: int) -> None:
        if step % LATENT_EVERY == 0:
            subject.read_and_act(text=False)
        subject.chunk()

    def think(step: int) -> None:
        subject.think()
        subject.chunk()

    def naive_act(step: int) -> None:
        subject.naive_read()
        subject.naive_chunk()

    def naive_think(step: int) -> None:
        subject.naive_think()
        subject.naive_chunk()

    return {
        "act": act,
        "naive act": naive_act,
        "real time": real_time,
        "language": language,
        "latent caching": latent_caching,
        "think": think,
        "naive think": naive_think,
    }


def measure(subject: Subject, steps: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of every step after a warm-up, by mode, the modes in turns."""
    functions = modes(subject)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    busy: dict[str, list[float]] = {name: [] for name in functions}
    for name, run in functions.items():
        for step in range(5 if "think" not in name else 1):
            run(step)
    for _ in range(rounds):
        for name, run in functions.items():
            count = max(1, steps // 10) if "think" in name else steps
            for step in range(count):
                started, used = time.perf_counter(), time.process_time()
                run(step)
                if subject.device != "cpu":
                    torch.cuda.synchronize()
                seconds[name].append(time.perf_counter() - started)
                busy[name].append(time.process_time() - used)
    return {
        name: {
            "hz": 1.0 / float(np.mean(values)),
            "p50_ms": 1000 * float(np.median(values)),
            "p99_ms": 1000 * float(np.quantile(values, 0.99)),
            "cpu_p50_ms": 1000 * float(np.median(busy[name])),
            "steps": len(values),
        }
        for name, values in seconds.items()
    }


def main() -> None:
    """Measures every preset, prints a table, writes the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", nargs="+", default=["nano", "small"], help="(nano small)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--gate", choices=GATES, help="give presets two LoRA experts and this gate")
    parser.add_argument("--tokens", type=int, default=50, help="of a text (50)")
    parser.add_argument("--steps", type=int, default=20, help="of each mode and round (20)")
    parser.add_argument("--rounds", type=int, default=3, help="(3)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--runtime", choices=RUNTIMES, default="eager", help="of chunks (eager)")
    parser.add_argument("--json", type=Path, default=Path("output/inference.json"), help="results")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    cuda = arguments.device != "cpu"
    report = {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "dtype": arguments.dtype,
        "compiled": arguments.compile,
        "runtime": arguments.runtime,
        "gate": arguments.gate or "the preset's",
        "text_tokens": arguments.tokens,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "published_hz_on_a100": PUBLISHED,
        "presets": {},
    }
    for name in arguments.preset:
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        dtype = getattr(torch, arguments.dtype)
        config = preset(name)
        if arguments.gate:
            config = replace(config, lora=LoraConfig(experts=EXPERTS, gate=arguments.gate))
        subject = Subject(
            config,
            arguments.device,
            dtype,
            arguments.tokens,
            arguments.compile,
            arguments.runtime,
        )
        figures = measure(subject, arguments.steps, arguments.rounds)
        parameters = sum(p.numel() for p in subject.model.parameters())
        faster, less = (
            {
                mode: figures[f"naive {mode}"][figure] / figures[mode][figure]
                for mode in ("act", "think")
            }
            for figure in ("p50_ms", "cpu_p50_ms")
        )
        entry = {
            "parameters": parameters,
            "modes": figures,
            "times_faster": faster,
            "times_less_cpu": less,
        }
        if cuda:
            entry["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        report["presets"][name] = entry
        print(f"\n{name}: {parameters / 1e6:.1f} M parameters, {report['device']}")
        print("mode               Hz    p50 ms    p99 ms    CPU ms   steps")
        for mode, row in figures.items():
            print(
                f"{mode:<14} {row['hz']:>7.2f} {row['p50_ms']:>9.1f} {row['p99_ms']:>9.1f} "
                f"{row['cpu_p50_ms']:>9.1f} {row['steps']:>7}"
            )
        print(
            f"faster than naive: act {faster['act']:.1f}x, think {faster['think']:.1f}x; "
            f"by CPU time {less['act']:.1f}x, {less['think']:.1f}x"
        )
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
