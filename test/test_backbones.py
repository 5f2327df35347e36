"""Every kind of backbone: against transformers itself, with caches, padding, LoRA experts, gates.

All kinds run in tiny configurations with random weights. What transformers does with the same
weights is the measure.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
from tiny_backbones import CONFIGS, close, hidden_states, scene, see, transformers_logits

from vla.policies.backbones import Backbone, build_backbone
from vla.policies.config import CheckpointError, LoraConfig
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.instructvla.reasoning import ReasoningModel
from vla.policies.lora import expert_weights, load_expert, lora_layers, merge_experts
from vla.policies.sequence import IGNORE, IMAGE, TextBatch

GATES = ("sum", "two_pass", "layer")
QUERIES = 3


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads wait for each other longer than these models take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


each_kind = pytest.mark.parametrize("name", CONFIGS)
each_gate = pytest.mark.parametrize("gate", GATES)


def lora(gate: str = "sum", experts: tuple[str, ...] = ("action", "language")) -> LoraConfig:
    return LoraConfig(
        experts, rank=4, alpha=8.0, dropout=0.0, targets=("q", "v", "o", "up", "down"),
        gate=gate, head_width=16, head_depth=2, head_dropout=0.0,
    )  # fmt: skip


@cache
def plain(name: str) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(CONFIGS[name]).eval()


def adapted(name: str, config: LoraConfig, random: bool = True) -> Backbone:
    backbone = deepcopy(plain(name))
    # Before the experts and their gate are drawn: the same ones each time.
    torch.manual_seed(1)
    backbone.add_experts(config)
    if random:
        randomise(backbone)
    return backbone.eval()


@torch.no_grad()
def randomise(module: torch.nn.Module) -> None:
    for layer in lora_layers(module).values():
        layer.lora_b.normal_(std=0.2)
        layer.lora_a.normal_(std=0.2)


# Against transformers


@each_kind
@torch.no_grad()
def test_scores_are_those_of_transformers(name):
    backbone, config = plain(name), CONFIGS[name]
    ids, images, prefix = scene(config)
    ours = backbone.logits(hidden_states(backbone, ids, images, prefix))
    close(ours, transformers_logits(backbone.model, config, ids, images, prefix))
    other = backbone.logits(hidden_states(backbone, ids, images.flip(0), prefix))
    assert (ours - other).abs().max() > 1e-2, "the images matter"


# Caches, padding


@pytest.mark.parametrize("gate", ["", *GATES])
@each_kind
@torch.no_grad()
def test_a_cache_gives_what_one_pass_gives(name, gate):
    backbone = adapted(name, lora(gate)) if gate else plain(name)
    ids, images, prefix = scene(CONFIGS[name], after=10)
    prefix[:, -6:] = False
    expected = hidden_states(backbone, ids, images, prefix)
    total, mask = ids.shape[1], torch.ones_like(ids)
    embeddings, memory = backbone.embed_text(ids.clamp(min=0)), backbone.new_cache()
    prompt = total - 6
    at = backbone.positions(ids[:, :prompt] == IMAGE, mask[:, :prompt])
    first = backbone.run(
        embeddings[:, :prompt], at, mask[:, :prompt], memory, prefix[:, :prompt],
        see(backbone, ids[:, :prompt], images),
    )  # fmt: skip
    parts, following = [first], int(at.max()) + 1
    for start, end in ((prompt, prompt + 1), (prompt + 1, prompt + 2), (prompt + 2, total)):
        count = end - start
        at = torch.arange(following, following + count).expand(len(ids), -1)
        following += count
        at = backbone.text_positions(at)
        parts.append(backbone.run(embeddings[:, start:end], at, mask[:, :end], memory))
    close(torch.cat(parts, dim=1), expected, 2e-5)


@each_kind
@torch.no_grad()
def test_rows_padded_on_the_left_are_rows_alone(name):
    backbone = adapted(name, lora("layer"))
    ids, images, prefix = scene(CONFIGS[name])
    padding = 4
    long = torch.nn.functional.pad(ids, (padding, 0))
    longer_prefix = torch.nn.functional.pad(prefix, (padding, 0))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (padding, 0))
    # PromptRow 0 has text where row 1 is padded.
    long[0, :padding], mask[0, :padding], longer_prefix[0, :padding] = 9, 1, True
    hidden = hidden_states(backbone, long, images, longer_prefix, mask)
    assert torch.isfinite(hidden).all(), "at the padding too"
    full = hidden_states(backbone, long[:1], images[:2], longer_prefix[:1])
    short = hidden_states(backbone, ids[1:], images[2:], prefix[1:])
    close(hidden[:1], full)
    close(hidden[1:, padding:], short)


# LoRA experts


@each_gate
@each_kind
@torch.no_grad()
def test_new_experts_change_nothing_and_taught_ones_do(name, gate):
    inputs = scene(CONFIGS[name])
    before = hidden_states(plain(name), *inputs)
    backbone = adapted(name, lora(gate), random=False)
    close(hidden_states(backbone, *inputs), before, 1e-6)
    randomise(backbone)
    after = hidden_states(backbone, *inputs)
    assert (after - before).abs().max() > 1e-2
    layers = len(lora_layers(backbone))
    assert layers == len(lora().targets) * len(backbone.layers), "every layer has its adapters"
    if gate != "sum":
        backbone.lora = lora("sum")
        for layer in backbone.layers:
            layer._forward_pre_hooks.clear()
        assert (hidden_states(backbone, *inputs) - after).abs().max() > 1e-2, "the gate matters"


@each_gate
@each_kind
def test_checkpointed_activations_give_the_same_gradients(name, gate):
    inputs = scene(CONFIGS[name])
    gradients, passes = [], []
    for checkpointed in (False, True):
        backbone = adapted(name, lora(gate)).train()
        for path, parameter in backbone.named_parameters():
            # All of the model under the first gate, its vision too; else what fine-tuning trains.
            parameter.requires_grad_(gate == "sum" or ".lora_" in path or "scale_head" in path)
        if checkpointed:
            backbone.checkpoint_activations()
        calls = []
        layer = next(iter(lora_layers(backbone).values()))
        layer.register_forward_hook(lambda *_, calls=calls: calls.append(torch.is_grad_enabled()))
        hidden_states(backbone, *inputs).pow(3).mean().backward()
        trained = {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}
        learning = {n for n, grad in trained.items() if grad.abs().max() > 0}
        mixture = {n for n, _ in backbone.named_parameters() if ".lora_" in n or "scale_head" in n}
        assert mixture <= learning
        gradients.append(trained)
        passes.append(sum(calls))
    assert passes == [1, 2], "the layer was run again"
    assert gradients[0].keys() == gradients[1].keys()
    assert any("scale_head" in n for n in gradients[0]) == (gate != "sum")
    for path, gradient in gradients[0].items():
        close(gradients[1][path], gradient, 1e-4)


@each_kind
@torch.no_grad()
def test_experts_are_merged_kept_dropped_and_carried_over(name):
    inputs = scene(CONFIGS[name])
    backbone = adapted(name, lora())
    taught = hidden_states(backbone, *inputs)
    merged = deepcopy(backbone)
    merge_experts(merged, [1.0, 1.0])
    assert not lora_layers(merged)
    close(hidden_states(merged, *inputs), taught, 1e-4)

    alone = adapted(name, lora(experts=("language",)))
    load_expert(alone, 0, expert_weights(backbone, 1))
    second = hidden_states(alone, *inputs)
    merge_experts(alone, [1.0])
    close(hidden_states(alone, *inputs), second)
    for layer in lora_layers(backbone).values():
        layer.resize(kept=[1], added=2)
    close(hidden_states(backbone, *inputs), second)
    assert {len(layer.lora_a) for layer in lora_layers(backbone).values()} == {3}
    with pytest.raises(CheckpointError, match="the adapter is of another model"):
        load_expert(backbone, 0, {})


# The reasoning model on top


def reasoning(name: str, gate: str) -> ReasoningModel:
    torch.manual_seed(3)
    config = InstructVLAConfig(num_queries=QUERIES, backbone=CONFIGS[name], lora=lora(gate))
    model = ReasoningModel(config)
    randomise(model)
    return model.eval()


@each_kind
def test_the_text_loss_and_the_latent_action_reach_the_queries(name):
    model, config = reasoning(name, "two_pass"), CONFIGS[name]
    ids, images, prefix = scene(config)
    queries = torch.arange(config.vocabulary, config.vocabulary + QUERIES).expand(len(ids), -1)
    start = ids.shape[1]
    ids = torch.cat([ids, queries, torch.full((len(ids), 1), 7)], dim=1)
    labels = torch.where(torch.nn.functional.pad(prefix, (0, QUERIES + 1)), IGNORE, ids)
    batch = TextBatch(ids, torch.ones_like(ids), labels, torch.tensor([start, -1]))
    latent, loss, *_ = model(images, batch)
    assert latent.shape == (1, QUERIES, config.width)
    (loss + latent.pow(2).mean()).backward()
    for parameter in (model.query_embedding, model.query_output):
        assert parameter.grad.isfinite().all() and (parameter.grad != 0).any(dim=1).all()


@each_gate
@each_kind
def test_thinking_then_acting_on_one_cache_is_acting_at_once(name, gate):
    model, config = reasoning(name, gate), CONFIGS[name]
    ids, images, _ = scene(config)
    ids[1, :2] = 0
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    reading = model.read(images, ids, mask)
    said = torch.tensor(model.generate(reading, set(), 4))
    assert said.shape == (2, 4)
    thought = model.latent_action(reading)
    queries = torch.arange(config.vocabulary, config.vocabulary + QUERIES).expand(2, -1)
    more = 4 + QUERIES
    at_once = model.act(
        images,
        torch.cat([ids, said, queries], dim=1),
        torch.nn.functional.pad(mask, (0, more), value=1),
        prefix=torch.nn.functional.pad(mask.bool(), (0, more)),
    )
    close(thought, at_once, 2e-5)


# What is refused


@each_kind
def test_sizes_that_do_not_fit_are_named(name):
    config = CONFIGS[name]
    with pytest.raises(CheckpointError, match="but vocabulary and width say 321 and 32"):
        build_backbone(replace(config, vocabulary=321))
    backbone = build_backbone(replace(config, image_tokens=99))
    with pytest.raises(CheckpointError, match="but image_tokens says 99"):
        backbone.encode_images(scene(config)[1])
    absent = replace(lora(), targets=("q", "memory"))
    with pytest.raises(CheckpointError, match="has no memory; it has: q"):
        build_backbone(config, absent)


@torch.no_grad()
def test_experts_are_added_and_dropped_with_their_gate():
    inputs = scene(CONFIGS["internvl"])
    backbone = adapted("internvl", lora("sum"))
    names = backbone.lora.experts
    before = hidden_states(backbone, *inputs)
    backbone.change_experts((*names, "tools"))
    assert backbone.lora.experts == (*names, "tools")
    close(hidden_states(backbone, *inputs), before)
    backbone.change_experts(names)
    close(hidden_states(backbone, *inputs), before)

    gated = adapted("internvl", lora("layer"))
    weight = gated.scale_head.layers[-1].weight.clone()
    before = hidden_states(gated, *inputs)
    gated.change_experts((*names, "tools"))
    assert torch.equal(gated.scale_head.layers[-1].weight[:2], weight)
    shares = gated.scale_head(torch.randn(3, gated.config.width))
    assert shares.shape == (3, 3) and (shares > 0).all()
    gated.change_experts(names)
    close(hidden_states(gated, *inputs), before)


def test_impossible_changes_of_experts_are_refused():
    with pytest.raises(CheckpointError, match="has no LoRA experts; add some first"):
        deepcopy(plain("internvl")).change_experts(("action",))
    gated = adapted("internvl", lora("two_pass"))
    with pytest.raises(CheckpointError, match="needs two experts; merge them instead"):
        gated.change_experts(gated.lora.experts[:1])
    with pytest.raises(CheckpointError, match="new experts come behind those that stay"):
        gated.change_experts(("tools", *gated.lora.experts))
