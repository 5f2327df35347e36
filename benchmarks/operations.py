r"""How many kernels an inference launches, pass by pass: as it is, and compiled by Inductor.

python benchmarks/operations.py --preset base --json output/operations.json
python benchmarks/operations.py --preset base --passes decode --after

Nothing is computed, and weights have no memory, so that it runs anywhere. Every operation counts
that reads or writes memory; those that only give it another shape do not, and an attention is one.
With --after, Inductor's kernels and the library's calls between them are counted, as its scheduler
has fused them for a CPU. Layers of a stack are equal, and so are the integration's steps: models of
few layers and steps are counted, and what one more adds is added for the others.

- latent action: a prompt with the action queries, images included.
- reading: a prompt that is to be answered; decode: one token of the answer.
- latent after text: the action queries behind an answer.
- chunk, guided chunk: context and all integration steps; guided as in real-time chunking.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch._inductor import config as inductor
from torch._inductor.ir import MultiOutput
from torch._inductor.scheduler import (
    BaseSchedulerNode,
    ExternKernelSchedulerNode,
    NopKernelSchedulerNode,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.policies.checkpoint import build_model
from vla.policies.config import LoraConfig
from vla.policies.empty_weights import put, without_weights
from vla.policies.expert_mixture import GATES
from vla.policies.images import channel_values, fit_images, keeping_constants
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.instructvla.film_vision import standardize
from vla.policies.instructvla.static_chunk import StaticChunk
from vla.policies.instructvla.static_reasoning import StaticReasoning
from vla.policies.instructvla.vision_language_action import InstructVLA
from vla.policies.lora import merge_for_inference
from vla.policies.registry import preset
from vla.policies.sequence import IMAGE

PROMPT_TOKENS, TEXT_TOKENS = 40, 50
PASSES = ("latent action", "reading", "decode", "latent after text", "chunk", "guided chunk")
# Operations that launch nothing: they look at memory in another way, or set it aside.
FREE = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk", "detach", "empty",
    "empty_like", "empty_strided", "expand", "lift_fresh", "new_empty", "new_empty_strided",
    "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose",
    "unbind", "unfold", "unsqueeze", "view",
}  # fmt: skip

Pass = tuple[Callable[..., Any], tuple[torch.Tensor, ...]]  # a function and its inputs


class Launches(TorchDispatchMode):
    """Counts the operations that launch a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: tuple = (), keywords: dict | None = None
    ) -> Any:
        """Counts, and runs it."""
        kind, _, name = operation._schema.name.partition("::")
        self.counts[name] += kind == "aten" and name not in FREE
        return operation(*arguments, **(keywords or {}))


class EnoughError(Exception):
    """Ends a compilation: everything that is to be known is known."""


def launches_before(function: Callable[..., Any], inputs: tuple[torch.Tensor, ...]) -> Counter[str]:
    """Launches of a pass, one operation at a time, by the operations' names."""
    with FakeTensorMode(allow_non_fake_inputs=True), Launches() as launches, torch.no_grad():
        function(*inputs)
    return +launches.counts


def launches_after(function: Callable[..., Any], inputs: tuple[torch.Tensor, ...]) -> int:
    """Launches of a pass that Inductor has compiled."""
    counted: list[int] = []

    def count(nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        counted.append(sum(map(_launches, nodes)))
        raise EnoughError

    torch._dynamo.reset()
    settings = {
        "_post_fusion_custom_pass": count,
        "force_disable_caches": True,
        # As on a GPU: what reads a concatenation makes it.
        "force_pointwise_cat": True,
    }
    with inductor.patch(**settings), torch.no_grad():
        try:
            torch.compile(function, fullgraph=True, dynamic=False)(*inputs)
        except Exception:
            if not counted:
                raise
    return counted[0]


def _launches(node: BaseSchedulerNode) -> bool:
    """Whether a node of Inductor's is a kernel, not one of several outputs of another one."""
    if isinstance(node, NopKernelSchedulerNode):
        return False
    return not (isinstance(node, ExternKernelSchedulerNode) and isinstance(node.node, MultiOutput))


def empty_model(config: InstructVLAConfig) -> InstructVLA:
    """A model in bfloat16 whose weights take no memory until somebody reads them."""
    with without_weights():
        model = build_model(config, load_contract(contract_path("sim_panda")))
    assert isinstance(model, InstructVLA)
    for weight in dict.fromkeys(model.parameters()):
        put(weight, torch.empty(weight.shape, dtype=torch.bfloat16))
    for layer in model.modules():
        # Merging would read them.
        if getattr(layer, "lora_a", None) is not None and config.lora.gate == "sum":
            layer.is_merged = True  # type: ignore[assignment]
    if config.lora.gate != "sum":
        with FakeTensorMode(allow_non_fake_inputs=True):
            merge_for_inference(model.reasoning.backbone, gated=True)
    return model.eval().requires_grad_(False)


def keep_constants(model: InstructVLA, images: torch.Tensor, expert_images: torch.Tensor) -> None:
    """Makes what passes need beside images and weights, before they run without memory."""
    backbone, vision = model.config.backbone, model.expert.vision
    with keeping_constants():
        fit_images(images, backbone.image_size)
        for values in (backbone.image_mean, backbone.image_std):
            channel_values(values, images.device)
        if vision is not None:
            standardize(expert_images, torch.float32)
            getattr(vision, "fit", fit_images)(expert_images, vision.size)


def passes(model: InstructVLA, steps: int) -> dict[str, Pass]:
    """The passes of an inference on inputs of usual shapes, with so many integration steps."""
    config = model.config
    backbone, expert = config.backbone, model.expert
    images = torch.zeros(
        config.vlm_images, 3, backbone.image_size, backbone.image_size, dtype=torch.uint8
    )
    length = PROMPT_TOKENS + config.vlm_images * backbone.image_tokens + config.num_queries
    static = StaticReasoning(model.reasoning, "none", length, images.shape, TEXT_TOKENS)
    ids = torch.zeros(1, static.lengths[0], dtype=torch.long)
    ids[:, : config.vlm_images * backbone.image_tokens] = IMAGE
    prompt = (images, ids, torch.tensor([length]))
    size = config.expert.image_size
    seen = torch.zeros(1, len(config.expert_cameras), 3, size, size, dtype=torch.uint8)
    keep_constants(model, images, seen[0])
    with FakeTensorMode(allow_non_fake_inputs=True):
        static.read_prompt(*prompt)  # It sets the memory aside.
    for memory in (static.adapted, static.plain):
        if memory is not None:
            for kept in (memory.keys, memory.values):
                kept[:] = [torch.empty(value.shape, dtype=value.dtype) for value in kept]
    chunk = StaticChunk(expert, steps, "none")
    shape = (1, expert.horizon, expert.action_size)
    inputs = (
        seen,
        torch.zeros(1, config.num_queries, backbone.width),
        torch.zeros(1, len(load_contract(contract_path("sim_panda")).state_names)),
        torch.zeros(shape),
    )
    guidance = (torch.zeros(shape), torch.zeros(shape[:2]), torch.tensor(2.0))
    return {
        "latent action": (static.act_on_prompt, prompt),
        "reading": (static.read_prompt, prompt),
        "decode": (static.next_token, ()),
        "latent after text": (static.query, ()),
        "chunk": (chunk.free, inputs),
        "guided chunk": (chunk.guided, inputs + guidance),
    }


# What is repeated in the passes of which it matters, by their names.
REPEATED = {
    "latent action": ("vision", "language"),
    "reading": ("vision", "language"),
    "decode": ("language",),
    "latent after text": ("language",),
    "chunk": ("expert vision", "expert", "steps"),
    "guided chunk": ("expert vision", "expert", "steps"),
}
FEWEST = 2  # of these, since the first and the last may differ from the others


def repeated(config: InstructVLAConfig) -> dict[str, int]:
    """How often a model repeats its layers, and a chunk its steps."""
    sizes, expert = config.backbone.architecture, config.expert
    # Blocks behind the one that gives the expert's tokens are not run.
    return {
        "vision": sizes["vision_config"]["num_hidden_layers"],
        "language": sizes["text_config"]["num_hidden_layers"],
        "expert vision": expert.vision_feature_block if expert.vision == "dinov2" else FEWEST,
        "expert": expert.layers,
        "steps": config.flow.steps,
    }


def resized(config: InstructVLAConfig, sizes: dict[str, int]) -> InstructVLAConfig:
    """A model that repeats them so often."""
    architecture = deepcopy(config.backbone.architecture)
    architecture["vision_config"]["num_hidden_layers"] = sizes["vision"]
    architecture["text_config"]["num_hidden_layers"] = sizes["language"]
    # Of the layers, transformers keeps a list of their kinds.
    architecture["text_config"].pop("layer_types", None)
    expert = replace(config.expert, layers=sizes["expert"])
    if expert.vision == "dinov2":
        block = sizes["expert vision"]
        layers = expert.vision_layers - expert.vision_feature_block + block
        expert = replace(expert, vision_layers=layers, vision_feature_block=block)
    return replace(
        config,
        backbone=replace(config.backbone, architecture=architecture),
        expert=expert,
        flow=replace(config.flow, steps=sizes["steps"]),
    )


def after(config: InstructVLAConfig, name: str) -> int:
    """Launches of a compiled pass."""
    whole = repeated(config)

    def counted(sizes: dict[str, int], left: tuple[str, ...]) -> int:
        """With these sizes, but for those that are left, which are those of the whole model."""
        if not left:
            small = resized(config, sizes)
            return launches_after(*passes(empty_model(small), small.flow.steps)[name])
        first, *others = left
        if whole[first] <= FEWEST:
            return counted(sizes | {first: whole[first]}, tuple(others))
        few, more = (counted(sizes | {first: FEWEST + i}, tuple(others)) for i in (0, 1))
        return few + (whole[first] - FEWEST) * (more - few)

    return counted({part: min(FEWEST, size) for part, size in whole.items()}, REPEATED[name])


def main() -> None:
    """Counts, prints a table, writes the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", nargs="+", default=["base"], help="(base)")
    parser.add_argument("--gate", choices=GATES, help="two LoRA experts and this gate")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=PASSES, help="(all)")
    parser.add_argument("--after", action="store_true", help="compiled, too")
    parser.add_argument("--json", type=Path, default=Path("output/operations.json"))
    arguments = parser.parse_args()
    report: dict[str, Any] = {"torch": torch.__version__, "presets": {}}
    for name in arguments.preset:
        config = preset(name)
        if arguments.gate:
            lora = LoraConfig(experts=("language", "action"), gate=arguments.gate)
            config = replace(config, lora=lora)
        model = empty_model(config)
        whole = passes(model, config.flow.steps)
        figures = report["presets"][name] = {}
        print(f"\n{name:<20}{'launches':>10}{'compiled':>10}")
        for key in arguments.passes:
            operations = launches_before(*whole[key])
            figures[key] = {"before": operations.total(), "operations": operations}
            if arguments.after:
                figures[key]["after"] = after(config, key)
            print(f"{key:<20}{figures[key]['before']:>10}{figures[key].get('after', ''):>10}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
