"""Whether the entries of a training configuration go together."""

from __future__ import annotations

from typing import Any

from vla.core.shown import brief, listed, shown_path
from vla.policies.checkpoint import read_config
from vla.policies.config import CheckpointError
from vla.policies.registry import policy_type, preset
from vla.policies.robots import checkpoint_folder
from vla.training.config import TrainConfig
from vla.training.objectives.adapt import Adapt
from vla.training.objectives.registry import OBJECTIVES, objective_of
from vla.training.source_registry import ROBOT_SOURCES


def check_train_config(config: TrainConfig) -> None:
    """Raises CheckpointError that says what does not go together."""
    objective = objective_of(config)
    if config.schedule not in ("constant", "cosine"):
        raise CheckpointError(f"unknown schedule '{config.schedule}'; known: constant, cosine")
    if config.precision not in ("no", "bf16"):
        raise CheckpointError(f"unknown precision {brief(config.precision)}; known: no, bf16")
    objective.check()
    start = config.initialize_from
    if not start or checkpoint_folder(start).is_dir():  # else of a run to come
        require_suited(config, base_config(config))
    require_masks_suited(config)
    for entry in config.robot:
        if entry.contract and ROBOT_SOURCES[entry.kind].own_contract_only:
            raise CheckpointError(
                f"{entry.path}: {entry.kind} data is made for the run's own contract; leave the "
                "entry's contract out"
            )


def require_masks_suited(config: TrainConfig) -> None:
    """Raises CheckpointError where frames are masked that the run can't learn from."""
    masked = [entry for entry in config.robot if entry.masked_share]
    if not masked:
        return
    if config.grounding_weight and all(entry.masked_share == 1 for entry in config.robot):
        raise CheckpointError(
            "grounding_weight teaches where images show the gripper's next actions, and every "
            "frame is masked: set grounding_weight to 0, or give a masked_share below 1"
        )
    for entry in masked:
        if entry.masked_share == 1 and ROBOT_SOURCES[entry.kind].correction_steps(entry):
            raise CheckpointError(
                f"{entry.path}: a policy sees while it is corrected, and masked_share is 1: leave "
                "its corrections out, or give a masked_share below 1"
            )


def require_readable_masks(config: TrainConfig, model: Any) -> None:
    """Raises CheckpointError where frames are masked that the policy can't read.

    model: the configuration of the policy that is trained.
    """
    for entry in config.robot:
        if entry.masked_share and (why := policy_type(model.TYPE).needs_images(model)):
            raise CheckpointError(
                f"{entry.path}: masked_share is {entry.masked_share:g}, but {why}: set it to 0, or "
                "take another policy"
            )


def base_config(config: TrainConfig) -> Any:
    """The policy's configuration before the run's own entries: that of its start, or preset.

    Raises CheckpointError where initialize_from is no checkpoint, or the preset is unknown.
    """
    if config.initialize_from:
        return read_config(checkpoint_folder(config.initialize_from))
    return preset(config.preset)


def require_suited(config: TrainConfig, base: Any) -> None:
    """Raises CheckpointError where the stage can't train a policy of a configuration.

    base: of the policy that initialize_from or preset names.
    """
    kind, needs = policy_type(base.TYPE), objective_of(config).needs
    if config.stage == Adapt.name and not kind.takes_adapter:
        raise CheckpointError(
            f"{shown_path(config.initialize_from)} is of type {kind.name}, which takes no adapter: "
            "train it instead, by vla train and initialize_from"
        )
    if not (missing := [role for role in needs if role not in kind.roles]):
        return
    start, command = config.initialize_from, objective_of(config).command
    known = (OBJECTIVES[name] for name in OBJECTIVES.names())
    suited = [
        other.name
        for other in known
        if other.command == command and other.needs and kind.roles.keys() >= {*other.needs}
    ]
    raise CheckpointError(
        f"stage '{config.stage}' trains policies that have: {listed(needs)}; "
        f"{shown_path(start) if start else repr(config.preset)} is of type {kind.name} and lacks: "
        f"{listed(missing)}; "
        + (f"take one of the stages: {listed(suited)}" if suited else "take another policy")
    )
