"""Where the few-shot adapter of an InstructVLA is: in linear layers of both parts, not vision."""

from __future__ import annotations

from vla.policies.config import AdapterConfig, CheckpointError
from vla.policies.instructvla.vision_language_action import InstructVLA
from vla.policies.lora import LoraLinear, linear_layers, lora_layers


def insert_adapter(model: InstructVLA, config: AdapterConfig) -> None:
    """Adds the adapter to linear layers of the language model and of the action expert.

    The language model's are those with LoRA experts; the action expert's are all but those of its
    vision. Raises CheckpointError for a rank that is not positive.
    """
    if config.rank < 1:
        raise CheckpointError(f"adapter.rank is {config.rank}; give a positive number")
    if config.state_limit < 1.0:
        raise CheckpointError(f"adapter.state_limit is {config.state_limit}; give 1 or more")
    backbone = model.reasoning.backbone
    experts = lora_layers(backbone.language_model)
    wanted = {backbone.linear_names[target] for target in model.config.lora.targets}
    for path, layer in linear_layers(backbone.language_model).items():
        parent, _, name = path.rpartition(".")
        if name in wanted or parent in experts:
            backbone.language_model.set_submodule(path, LoraLinear(layer, config))
    for path, layer in linear_layers(model.expert).items():
        if not path.startswith("vision."):
            model.expert.set_submodule(path, LoraLinear(layer, config))
