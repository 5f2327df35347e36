"""The model that a run trains, with the weights that it starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from torch import nn

from vla.contract.embodiment import EmbodimentContract
from vla.policies.base import PolicyType
from vla.policies.checkpoint import Checkpoint, build_model
from vla.policies.config import CheckpointError
from vla.policies.empty_weights import (
    draw_missing,
    empty_backbones,
    reserve,
    stored_tensors,
    without_weights,
)
from vla.policies.loaded import Allowed, Loaded, matches, random_text, require_fit
from vla.policies.registry import policy_type
from vla.policies.roles import BACKBONE, EXPERTS, QUERIES, role_of
from vla.training.config import TrainConfig
from vla.training.objectives.base import Objective
from vla.training.objectives.registry import objective_of

# Roles that a start without the skill to act may have.
_BEFORE_ACTING = (BACKBONE, EXPERTS, QUERIES)


def started_model(
    config: TrainConfig,
    built: Any,
    contract: EmbodimentContract,
    start: Checkpoint | None,
    say: Callable[[str], None],
) -> nn.Module:
    """A model with the weights of its start, of which no second copy is made.

    built: its configuration. start: what open_start gives. say: is told what was loaded, what
    stays random and what was left over. Raises CheckpointError where that is more than the entries
    allow_missing and allow_unexpected allow, and nobody expects it.
    """
    kind = policy_type(built.TYPE)
    released = start is None and bool(config.backbone)
    waits = start is not None or (released and config.pretrained)
    with empty_backbones() if waits else nullcontext():
        model = build_model(built, contract)
    sources: list[tuple[str, Loaded]] = []
    if start is not None:
        sources.append(("initialize_from", kind.start_from(model, start)))
    elif released:
        source = config.backbone_source if config.pretrained else None
        sources.append((f"backbone {config.backbone}", kind.load_backbone(model, source)))
    if config.vision_source:
        sources.append(("vision_source", kind.load_vision(model, config.vision_source)))
    draw_missing(model)
    given = [loaded for _, loaded in sources]
    for title, loaded in sources:
        say(f"{title}: {loaded.text()}")
    random = random_weights(model, given)
    say(random_text(random) if sources else f"no start: {random_text(random).lstrip()}")
    require_expected(config, built, given, random if waits else {})
    return model


def waiting_model(built: Any, contract: EmbodimentContract) -> nn.Module:
    """The model of a process that is given its weights by the first one; see share_weights.

    built: its configuration.
    """
    with without_weights():
        model = build_model(built, contract)
    reserve(model)
    return model


def random_weights(model: nn.Module, sources: list[Loaded]) -> dict[str, int]:
    """Parameters of the model's weights that no source filled, by name."""
    own = stored_tensors(model)
    # One that is tied to another is stored once.
    filled = {id(own[name]) for loaded in sources for name in loaded.taken}
    return {name: value.numel() for name, value in own.items() if id(value) not in filled}


def require_expected(
    config: TrainConfig, built: Any, sources: list[Loaded], random: Mapping[str, int]
) -> None:
    """Raises CheckpointError where sources left over or lack what nobody expects.

    built: the model's configuration. random: its weights that no source gave. New LoRA experts are
    expected; so is a new second part, or head, on a vision-language model that has not learned to
    act. Where the stage needs more, or a pretrained encoder would be random, it is refused.
    """
    kind, given = policy_type(built.TYPE), objective_of(config).given
    allowed = Allowed(tuple(config.allow_missing), tuple(config.allow_unexpected))
    path = kind.vision_path(built)
    vision = (path,) if path else ()
    names = {name for loaded in sources for name in loaded.taken}
    acts = any(
        role_of(kind, name) not in _BEFORE_ACTING and not matches(name, vision) for name in names
    )

    def needed(name: str) -> bool:
        role = role_of(kind, name)
        if role == EXPERTS:
            return role in given
        return acts or role == BACKBONE or role in given or matches(name, vision)

    missing = [name for name in random if needed(name)]
    unseeing = [name for name in missing if matches(name, vision)]
    if len(unseeing) == len(missing) > 0 and not all(matches(n, allowed.missing) for n in unseeing):
        raise CheckpointError(
            f"{path}, which is pretrained as published, would start at random: give vision_source, "
            f"or name {path} in allow_missing"
        )
    left_over = [name for loaded in sources for name in loaded.left_over]
    require_fit("this run", missing, left_over, allowed=allowed)


def choose_trained(objective: Objective, kind: PolicyType[Any, Any], model: nn.Module) -> None:
    """Changes a model as a stage needs it, and freezes what it does not train.

    Raises CheckpointError where the stage trains nothing of it.
    """
    objective.prepare(kind, model)
    trained = objective.trained(kind, model)
    if not trained:
        raise CheckpointError(
            f"stage '{objective.name}' trains nothing of this policy of type {kind.name}; take "
            "another stage, or another preset"
        )
    for name, parameter in model.named_parameters():
        # What the model has frozen for good stays so.
        parameter.requires_grad_(parameter.requires_grad and name in trained)
