"""A blank image, as many processes need it: nothing changes, and what sees takes part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from masked_samples import frames, masked, stats_of
from test_masked_instructvla import EXPERTS
from test_masked_instructvla import batch_of as instructvla_batch
from test_masked_instructvla import tiny as tiny_instructvla
from test_masked_robovlms import VARIANTS, randomise, samples_of
from test_masked_robovlms import batch_of as robovlm_batch
from tiny_checkpoint import SENTENCES
from tiny_la4vla import tiny as tiny_la4vla
from tiny_robovlm import PLAIN

from vla.datasets.sample import Conversation
from vla.policies.backbones import KINDS
from vla.policies.checkpoint import build_model
from vla.policies.collation import CollationOptions, SeeingBatch
from vla.policies.instructvla.collation import InstructVLACollator
from vla.policies.la4vla.collation import LA4VLACollator
from vla.policies.tokenizer import train_tokenizer


def learned(model, batch) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses by name, and the gradients of what has some."""
    model.zero_grad()
    losses = model(batch, generator=torch.Generator().manual_seed(0))
    sum(loss for name, loss in losses.items() if loss.requires_grad).backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, grads


def require_unchanged(model, masked_batch, seeing_batch) -> None:
    """A blank image changes neither loss nor gradient, and gives what sees zeros."""
    assert isinstance(masked_batch, SeeingBatch)
    assert not masked_batch.sees and seeing_batch.sees and masked_batch.with_blank().sees
    model.eval()  # without dropout
    losses, grads = learned(model, masked_batch)
    same, with_blank = learned(model, masked_batch.with_blank())
    assert same.pop("grounding", 0) == 0
    assert losses.keys() == same.keys()
    assert all(torch.equal(loss, same[name]) for name, loss in losses.items())
    assert all(torch.equal(grad, with_blank[name]) for name, grad in grads.items())
    reached = with_blank.keys() - grads.keys()
    assert reached and not any(with_blank[name].any() for name in reached)
    # Sharded training gathers and adds up what has gradients: on all processes the same.
    assert with_blank.keys() == learned(model, seeing_batch)[1].keys()


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("expert", EXPERTS)
def test_instructvla(contract, expert, rows):
    torch.manual_seed(0)
    model, samples = build_model(tiny_instructvla(expert), contract), frames(contract, places=True)
    batches = [
        instructvla_batch(model, masked(samples, [see] * 4)[:rows], contract, grounding=True)
        for see in (0, 1)
    ]
    require_unchanged(model, *batches)


def test_conversations_of_instructvla(contract):
    torch.manual_seed(0)
    model = build_model(tiny_instructvla(), contract)
    tokenizer = train_tokenizer(SENTENCES, model.config.backbone.vocabulary)
    collator = InstructVLACollator(model.config, tokenizer, CollationOptions(PLAIN))
    batches = [
        collator.conversation_batch(
            [Conversation(images, ((SENTENCES[2], "a can ."),), source="talk")],
            np.random.default_rng(0),
        )
        for images in ((), (np.full((48, 60, 3), 90, np.uint8),))
    ]
    require_unchanged(model, *batches)


# Of the heads, those that read images in ways of their own; and all backbones.
@pytest.mark.parametrize(
    "name", ["discrete", "mixture, flow", "pointing", "resampler", "all pooled", *KINDS]
)
def test_robovlms(contract, name):
    torch.manual_seed(0)
    model = build_model(VARIANTS.get(name, VARIANTS["lstm"]), contract)
    randomise(model)
    batches = [
        robovlm_batch(model, masked(samples_of(model, contract), [see] * 4), contract, True)
        for see in (0, 1)
    ]
    require_unchanged(model, *batches)


def test_la4vla(contract):
    torch.manual_seed(0)
    model = build_model(tiny_la4vla(), contract)
    tokenizer = train_tokenizer(SENTENCES, model.config.backbone.vocabulary)
    collator = LA4VLACollator(model.config, tokenizer, CollationOptions(PLAIN))
    batches = [
        collator.robot_batch(
            masked(frames(contract), [see] * 4), [stats_of(contract)] * 4, np.random.default_rng(0)
        )
        for see in (0, 1)
    ]
    require_unchanged(model, *batches)
