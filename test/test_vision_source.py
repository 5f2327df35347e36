"""Pretrained weights for the action expert's DINOv2, as transformers and timm write them."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from released_instructvla import QUERIES, SIDE, WIDTH, tiny_preset
from tiny_backbones import save_released
from tiny_dinov2 import save_dinov2, save_timm, timm_state, tiny_dinov2

from vla.policies.config import CheckpointError
from vla.policies.instructvla.film_dinov2 import Dinov2Encoder
from vla.policies.instructvla.film_vision import standardize
from vla.policies.instructvla.vision_source import VISION, read_vision, resampled

EXPERT = replace(tiny_preset().expert, vision_zoom=False)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """What is not in a folder is not looked for elsewhere."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def encoder_with(source: str, config=EXPERT) -> Dinov2Encoder:
    """An encoder whose FiLM changes nothing, with the weights of a source."""
    encoder = Dinov2Encoder(config, WIDTH).eval()
    given = {
        n.removeprefix(f"{VISION}."): v for n, v in read_vision(source, config).weights.items()
    }
    encoder.model.load_state_dict(given)
    for parameter in encoder.films.parameters():
        torch.nn.init.zeros_(parameter)
    return encoder


@pytest.mark.parametrize("kind", ["transformers", "timm.safetensors", "timm.pth"])
@pytest.mark.parametrize("block", [0, 2, 3])
@torch.no_grad()
def test_tokens_are_those_of_the_source_at_another_size(tmp_path, kind, block):
    """transformers resamples positions while it runs, for images of another size than its own."""
    source, theirs = save_dinov2(tmp_path / "folder")
    if kind != "transformers":
        source = save_timm(tmp_path / kind, theirs)
    config = replace(EXPERT, vision_feature_block=block)
    images = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    pixels = standardize(images, torch.float32)
    wanted = theirs(pixels, output_hidden_states=True).hidden_states[block + 1][:, 5:]
    condition, camera = torch.randn(2, WIDTH), torch.zeros(2, dtype=torch.long)
    given, _ = encoder_with(source, config)(images, condition, camera)
    assert given.std() > 0.1
    torch.testing.assert_close(given, wanted, atol=1e-5, rtol=1e-5)


def test_what_nothing_reads_is_left_over_and_known(tmp_path):
    folder, theirs = save_dinov2(tmp_path / "folder")
    file = save_timm(tmp_path / "timm.safetensors", theirs)
    own = theirs.state_dict()
    last = sum(v.numel() for n, v in own.items() if n.startswith("encoder.layer.3."))
    for source, of_the_last, norm in (
        (folder, "encoder.layer.3.", {"layernorm.weight", "layernorm.bias"}),
        (file, "blocks.3.", {"norm.weight", "norm.bias"}),
    ):
        loaded = read_vision(source, EXPERT).loaded
        assert not loaded.left_over
        blocks = {n: size for n, size in loaded.unread.items() if n.startswith(of_the_last)}
        assert sum(blocks.values()) == last
        assert loaded.unread.keys() - blocks.keys() - {"embeddings.mask_token"} == norm
        assert f"{source}\n  loaded: {len(loaded.taken)} tensors, " in loaded.text()
        assert "left over, since nothing reads them" in loaded.text()


def test_positions_of_the_same_grid_stay_as_they_are():
    positions = torch.randn(1, 25, 6)
    assert resampled(positions, 25) is positions
    half = resampled(positions.bfloat16(), 16)
    assert half.shape == (1, 16, 6) and half.dtype == torch.bfloat16
    # A plane stays one, but for the rim.
    plane = torch.arange(37.0).repeat(37)[None, :, None]
    row = resampled(plane, 256)[0, 8 * 16 + 3 : 8 * 16 + 13, 0]
    torch.testing.assert_close(row.diff(), torch.full((9,), 37 / 16), atol=1e-2, rtol=0)


def test_other_sizes_are_named(tmp_path):
    for changes, message in (
        ({"num_attention_heads": 4}, "num_attention_heads 4, the action expert 2"),
        ({"num_hidden_layers": 3}, "has blocks 3, the action expert 4"),
        ({"num_register_tokens": 1}, "num_register_tokens 1, the action expert 4"),
    ):
        source, _ = save_dinov2(tmp_path / "folder", **changes)
        with pytest.raises(CheckpointError, match=message):
            read_vision(source, EXPERT)
    shallow = save_timm(tmp_path / "shallow.pth", tiny_dinov2(num_hidden_layers=3))
    with pytest.raises(CheckpointError, match="has blocks 3, the action expert 4"):
        read_vision(shallow, EXPERT)
    wide = {"patch_embed.proj.weight": torch.zeros(48, 3, 7, 7)}
    with pytest.raises(CheckpointError, match=r"of another shape patch_embed\.proj\.weight \[48"):
        read_vision(save_timm(tmp_path / "wide.pth", tiny_dinov2(), **wide), EXPERT)
    # The class token has a position of its own in other models of timm.
    more = {"pos_embed": torch.zeros(1, 26, 24)}
    with pytest.raises(CheckpointError, match=r"of another shape pos_embed \[1, 27, 24\]"):
        read_vision(save_timm(tmp_path / "more.pth", tiny_dinov2(), **more), EXPERT)


def test_a_part_of_an_encoder_is_refused(tmp_path):
    state = timm_state(tiny_dinov2())
    del state["reg_token"], state["blocks.2.mlp.fc1.bias"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(
        CheckpointError, match=r"lacks 2 tensors of DINOv2, embeddings\.register_to"
    ):
        read_vision(str(tmp_path / "part.pth"), EXPERT)


class Unknown:
    """Something that is no tensor."""


def test_what_is_no_such_model_is_refused(tmp_path):
    (tmp_path / "llava").mkdir()
    with pytest.raises(CheckpointError, match=r"is a model of type 'llava', but .* dinov2_wi"):
        read_vision(save_released(tmp_path / "llava", "llava"), EXPERT)
    with pytest.raises(CheckpointError, match=r"of nobody/model can't be read"):
        read_vision("nobody/model", EXPERT)
    file = tmp_path / "state.pth"
    for content, message in (
        ({"state_dict": {}}, "holds no vision transformer of timm; give a file with its state"),
        ({"cls_token": torch.zeros(1)}, "holds no vision transformer of timm"),
        ({"cls_token": Unknown()}, "holds objects that are no tensors, whose code is not run"),
    ):
        torch.save(content, file)
        with pytest.raises(CheckpointError, match=message):
            read_vision(str(file), EXPERT)
    file.write_bytes(pickle.dumps({}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_vision(str(file), EXPERT)
    bad = {"norm.bias": torch.zeros(24), "cls_token": torch.full((1, 1, 24), float("nan"))}
    for name in ("bad.pth", "bad.safetensors"):
        with pytest.raises(CheckpointError, match="NaN or infinity"):
            read_vision(save_timm(tmp_path / name, tiny_dinov2(), **bad), EXPERT)


@pytest.mark.parametrize("block", [0, 2, 3])
def test_every_weight_that_is_built_gets_a_gradient(block):
    encoder = Dinov2Encoder(replace(EXPERT, vision_feature_block=block), WIDTH)
    images = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    condition = torch.randn(2, QUERIES, WIDTH).mean(dim=1)
    encoder(images, condition, torch.zeros(2, dtype=torch.long))[0].square().sum().backward()
    assert len(encoder.films) == block + 1
    assert all(p.grad is not None for p in encoder.parameters())
