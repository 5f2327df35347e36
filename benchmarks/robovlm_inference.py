r"""Speed of RoboVLMs by structure and window: acts per second, latency, and what memory grows by.

python benchmarks/robovlm_inference.py --json output/robovlm_inference.json
python benchmarks/robovlm_inference.py --presets robovlm_kosmos2 --device cuda --acts 200

Weights are random. Every act is one of a node: two images and an instruction in, a chunk out, on a
history that is full. The cases take turns, so that a noisy machine is noisy for all of them; the
shipped InstructVLA (latent action and chunk in every step) is one of them. memory_mb: what the
process has grown by over --memory acts of policy_head.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from vla.policies.base import Observation
from vla.policies.checkpoint import build_model, open_checkpoint, save_checkpoint
from vla.policies.policy import Policy
from vla.policies.registry import preset
from vla.policies.robots import read_robots

PRESETS = ("nano_one_step", "nano_policy_head", "nano_interleaved", "nano_discrete")
INSTRUCTION = "pick up the red can"
STEP = 0.3  # between two acts [s], by their stamps


def cases(names: list[str]) -> dict[str, Any]:
    """Configurations by label: each preset, policy heads also with windows of 1 and 16."""
    found = {}
    for name in names:
        config = preset(name)
        windows = [config.structure.window]
        if config.structure.kind == "policy_head":
            windows = sorted({1, 16, *windows})
        for window in windows:
            structure = replace(config.structure, window=window, history_step=STEP)
            found[f"{name} W {window}"] = replace(config, structure=structure)
    return found


def open_random(config: Any, source: Path, device: str) -> Policy:
    """A policy with random weights, and with the tokenizer and the robot of a checkpoint."""
    torch.manual_seed(0)
    like = open_checkpoint(source)
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(config, like.contract)
        save_checkpoint(folder, config, model.state_dict(), read_robots(source), like.tokenizer)
        return Policy.from_pretrained(folder, device, dtype="float32")


def act(policy: Policy, seen: Observation, number: int) -> float:
    """Seconds of one act."""
    started = time.perf_counter()
    policy.chunk(seen.images, seen.state, number * STEP)
    return time.perf_counter() - started


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/nano"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--acts", type=int, default=200, help="of each case (200)")
    parser.add_argument("--memory", type=int, default=10_000, help="acts; 0 for none (10000)")
    parser.add_argument("--json", type=Path, default=Path("output/robovlm_inference.json"))
    arguments = parser.parse_args()

    policies = {
        "instructvla": Policy.from_pretrained(
            arguments.checkpoint, arguments.device, dtype="float32"
        )
    }
    for label, config in cases(list(arguments.presets)).items():
        policies[label] = open_random(config, arguments.checkpoint, arguments.device)
    contract = open_checkpoint(arguments.checkpoint).contract
    generator = np.random.default_rng(0)
    images = {
        camera.name: generator.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
        for camera in contract.cameras
    }
    seen = Observation(images, np.zeros(len(contract.state_names)))
    for policy in policies.values():
        policy.reset(INSTRUCTION, seed=0)
        for number in range(20):  # the history is full then
            act(policy, seen, number)
    seconds: dict[str, list[float]] = {label: [] for label in policies}
    for number in range(20, 20 + arguments.acts):
        for label, policy in policies.items():
            seconds[label].append(act(policy, seen, number))
    figures = {}
    for label, values in seconds.items():
        p50, p99 = np.percentile(values, [50, 99])
        figures[label] = {"hz": 1 / p50, "p50_ms": 1e3 * p50, "p99_ms": 1e3 * p99}
        print(f"{label:28} {1 / p50:6.1f} Hz, p50 {1e3 * p50:6.1f} ms, p99 {1e3 * p99:6.1f} ms")
    heads = [label for label in policies if "policy_head" in label]
    if arguments.memory and heads:
        policy, process = policies[heads[-1]], psutil.Process()
        for number in range(1000):
            act(policy, seen, 1000 + number)
        before = process.memory_info().rss
        for number in range(arguments.memory):
            act(policy, seen, 2000 + number)
        grown = (process.memory_info().rss - before) / 1e6
        figures[heads[-1]]["memory_mb"] = grown
        print(f"{heads[-1]}: {grown:.1f} MB more after {arguments.memory} acts")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
