"""What RoboVLMs' backbones read, in each structure on each backbone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_robovlm import PLAIN, STEP, STRUCTURES, batch_of, ids_of, observation, tiny, trained_chunk

from vla.datasets.sample import Conversation, RobotSample
from vla.policies.backbones import KINDS
from vla.policies.collation import CollationOptions
from vla.policies.heads.action_tokens import ActionTokens
from vla.policies.robovlms.collation import RoboVLMCollator
from vla.policies.robovlms.sequence import LEARNED, STATE, rows_of_frames
from vla.policies.sequence import tidy


@pytest.mark.parametrize(
    ("kind", "structure"),
    [
        (kind, structure)
        for kind in KINDS
        for structure in STRUCTURES
        if not (KINDS[kind].attends and structure == "interleaved")
    ],
)
def test_every_structure_learns_on_every_backbone(part_of, structure, kind):
    part = part_of(tiny(structure, kind))
    frames = [observation(index) for index in range(part.config.structure.window)]
    batch = batch_of(part, frames)
    losses = part.model(batch)
    loss = losses["tokens" if structure == "discrete" else "action"]
    part.model.zero_grad()
    loss.backward()
    learning = {
        name.split(".")[0]
        for name, weight in part.model.named_parameters()
        if weight.grad is not None and weight.grad.abs().sum() > 0
    }
    tokens = (
        {"row_embedding", "row_output"} if structure == "discrete" else {"action_token", "head"}
    )
    assert learning == {"backbone"} | tokens
    part.model.zero_grad()


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["one_step", "interleaved", "policy_head"])
def test_batch_mates_and_padding_change_nothing(part_of, structure):
    part = part_of(tiny(structure, use_state=True))
    model, window = part.model, part.config.structure.window
    options = CollationOptions(augmentation=PLAIN)
    collator = RoboVLMCollator(part.config, part._tokenizer._tokenizer, options)

    def sample(seed: int, frames: int, instruction: str) -> RobotSample:
        shown = [observation(seed + index) for index in range(frames)]
        zeros = np.zeros((part.contract.horizon, 7), np.float32)
        made = [RobotSample(f.images, f.state, zeros, instruction) for f in shown]
        return replace(made[-1], past=tuple(made[:-1]))

    @torch.no_grad()
    def features(*samples: RobotSample) -> torch.Tensor:
        batch = collator.robot_batch(
            samples, [part._stats] * len(samples), np.random.default_rng(0)
        )
        return model.frame_features(
            batch.rows, model.encode_images(batch.images), batch.frames.state
        )

    short = sample(0, 1, "pick the red block")
    long = sample(20, window, "put the can that is red in the bowl")
    together = features(short, long)
    np.testing.assert_allclose(together[:1], features(short), atol=1e-5)
    np.testing.assert_allclose(together[1:], features(long), atol=1e-5)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", [k for k in KINDS if not KINDS[k].attends])
def test_a_causal_decoder_needs_no_mask_of_padding(part_of, kind, structure, monkeypatch):
    """Its losses and gradients are those with one."""
    part = part_of(tiny(structure, kind))
    model = part.model
    collator = RoboVLMCollator(
        part.config, part._tokenizer._tokenizer, CollationOptions(augmentation=PLAIN)
    )
    frame = observation(0)
    zeros = np.zeros((part.contract.horizon, 7), np.float32)
    samples = [
        RobotSample(frame.images, frame.state, zeros, words)
        for words in ("pick the red block", "put the can that is red in the bowl")
    ]
    batch = collator.robot_batch(samples, [part._stats] * 2, np.random.default_rng(0))
    assert not batch.rows.mask.all()
    found = []
    for given in (model.backbone.takes_masks_as_given, False):
        monkeypatch.setattr(type(model.backbone), "takes_masks_as_given", given)
        model.zero_grad()
        loss = model(batch)["tokens" if structure == "discrete" else "action"]
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_discrete_actions_are_decoded_to_the_last_step(part_of, monkeypatch):
    part = part_of(tiny("discrete"))
    assert part.act(observation(0), "pick the red block").shape == (part.contract.horizon, 7)
    # By the training pass, each token given those before it.
    tokens, prompt = part.model.tokens, ids_of(part, "pick the red block")
    row = rows_of_frames([prompt], [1], part.config)
    images = torch.from_numpy(
        np.stack([observation(0).images[name] for name in part.config.cameras])
    ).permute(0, 3, 1, 2)
    with torch.no_grad():
        encoded = part.model.encode_images(images)
        # The value 1 has a row of its own, so values alone do not tell which rows were chosen.
        chosen, decode = [], ActionTokens.decode
        monkeypatch.setattr(
            ActionTokens, "decode", lambda self, rows: chosen.append(rows) or decode(self, rows)
        )
        part.model.generate_actions(row, encoded, None)
        ids = torch.tensor([[*prompt, *chosen[0][0]]])
        mask, prefix = torch.ones_like(ids), torch.zeros_like(ids)
        prefix[:, : len(prompt)] = 1
        hidden = part.model.hidden_states(ids, mask, prefix, encoded, None)[:, len(prompt) - 1 : -1]
        allowed = torch.tensor(tokens.rows)
        guess = allowed[part.model.logits(hidden)[0][:, allowed].argmax(-1)]
    assert guess.tolist() == chosen[0][0].tolist()
    assert len(set(guess.tolist())) > 3, "the tokens before matter"


def test_the_learned_token_stands_behind_the_text(part_of):
    part = part_of(tiny("policy_head"))
    (ids,) = batch_of(part, [observation(0)]).rows.ids.tolist()
    assert ids[-1] == LEARNED and ids.count(LEARNED) == 1
    assert ids[:-1] == ids_of(part, "pick the red block")


@pytest.mark.parametrize("kind", ["internvl", "paligemma", "kosmos2"])
@pytest.mark.parametrize("layout", ["policy_head", "interleaved"])
def test_the_published_place_is_before_the_last_padded_position(part_of, layout, kind):
    structure = replace(STRUCTURES[layout], token_place="before_last", latent=2)
    part = part_of(tiny(layout, kind, structure=structure, use_state=True))
    short, long = (ids_of(part, text) for text in ("pick", "put the can in the bowl"))
    more = len(long) - len(short)
    rows = rows_of_frames([short, long], [1, 1], part.config)
    own = [STATE, LEARNED, LEARNED]
    assert rows.ids.tolist() == [
        [*short, *[0] * (more - 1), *own, 0],
        [*long[:-1], *own, long[-1]],
    ]
    assert rows.mask[0].tolist() == [1] * len(short) + [0] * (more - 1) + [1] * 3 + [0]
    assert rows.mask[1].all()
    # Streaming has no padding, and sees what training sees of texts of one length.
    frames = [observation(index, STEP * index) for index in range(4)]
    for frame in frames:
        streamed = part.act(frame, "pick the red block")
    np.testing.assert_allclose(streamed, trained_chunk(part, frames[1:]), atol=1e-6)

    @torch.no_grad()
    def features(prompts: list[list[int]]) -> torch.Tensor:
        count = len(prompts)
        shown = [*observation(0).images.values()] * count
        images = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)
        rows = rows_of_frames(prompts, [1] * count, part.config)
        tokens = part.model.encode_images(images)
        return part.model.frame_features(rows, tokens, torch.zeros(count, 10))

    # What else is in the batch counts, which it does not behind the text.
    assert (features([short, long])[0] - features([short])[0]).abs().max() > 1e-4
    torch.testing.assert_close(features([short, short])[0], features([short])[0])


def test_a_prompt_can_be_read_causally(part_of):
    """As published code runs PaliGemma: a later word changes nothing that was before it."""
    ids = torch.tensor([[5, 6, 7, 8]])
    changed = torch.tensor([[5, 6, 7, 9]])
    for both_ways in (True, False):
        structure = replace(STRUCTURES["one_step"], both_ways=both_ways)
        model = part_of(tiny("one_step", "paligemma", structure=structure)).model
        with torch.no_grad():
            first, second = (
                model.hidden_states(x, torch.ones_like(x), torch.ones_like(x), x[:0], None)
                for x in (ids, changed)
            )
        assert ((first - second)[:, :3].abs().max() > 1e-5) == both_ways


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("layout", ["policy_head", "discrete"])
def test_questions_are_answered_as_conversations_are_learned(part_of, layout):
    """Token by token on a cache, as whole passes over what training makes of the question give."""
    question, images = "what is on the table ?", observation(0).images
    part = part_of(tiny(layout, answers=True))
    options = CollationOptions(augmentation=PLAIN)
    collator = RoboVLMCollator(part.config, part._tokenizer._tokenizer, options)
    talk = Conversation((images["front"],), ((question, ""),))
    batch = collator.conversation_batch([talk], np.random.default_rng(0))
    tokens, rows = part.model.encode_images(batch.images), batch.rows
    ids, prefix = rows.ids[:, :-1], rows.prefix[:, :-1]
    chosen: list[int] = []
    for _ in range(60):
        hidden = part.model.hidden_states(ids, torch.ones_like(ids), prefix, tokens, None)[:, -1]
        best = part.model.logits(hidden)[:, : part.config.backbone.vocabulary].argmax(-1)
        if best == rows.ids[0, -1]:
            break
        chosen.append(int(best))
        ids = torch.cat([ids, best[:, None]], 1)
        prefix = torch.cat([prefix, prefix[:, :1] * 0], 1)
    assert part.ask(images, question) == tidy(part._tokenizer.decode(chosen)) and chosen
    with pytest.raises(NotImplementedError, match="gives no text"):
        part_of(tiny(layout)).ask(images, question)
