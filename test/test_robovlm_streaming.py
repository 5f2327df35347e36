"""A RoboVLM's history streams as it was trained, and is emptied where it has to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_robovlm import STEP, STRUCTURES, batch_of, ids_of, observation, tiny, trained_chunk

from vla.datasets.windows import window_slots
from vla.policies.base import Observation
from vla.policies.robovlms.config import ResamplerConfig
from vla.policies.robovlms.resampler import PerceiverResampler
from vla.policies.robovlms.sequence import LEARNED, rows_of_frames
from vla.policies.sequence import IMAGE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["internvl", "paligemma", "kosmos2", "qwen2_5_vl"])
@pytest.mark.parametrize("structure", ["one_step", "interleaved", "policy_head"])
@settings(max_examples=8)
@given(gaps=st.lists(st.sampled_from([0.05, 0.3, 0.31, 0.5, 0.61, 2.0]), max_size=7))
def test_streaming_gives_what_training_sees(part_of, structure, kind, gaps):
    part = part_of(tiny(structure, kind))
    stamps = np.cumsum([10.0, *gaps])
    frames = [observation(index, stamp) for index, stamp in enumerate(stamps)]
    for frame in frames:
        streamed = part.act(frame, "pick the red block")
    slots = window_slots(stamps, part.config.structure.window, STEP)
    expected = trained_chunk(part, [frames[index] for index in slots])
    np.testing.assert_allclose(streamed, expected, atol=1e-6)


@pytest.mark.parametrize("trunk", ["fc", "lstm", "gpt"])
@pytest.mark.parametrize("latent", [1, 3])
def test_all_trunks_stream(part_of, trunk, latent):
    structure = replace(STRUCTURES["policy_head"], latent=latent)
    part = part_of(tiny("policy_head", trunk=trunk, structure=structure, use_state=True))
    frames = [observation(index, STEP * index) for index in range(5)]
    for frame in frames:
        streamed = part.act(frame, "pick the red block")
    np.testing.assert_allclose(streamed, trained_chunk(part, frames[-3:]), atol=1e-6)


@pytest.mark.parametrize("source", ["text", "vision", "all"])
@pytest.mark.parametrize("kind", ["interleaved", "policy_head"])
def test_pooled_tokens_stream(part_of, kind, source):
    structure = replace(STRUCTURES[kind], latent=2, token_source=source)
    part = part_of(tiny(kind, structure=structure))
    assert LEARNED not in batch_of(part, [observation(0)]).rows.ids
    frames = [observation(index, STEP * index) for index in range(5)]
    for frame in frames:
        streamed = part.act(frame, "pick the red block")
    np.testing.assert_allclose(streamed, trained_chunk(part, frames[-3:]), atol=1e-6)
    part.reset()
    other = part.act(frames[0], "pick the red block"), part.act(frames[1], "pick the can")
    assert np.abs(other[0] - other[1]).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["internvl", "qwen2_5_vl"])
@pytest.mark.parametrize("structure", ["interleaved", "policy_head", "discrete"])
def test_a_resampler_stands_between_images_and_text(part_of, kind, structure):
    resampler = ResamplerConfig(3, 2, 2, 8)
    part = part_of(tiny(structure, kind, resampler=resampler))
    window = part.config.structure.window
    frames = [observation(index, STEP * index) for index in range(window)]
    ids = batch_of(part, frames).rows.ids
    assert (ids == IMAGE).sum() == window * 2 * 3
    for frame in frames:
        streamed = part.act(frame, "pick the red block")
    if structure != "discrete":
        np.testing.assert_allclose(streamed, trained_chunk(part, frames), atol=1e-6)
    with torch.device("meta"):
        full = PerceiverResampler(2048, ResamplerConfig(64))
    assert sum(p.numel() for p in full.parameters()) == 226_701_312


@pytest.mark.parametrize("structure", ["interleaved", "policy_head"])
def test_the_newest_frame_answers_and_later_ones_change_nothing(part_of, structure):
    part = part_of(tiny(structure))
    frames = [observation(index, STEP * index) for index in range(4)]
    images = torch.from_numpy(
        np.stack([f.images[n] for f in frames[:3] for n in part.config.cameras])
    ).permute(0, 3, 1, 2)
    tokens = part.model.encode_images(images).detach().requires_grad_()
    rows = rows_of_frames([ids_of(part, "pick the red block")], [3], part.config)
    features = part.model.frame_features(rows, tokens, torch.zeros(3, 10))
    hidden = part.model.head.trunk(features[None])[0]
    for step in range(3):
        (grad,) = torch.autograd.grad(hidden[step].sum(), tokens, retain_graph=True)
        seen = grad.unflatten(0, (3, -1)).abs().sum(dim=(1, 2, 3)) > 0
        assert seen.tolist() == [index <= step for index in range(3)]

    def answer(shown: list[Observation]) -> np.ndarray:
        part.reset()
        return [part.act(frame, "pick the red block") for frame in shown][-1]

    chunk = answer(frames)
    newest = answer([*frames[:3], replace(observation(9), stamp=frames[3].stamp)])
    oldest = answer([replace(observation(9), stamp=frames[0].stamp), *frames[1:]])
    assert np.abs(chunk - newest).max() > 1e-4
    np.testing.assert_array_equal(chunk, oldest)


@pytest.mark.parametrize("structure", ["interleaved", "policy_head"])
def test_the_history_is_emptied(part_of, structure):
    part = part_of(tiny(structure))
    frames = [observation(index, STEP * index) for index in range(3)]
    fresh = part.act(frames[2], "pick the red block")

    def after(*shown: Observation, instruction: str = "pick the red block") -> np.ndarray:
        part.reset()
        for frame in shown:
            part.act(frame, instruction)
        return part.act(frames[2], "pick the red block")

    assert np.abs(after(*frames[:2]) - fresh).max() > 1e-5
    # By another instruction, a stamp that goes back, and a gap.
    np.testing.assert_array_equal(after(*frames[:2], instruction="what is on the table"), fresh)
    np.testing.assert_array_equal(after(replace(frames[0], stamp=99.0)), fresh)
    np.testing.assert_array_equal(after(replace(frames[0], stamp=-5.0)), fresh)
    # By other weights.
    part.set_adapter(None)
    assert len(part._history) == 0
    np.testing.assert_array_equal(part.act(frames[2], "pick the red block"), fresh)


def test_a_frame_between_chunks_is_read_where_a_slot_would_miss_it(part_of):
    part, read = part_of(tiny("policy_head")), []
    encode = part.model.encode_images
    part.model.encode_images = lambda images: read.append(1) or encode(images)
    for index in range(31):
        frame = observation(index, 0.1 * index)
        if index % 10 == 0:
            part.act(frame, "pick the red block")
        else:
            part.observe(frame, "pick the red block")
    del part.model.encode_images
    assert len(read) == 11 + 2  # 31 frames of 0.1 s, one each 0.3 s, and two acts off that grid
    assert len(part._history) <= 5
