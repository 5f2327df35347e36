"""Samples without vision: nothing of an image reaches them, whatever stands beside them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_checkpoint import save_tiny_checkpoint
from tiny_la4vla import WORDS, batch_of, samples_of, seeded, tiny
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from vla.policies.backbones import KINDS
from vla.policies.base import Observation
from vla.policies.config import CheckpointError
from vla.policies.la4vla.policy import POLICY
from vla.policies.la4vla.sequence import prompt_ids
from vla.policies.parts import ReasoningPart
from vla.policies.plain_text import TextTokenizer
from vla.policies.sequence import IMAGE

MIXES = [(True, True, True), (True, False, True), (False, True, False), (False, False, False)]


@pytest.fixture(scope="module")
def part_of(tmp_path_factory):
    """Opens an LA4VLA of a configuration, made once, in which every weight matters."""
    parts = {}

    def make(config) -> ReasoningPart:
        if (key := repr(config)) not in parts:
            folder = tmp_path_factory.mktemp("la4vla") / "tiny"
            parts[key] = ReasoningPart.from_pretrained(save_tiny_checkpoint(folder, config=config))
            for weight in parts[key].model.head.parameters():
                torch.nn.init.normal_(weight, std=0.3, generator=seeded(1))
        return parts[key]

    return make


@contextmanager
def vision_calls(part):
    """A list that grows by one with each call of the vision encoder."""
    calls: list[int] = []
    encoder = part.model.backbone.vision_parts["vision encoder"]
    handle = encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


@torch.no_grad()
def velocities(part, samples) -> torch.Tensor:
    """Velocities [B, 2 H, A] at two times, from the same noise for all rows."""
    model, count = part.model, len(samples)
    given = batch_of(part, samples).given
    context = model.read(given, model.encode(given))
    noise = torch.randn(model.head.shape, generator=seeded()).expand(count, -1, -1)
    found = [model.head.velocity(context, noise, torch.full((count,), t)) for t in (0.0, 0.5)]
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_exchanged_pixels_change_no_masked_row_and_all_others(part_of, contract, kind, mix):
    part = part_of(tiny(kind))
    with vision_calls(part) as calls:
        first, other = (velocities(part, samples_of(contract, mix, pixels)) for pixels in (0, 1))
    for row, masked in enumerate(mix):
        assert torch.equal(first[row], other[row]) == masked, row
    assert (len(calls) == 0) == all(mix)
    # Alone or beside others, which may make a row longer.
    samples = samples_of(contract, mix)
    for row, sample in enumerate(samples):
        torch.testing.assert_close(velocities(part, [sample])[0], first[row], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_causal_decoder_needs_no_mask_of_padding(part_of, contract, kind, monkeypatch):
    """Its losses and gradients are those with one."""
    model = part_of(tiny(kind)).model
    batch = batch_of(part_of(tiny(kind)), samples_of(contract, (True, False, False)))
    assert not batch.given.mask.all()
    found = []
    for given in (model.backbone.takes_masks_as_given, False):
        monkeypatch.setattr(type(model.backbone), "takes_masks_as_given", given)
        model.zero_grad()
        loss = model(batch, 2, seeded())["action"]
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mix", MIXES)
def test_masked_rows_have_no_gradient_to_vision_and_all_of_them_train(part_of, contract, mix):
    part = part_of(tiny())
    model, batch = part.model, batch_of(part, samples_of(contract, mix))
    model.train()
    with vision_calls(part) as calls:
        losses = model(batch, 2, seeded())
    model.zero_grad()
    losses["action"].backward()
    model.eval()
    assert losses["action"].isfinite()
    assert losses.get("masked_share", torch.tensor(0.0)).item() == pytest.approx(np.mean(mix))
    vision = model.backbone.vision_parts.values()
    reached = [p.grad is not None and bool(p.grad.any()) for m in vision for p in m.parameters()]
    assert any(reached) == any(not masked for masked in mix) == bool(calls)
    assert all(p.grad.any() for p in model.head.layers[0].parameters() if p.ndim > 1)


def test_only_rows_that_see_reach_the_vision_encoder(part_of, contract):
    """The gradient of the masked rows' own losses is zero in every part of the vision."""
    part = part_of(tiny())
    model = part.model
    batch = batch_of(part, samples_of(contract, (True, False, True)))
    for row, masked in enumerate((True, False, True)):
        model.zero_grad()
        batch.steps[:] = False
        batch.steps[row] = True
        model(batch, 1, seeded())["action"].backward()
        for module in model.backbone.vision_parts.values():
            for weight in module.parameters():
                assert not (masked and weight.grad is not None and weight.grad.any())
        found = next(iter(model.backbone.vision_parts["connector"].parameters())).grad
        assert bool(found.any()) != masked


def test_a_masked_sequence_is_the_instruction_alone(part_of, contract):
    part = part_of(tiny())
    given = batch_of(part, samples_of(contract, (True, False, True))).given
    tokenizer = TextTokenizer(part._tokenizer._tokenizer)
    for row, text in enumerate(WORDS):
        tokens = given.ids[row][given.mask[row] == 1].tolist()
        if row == 1:
            assert tokens.count(IMAGE) == 2 * part.config.backbone.image_tokens
        else:
            assert tokens == tokenizer.encode("", text)
    assert len(given.images) == 2
    context = part.model.read(given, part.model.encode(given))
    assert context.mask[:, 0, 0].sum(1).tolist() == (given.mask.sum(1) + 1).tolist()


@torch.no_grad()
def test_padding_of_states_and_actions_is_not_read(part_of, contract):
    part = part_of(tiny())
    batch = batch_of(part, samples_of(contract, (True, False)))
    expected = part.model(batch, 1, seeded())
    size = len(contract.state_names)
    assert batch.given.state.shape == (2, 24) and not batch.given.state[:, size:].any()
    batch.given.state[:, size:] = 1e5
    batch.actions[:, :, len(contract.action_names) :] = -1e5
    found = part.model(batch, 1, seeded())
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    batch.given.state[:, 0] += 1
    assert part.model(batch, 1, seeded())["action"] != expected["action"]


@pytest.mark.slow
@torch.no_grad()
def test_the_published_mask_lets_vision_through(part_of, contract):
    """The language model's text does not see the images, but the head reads their places."""
    part = part_of(replace(tiny(), mask="attention_only"))
    given = [batch_of(part, samples_of(contract, (False,), pixels)).given for pixels in (0, 1)]
    assert torch.equal(given[0].ids, given[1].ids)
    first, other = (part.model.read(entry, part.model.encode(entry)) for entry in given)
    is_image = given[0].ids[0] == IMAGE
    keys = [context.layers[0][0][0, :, :-1] for context in (first, other)]  # [heads, T, d]
    assert torch.equal(keys[0][:, ~is_image], keys[1][:, ~is_image])
    assert not torch.isclose(keys[0][:, is_image], keys[1][:, is_image]).all(-1).any()
    assert first.mask.all()
    leaks = [velocities(part, samples_of(contract, (False,), pixels)) for pixels in (0, 1)]
    assert (leaks[0] - leaks[1]).abs().max() > 1e-3
    with pytest.raises(CheckpointError, match=r"cannot do without them; give it some, or set mod"):
        batch_of(part, samples_of(contract, (True,)))
    assert "cannot do without" in POLICY.needs_images(part.config)
    assert POLICY.needs_images(tiny()) == ""


def test_it_acts_with_and_without_images(part_of, contract):
    part = part_of(tiny())
    sample, other = (samples_of(contract, (False,), pixels)[0] for pixels in (0, 1))

    def act(images, state=sample.state, words=WORDS[0]):
        return part.act(Observation(images, state), words, seed=3)

    with vision_calls(part) as calls:
        seen, unseen = act(sample.images), act({})
    assert len(calls) == 1
    assert seen.shape == unseen.shape == (contract.horizon, len(contract.action_names))
    np.testing.assert_array_equal(act({}), unseen)
    changes = act(other.images), seen
    for one, another in (changes, (seen, unseen), (act({}, words=WORDS[1]), unseen)):
        assert not np.allclose(one, another)
    assert not np.allclose(act({}, sample.state + 0.3), unseen)
    shown = part.head_input()
    assert shown.shape[1] == part.config.backbone.width and np.isfinite(shown).all()
    act({}, words=WORDS[1])
    assert not np.array_equal(part.head_input(), shown), "of the words that were read last"
    blank = act({}, words=" ")
    assert np.isfinite(blank).all() and not np.allclose(blank, unseen)
    with pytest.raises(ValueError, match="no image of camera 'wrist'"):
        act({"front": sample.images["front"]})
    for call in (part.ask, part.think):
        with pytest.raises(NotImplementedError, match="gives no text"):
            call(sample.images, "what is there?")


def test_what_training_sees_is_what_acting_sees(part_of, contract):
    for masked in (True, False):
        part = part_of(tiny())
        (sample,) = samples_of(contract, (masked,))
        given = batch_of(part, [sample]).given
        acting = part._input(Observation(sample.images, sample.state), sample.instruction)
        for name, value in vars(given).items():
            assert torch.equal(value, getattr(acting, name)), name


def test_the_prompt_is_the_published_one():
    """With InternVL's own marks, as its tokenizer reads the whole text at once."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["Image-1: \nImage-2: \nPick the Red block."] * 9, trainer)
    tokenizer.add_special_tokens(["<img>", "</img>", "#"])
    config = tiny()
    own = replace(config.backbone, chat=KINDS["internvl"].chat)
    config, image = replace(config, backbone=own), "<img>" + "#" * own.image_tokens + "</img>"
    for sees, views in ((True, f"Image-1: {image}\nImage-2: {image}\n"), (False, "")):
        ids = prompt_ids(TextTokenizer(tokenizer), config, " Pick the Red block.\n", sees)
        found = [tokenizer.token_to_id("#") if token == IMAGE else token for token in ids]
        assert found == tokenizer.encode(f"{views}Pick the Red block.").ids
