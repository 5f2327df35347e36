"""The first layers of a language model alone, of every kind of backbone."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from tiny_backbones import CONFIGS, RELEASED, close, hidden_states, save_released, scene
from tiny_checkpoint import save_tiny_checkpoint
from tiny_robovlm import tiny

from vla.policies.backbones import build_backbone
from vla.policies.backbones.pretrained import backbone_config, load_pretrained
from vla.policies.config import CheckpointError, LoraConfig
from vla.policies.robovlms.config import MixtureConfig
from vla.policies.robovlms.mixture import MixtureHead


def layers_behind(backbone, keep: int) -> list[torch.nn.Module]:
    """The decoder's layers from that one on, and what stands before them."""
    behind = backbone.layers[keep:]
    if backbone.config.kind == "idefics":
        model = backbone.model.model
        behind += [*model.gated_cross_attn_layers][-(-keep // model.config.cross_layer_interval) :]
    return behind


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_what_is_kept_computes_as_if_the_others_passed_everything_on(name):
    """Each layer behind those that are kept is replaced by one that changes nothing."""
    torch.manual_seed(0)
    whole = build_backbone(CONFIGS[name]).eval()
    cut = build_backbone(replace(deepcopy(CONFIGS[name]), keep_layers=1)).eval()
    weights = whole.state_dict()
    kept = {key: weights[key] for key in cut.state_dict()}
    cut.load_state_dict(kept)
    assert len(cut.layers) == 1 and len(whole.layers) == 2
    gone = sum(p.numel() for part in layers_behind(whole, 1) for p in part.parameters())
    count, counted = (sum(p.numel() for p in part.parameters()) for part in (cut, whole))
    assert count == counted - gone
    inputs = scene(CONFIGS[name])

    def skipped(layer, given, named, output):
        hidden = given[0] if given else named["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    changed = hidden_states(whole, *inputs)
    for layer in layers_behind(whole, 1):
        layer.register_forward_hook(skipped, with_kwargs=True)
    expected = hidden_states(whole, *inputs)
    assert not torch.allclose(changed, expected)
    close(hidden_states(cut, *inputs), expected)


@pytest.mark.parametrize("name", RELEASED)
def test_released_weights_lose_the_dropped_layers_and_nothing_else(name, tmp_path):
    source = save_released(tmp_path, name)
    config = backbone_config(CONFIGS[name].kind, source, keep_layers=1)
    assert config.keep_layers == 1
    cut = build_backbone(config, LoraConfig(("action",), rank=2))
    load_pretrained(cut, source)
    torch.manual_seed(4)
    whole = build_backbone(CONFIGS[name]).model.state_dict()
    own = {n.replace(".base.", "."): v for n, v in cut.model.state_dict().items()}
    own = {name: value for name, value in own.items() if ".lora_" not in name}
    assert whole.keys() - own.keys() == {n for n in whole if n.startswith(cut.dropped)}
    for key, value in own.items():
        assert torch.equal(value, whole[key]), key


def test_weights_that_lack_a_kept_layer_or_have_others_are_refused(tmp_path):
    source = save_released(tmp_path, "internvl")
    tiny = CONFIGS["internvl"]
    longer = tiny.architecture["text_config"] | {"num_hidden_layers": 3}
    config = replace(tiny, architecture=tiny.architecture | {"text_config": longer}, keep_layers=3)
    with pytest.raises(CheckpointError, match=r"do not fit this backbone, .*layers\.2\."):
        load_pretrained(build_backbone(config), source)
    shorter = tiny.architecture["text_config"] | {"num_hidden_layers": 1}
    config = replace(tiny, architecture=tiny.architecture | {"text_config": shorter}, keep_layers=1)
    with pytest.raises(CheckpointError, match=r"do not fit this backbone, .*layers\.1\."):
        load_pretrained(build_backbone(config), source)
    with pytest.raises(CheckpointError, match=r"keep_layers is 3, but the language model has 2"):
        build_backbone(replace(tiny, keep_layers=3))


def test_the_backbone_of_a_checkpoint_can_be_cut_again_but_not_grow(tmp_path):
    sizes = tiny("one_step")
    text = sizes.backbone.architecture["text_config"] | {"num_hidden_layers": 3}
    architecture = sizes.backbone.architecture | {"text_config": text}
    own = replace(sizes.backbone, architecture=architecture, keep_layers=2)
    folder = str(save_tiny_checkpoint(tmp_path / "cut", config=replace(sizes, backbone=own)))
    assert backbone_config("checkpoint", folder).keep_layers == 2
    config = backbone_config("checkpoint", folder, keep_layers=1)
    cut, same = build_backbone(config), build_backbone(backbone_config("checkpoint", folder))
    for backbone in (cut, same):
        load_pretrained(backbone, folder)
    assert (len(cut.layers), len(same.layers)) == (1, 2)
    for left, right in zip(cut.layers[0].parameters(), same.layers[0].parameters(), strict=True):
        assert torch.equal(left, right)
    with pytest.raises(CheckpointError, match=r"keeps 2 layers .* fewer than .*keep_layers 3"):
        backbone_config("checkpoint", folder, keep_layers=3)


def test_a_mixture_of_experts_is_as_deep_as_what_is_kept():
    backbone = build_backbone(replace(CONFIGS["internvl"], keep_layers=1))
    config = tiny("one_step")
    head = MixtureHead(backbone, MixtureConfig(32, 48), 4, (False,), None, config.loss)
    assert len(head.expert.decoder.layers) == 1
