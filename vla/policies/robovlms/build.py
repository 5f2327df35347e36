"""A RoboVLM for a robot."""

from __future__ import annotations

from vla.contract.embodiment import EmbodimentContract, dimension_kinds
from vla.contract.normalization import BINARY
from vla.policies.robovlms.config import RoboVLMConfig
from vla.policies.robovlms.model import RoboVLM
from vla.policies.robovlms.padding import action_layout, require_room, state_size


def build_model(config: RoboVLMConfig, contract: EmbodimentContract) -> RoboVLM:
    """Randomly initialised, sized for the contract's state, horizon and actions.

    Raises CheckpointError where common sizes (vla.policies.robovlms.padding) are too small for it.
    """
    require_room(config, contract)
    kinds = dimension_kinds(contract)["action"]
    # Action tokens are those of the robot's own values, however many.
    own = tuple(kind == BINARY for kind in kinds)
    binary = own if config.discrete else action_layout(config, kinds).binary
    return RoboVLM(config, state_size(config, contract), contract.horizon, binary)
