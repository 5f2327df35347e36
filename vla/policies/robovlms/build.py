"""A RoboVLM for a robot."""

from __future__ import annotations

from vla.contract.embodiment import EmbodimentContract, dimension_kinds
from vla.policies.robovlms.config import RoboVLMConfig
from vla.policies.robovlms.model import RoboVLM


def build_model(config: RoboVLMConfig, contract: EmbodimentContract) -> RoboVLM:
    """Randomly initialised, sized for the contract's state, horizon and actions."""
    binary = tuple(kind == "binary" for kind in dimension_kinds(contract)["action"])
    return RoboVLM(config, len(contract.state_names), contract.horizon, binary)
