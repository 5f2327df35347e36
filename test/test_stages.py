"""Pairs of stage and policy: what is trained, what is exported, and which make no sense."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from linear_policy import LinearBatch

from vla.datasets.sources import ConversationData, RobotData
from vla.policies.checkpoint import build_model, open_checkpoint, read_weights
from vla.policies.config import AdapterConfig, CheckpointError, LoraConfig
from vla.policies.registry import policy_type, preset, presets
from vla.policies.roles import role_of
from vla.training import run
from vla.training.config import TrainConfig, TrainedParts
from vla.training.config_check import check_train_config
from vla.training.loop import Trainer, open_start
from vla.training.objectives.action import Action
from vla.training.objectives.registry import OBJECTIVES

ACTION = LoraConfig(("action",), rank=4, alpha=8.0)
BOTH = LoraConfig(("language", "action"), rank=4, alpha=8.0, gate="layer", head_width=8)
EXPERTS = r"\.lora_[ab]$|\.scale_head\."
NONE, ALL = r"(?!)", ""
ROBOVLM = {
    "structure": {"window": 2},
    "head": {"hidden": 32, "layers": 1, "widths": [32]},
    "resampler": {"tokens": 4, "depth": 1, "heads": 1, "head_width": 8},
    "pointing": {"width": 0},
}
BARE = TrainedParts(False, False, False, False, False)


@pytest.mark.parametrize(
    ("changes", "trained", "exported"),
    [
        ({"stage": "pretrain"}, r"^reasoning\.backbone\.", r"^reasoning\."),
        ({"stage": "action", "lora": ACTION}, rf"^expert\.|{EXPERTS}|\.query_", ALL),
        ({"stage": "action", "lora": BOTH}, rf"^expert\.|{EXPERTS}|\.query_", ALL),
        ({"stage": "instruct", "lora": BOTH}, rf"{EXPERTS}|\.query_", ALL),
        ({"stage": "adapt", "adapter": AdapterConfig(rank=2)}, r"\.lora_[ab]$", r"\.lora_[ab]$"),
        ({"stage": "policy"}, ALL, ALL),
        ({"stage": "policy", "preset": "nano_discrete", "model": {}}, ALL, ALL),
        ({"stage": "policy", "trains": BARE, "lora": BOTH}, rf"^(action|head)|{EXPERTS}", ALL),
        (
            {"stage": "policy", "trains": TrainedParts(language=False, embeddings=False)},
            r"^(?!.*\.language_model\.)",
            ALL,
        ),
        (
            {"stage": "policy", "trains": TrainedParts(vision=False, last_layers=1)},
            r"^(?!.*(\.vision_tower\.|\.language_model\.layers\.[012]\.))",
            ALL,
        ),
    ],
)
def test_each_stage_trains_and_exports_its_own(contract, checkpoint, changes, trained, exported):
    config = TrainConfig(preset="test")
    if changes["stage"] == "policy":
        config = replace(config, preset="nano_policy_head", model=ROBOVLM)
    elif changes["stage"] != "pretrain":
        config = replace(config, initialize_from=str(checkpoint))
    config = replace(config, **changes)
    trainer = Trainer(config, contract, open_start(config))
    model = trainer.plain_model
    learns = {name: p.requires_grad for name, p in model.named_parameters()}
    assert any(learns.values())
    assert learns == {name: bool(re.search(trained, name)) for name in learns}
    weights = trainer.weights()
    assert weights.keys() == {n for n in model.state_dict() if re.search(exported, n)}
    assert any("scale_head" in name for name in weights) == (config.lora is BOTH)


def test_the_action_expert_stays_in_evaluation_mode_where_it_is_frozen(contract, checkpoint):
    config = TrainConfig("instruct", "test", lora=BOTH, initialize_from=str(checkpoint))
    trainer = Trainer(config, contract, open_start(config))
    trainer.train_step({})
    for name, module in trainer.plain_model.named_modules():
        assert module.training != bool(re.match(r"expert(\.|$)", name)), name


@pytest.mark.parametrize("name", ["test", *(n for n in presets() if n.startswith("nano"))])
def test_every_weight_of_a_shipped_policy_has_a_role(contract, name):
    kind, config = policy_type(preset(name).TYPE), preset(name)
    with torch.device("meta"):
        model = build_model(config, contract)
    assert all(role_of(kind, weight) for weight in model.state_dict())


# Pairs that make no sense


@pytest.fixture
def config(dataset, tmp_path) -> TrainConfig:
    """Of whatever stage and preset."""
    return TrainConfig(
        robot=(RobotData(str(dataset)),),
        conversations=(ConversationData("talks"),),
        conversation_batch_size=2,
        output=str(tmp_path / "run"),
    )


UNSUITED = [
    ("pretrain", "nano_discrete", "backbone, action expert; 'nano_discrete' is of type robovlms"),
    ("pretrain", "nano_policy_head", r"lacks: action expert; take one of the stages: policy$"),
    ("pretrain", "linear", "lacks: backbone, action expert; take another policy$"),
    ("policy", "nano", r"action head; take one of the stages: action, full, instruct, pretrain$"),
    ("policy", "linear", "stage 'policy' trains policies that have: backbone, action head; 'lin"),
    ("action", "linear", "is of type linear and lacks: backbone, action queries, action expert"),
    ("action", "nano_one_step", "lacks: action queries, action expert"),
]


@pytest.mark.parametrize(("stage", "name", "says"), UNSUITED)
def test_a_stage_that_does_not_suit_the_policy_is_refused_at_once(
    config, contract, monkeypatch, stage, name, says
):
    lora = ACTION if stage == "action" else LoraConfig()
    config = replace(config, stage=stage, preset=name, lora=lora)
    monkeypatch.setattr(run, "make_data", lambda *_: pytest.fail("data is made"))
    for refused in (
        lambda: check_train_config(config),
        lambda: run.train_run(config, contract),
        lambda: Trainer(config, contract, None),
    ):
        with pytest.raises(CheckpointError, match=says):
            refused()


def test_the_policy_of_a_start_is_what_counts(config, contract, checkpoint, monkeypatch):
    monkeypatch.setattr(run, "make_data", lambda *_: pytest.fail("data is made"))
    config = replace(config, stage="policy", preset="nano_policy_head")
    check_train_config(replace(config, initialize_from="runs/of an earlier stage/checkpoint"))
    config = replace(config, initialize_from=str(checkpoint))
    with pytest.raises(CheckpointError, match="/tiny is of type instructvla and lacks"):
        run.train_run(config, contract)
    with pytest.raises(CheckpointError, match="/tiny is of type instructvla and lacks"):
        Trainer(config, contract, open_start(config))


class Everything(Action):
    """An objective of somebody else's that asks for no roles."""

    name = "everything"
    needs = trains = ()


class Nothing(Everything):
    """One of a role that nothing plays."""

    name = "nothing"
    trains = ("wheels",)


def test_an_objective_without_its_losses_or_parameters_is_refused(config, contract, monkeypatch):
    for kind in (Everything, Nothing):
        monkeypatch.setitem(OBJECTIVES._entries, kind.name, kind)
    config = replace(config, stage="everything", preset="linear")
    trainer = Trainer(config, contract, None)
    assert all(p.requires_grad for p in trainer.model.parameters())
    sizes = len(contract.state_names), contract.horizon, len(contract.action_names)
    batch = LinearBatch(torch.zeros(2, sizes[0]), torch.zeros(2, *sizes[1:]))
    with pytest.raises(CheckpointError, match=r"minimises text, flow, .* policy gives imitation"):
        trainer.train_step({"robot": batch})
    with pytest.raises(CheckpointError, match="stage 'nothing' trains nothing of this policy"):
        Trainer(replace(config, stage="nothing"), contract, None)


# Backbones drawn anew


def test_a_policy_of_two_parts_can_go_without_pretraining(contract, checkpoint):
    config = TrainConfig(
        "action", "test", lora=ACTION, backbone="checkpoint", backbone_source=str(checkpoint)
    )
    model = Trainer(replace(config, pretrained=False), contract, None).plain_model
    stored = read_weights(open_checkpoint(checkpoint))
    layers = 0
    for name, part in model.reasoning.backbone.model.named_modules():
        known = stored.get(f"reasoning.backbone.model.{name.removesuffix('.base')}.weight")
        if isinstance(part, torch.nn.Linear) and known is not None:
            assert not torch.equal(part.weight, known.float()), name
            assert part.weight.abs().max() <= (6 / sum(part.weight.shape)) ** 0.5, name
            layers += 1
    assert layers > 10
    words, queries = model.reasoning.backbone.words.weight, model.reasoning.query_embedding
    assert (queries.std() / words.std()).item() == pytest.approx(1.0, rel=0.3)
