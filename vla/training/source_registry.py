"""Data sources by the `kind` of an entry: shipped ones, and those of other packages."""

from __future__ import annotations

from vla.core.registry import Registry
from vla.datasets.sources import ConversationSource, RobotSource
from vla.policies.config import CheckpointError

ROBOT_SOURCES: Registry[RobotSource] = Registry(
    "robot data",
    "vla_ros.robot_sources",
    CheckpointError,
    {
        # The first that finds its data in a folder is the folder's kind.
        "lerobot": "vla.training.stored_sources:LEROBOT",
        "metaworld": "vla.envs.metaworld.sources:METAWORLD",
        "simulated": "vla.envs.tabletop.sources:SIMULATED",
        "bags": "vla.training.stored_sources:BAGS",
        "chains": "vla.envs.chains.sources:CHAINS",
        "atomic": "vla.envs.tabletop.goal_sources:ATOMIC",
        "instructed": "vla.envs.tabletop.goal_sources:INSTRUCTED",
    },
)
CONVERSATION_SOURCES: Registry[ConversationSource] = Registry(
    "conversations",
    "vla_ros.conversation_sources",
    CheckpointError,
    {
        "llava": "vla.training.stored_sources:LLAVA",
        "scenes": "vla.envs.tabletop.sources:SCENES",
    },
)
