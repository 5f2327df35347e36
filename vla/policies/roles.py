"""Roles of a model's weights in training.

An objective asks for roles. A type of policy says in `PolicyType.roles` which modules and
parameters of its models play which. An objective and a policy may agree on others than these.
"""

from __future__ import annotations

from typing import Any

from vla.policies.base import PolicyType
from vla.policies.lora import is_lora_weight

# A vision-language model: one module, a `Backbone` of vla.policies.backbones.
BACKBONE = "backbone"
# A backbone's LoRA experts and their gate, which are known by their names; no type lists them.
EXPERTS = "LoRA experts"
QUERIES = "action queries"  # what the backbone reads to give latent actions
ACTION_EXPERT = "action expert"  # the second part of a policy of two, which latent actions steer
# Of a policy of one part: what makes chunks of the backbone's hidden states, learned tokens too.
HEAD = "action head"
RESAMPLER = "resampler"  # between a backbone's vision encoder and its language model


def role_of(kind: PolicyType[Any, Any], name: str) -> str:
    """The role of a module, a parameter or a buffer of that name in a model; "" for none."""
    for role, paths in kind.roles.items():
        if any(f"{name}.".startswith(f"{path}.") for path in paths):
            is_expert = is_lora_weight(name) or ".scale_head." in name
            return EXPERTS if role == BACKBONE and is_expert else role
    return ""
