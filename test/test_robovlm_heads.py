"""RoboVLMs' heads against torch's and transformers', their losses, their published sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from released_robovlms import HORIZON, Head
from tiny_robovlm import PLAIN, observation, tiny

from vla.datasets.sample import Conversation, RobotSample
from vla.policies.collation import CollationOptions
from vla.policies.heads.outputs import mean_of_valid
from vla.policies.registry import policy_type
from vla.policies.robovlms.build import build_model
from vla.policies.robovlms.collation import RoboVLMCollator
from vla.policies.robovlms.config import StructureConfig
from vla.policies.robovlms.conversion import own_names
from vla.policies.robovlms.model import PolicyHead


@pytest.mark.parametrize(
    ("structure", "output", "name"),
    [
        ("policy_head", "regression", "action"),
        ("policy_head", "flow", "action"),
        ("policy_head", "diffusion", "action"),
        ("discrete", "regression", "tokens"),
    ],
)
def test_steps_past_the_end_do_not_count(part_of, structure, output, name):
    part = part_of(tiny(structure, output=output))
    options = CollationOptions(augmentation=PLAIN)
    collator = RoboVLMCollator(part.config, part._tokenizer._tokenizer, options)
    seen, generator = observation(0), np.random.default_rng(0)
    chunk = generator.uniform(-0.01, 0.01, (part.contract.horizon, 7)).astype(np.float32)

    def loss(actions: np.ndarray, steps: int | None) -> float:
        sample = RobotSample(seen.images, seen.state, actions, "pick", steps=steps)
        batch = collator.robot_batch([sample], [part._stats], np.random.default_rng(0))
        draws = torch.Generator().manual_seed(0)
        return float(part.model(batch, generator=draws)[name].detach())

    other = chunk.copy()
    other[-3:] = -chunk[-3:]
    known = part.contract.horizon - 3
    assert loss(chunk, None) != pytest.approx(loss(other, None), rel=1e-3)
    if output == "regression":
        assert loss(chunk, known) == pytest.approx(loss(other, known), rel=1e-5)
        return
    # The noisy chunk's later steps are seen by the earlier ones, but are no target themselves.
    values = torch.arange(2.0 * 4 * 3).reshape(2, 4, 3)
    valid = torch.tensor([[True, True, False, False], [True, False, False, False]])
    assert mean_of_valid(values, valid) == values[valid].mean()


def test_conversations_are_learned_beside(part_of):
    part = part_of(tiny("policy_head"))
    collator = RoboVLMCollator(part.config, part._tokenizer._tokenizer, CollationOptions())
    image = observation(0).images["front"]
    talk = [
        Conversation((image,), (("what is on the table ?", "the red block"),)),
        Conversation((), (("pick the can", "the bowl"),)),
    ]
    for entries in (talk, talk[1:]):
        losses = part.model(collator.conversation_batch(entries, np.random.default_rng(0)))
        assert set(losses) == {"text", "text_accuracy"} and torch.isfinite(losses["text"])


def test_published_heads_have_the_published_sizes(contract):
    kind = policy_type("robovlms")
    config = kind.presets()["robovlm_kosmos2"]
    with torch.device("meta"):
        model = build_model(config, contract)
    counts = kind.published_counts(model, {})
    assert counts == {"head fc": 6577222, "head lstm": 41210950, "head gpt": 106315846}


@pytest.mark.parametrize("trunk", ["fc", "lstm", "gpt"])
@pytest.mark.parametrize(("latent", "width"), [(1, 32), (2, 32), (1, 16)])
@torch.no_grad()
def test_heads_are_those_of_torch_and_transformers(trunk, latent, width):
    """In training, over a whole window, and as their code streams it, feature by feature."""
    window, hidden = 4, 16 * latent
    torch.manual_seed(0)
    theirs = Head(trunk, width * latent, hidden, window).eval()
    config = tiny(
        "policy_head", trunk=trunk, structure=StructureConfig(window=window, latent=latent)
    )
    head = replace(config.head, hidden=16, layers=2, heads=8, widths=(24, 20, 16))
    config = replace(config, head=head, backbone=replace(config.backbone, width=width))
    ours = PolicyHead(config, HORIZON, (*[False] * 6, True)).eval()
    named = own_names(theirs.tensors())
    ours.load_state_dict({name.removeprefix("head."): value for name, value in named.items()})

    features = torch.randn(3, 9, width * latent)
    whole = features[:, :window]
    for given, wanted in zip(ours.output(ours.trunk(whole)), theirs(whole), strict=True):
        torch.testing.assert_close(given.flatten(0, 1), wanted.flatten(0, 1), atol=1e-5, rtol=0)

    state = None
    for now in range(9):
        seen = features[:, max(0, now + 1 - window) : now + 1]
        if trunk == "lstm" and now < window:  # Theirs goes on with its state at first.
            out, state = theirs.rnn(features[:, now : now + 1], state)
            wanted = out[:, -1]
        else:
            wanted = theirs.hidden(seen)[:, -1]
        torch.testing.assert_close(ours.trunk(seen)[:, -1], wanted, atol=1e-5, rtol=0)
