"""An LA4VLA for a robot."""

from __future__ import annotations

from vla.contract.embodiment import EmbodimentContract
from vla.policies.la4vla.config import LA4VLAConfig
from vla.policies.la4vla.model import LA4VLA
from vla.policies.la4vla.vectors import require_room


def build_model(config: LA4VLAConfig, contract: EmbodimentContract) -> LA4VLA:
    """Randomly initialised, for the contract's horizon. Raises CheckpointError without room."""
    require_room(config, contract)
    return LA4VLA(config, contract.horizon)
