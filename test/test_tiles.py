"""Images in tiles: which grid, in which order, and what the model gets of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_checkpoint import save_tiny_checkpoint

from vla.datasets.sample import Conversation
from vla.policies.backbones.eagle import Eagle
from vla.policies.backbones.tiles import GRID_RULES, tile_image, tiled
from vla.policies.checkpoint import open_checkpoint
from vla.policies.collation import CollationOptions
from vla.policies.config import CheckpointError
from vla.policies.instructvla.collation import InstructVLACollator
from vla.policies.instructvla.inference import Reasoner
from vla.policies.instructvla.policy import POLICY
from vla.policies.registry import preset
from vla.policies.sequence import IMAGE, PromptRow

SIDE = 448


@pytest.mark.parametrize(
    ("width", "height", "most", "eagle", "internvl"),
    [
        # As Eagle 2's and InternVL's own code choose.
        (640, 480, 12, (4, 3), (4, 3)),
        (1920, 1080, 12, (4, 2), (4, 2)),
        (448, 448, 12, (1, 1), (1, 1)),
        (224, 224, 12, (1, 1), (1, 1)),
        (336, 1024, 6, (1, 3), (1, 3)),
        (2000, 500, 12, (4, 1), (4, 1)),
        (3000, 3000, 12, (3, 3), (3, 3)),
        (480, 640, 4, (1, 1), (1, 2)),
        (1000, 999, 8, (2, 2), (2, 2)),
        # Two grids that are equally good.
        (2872, 2872, 8, (3, 2), (2, 2)),
    ],
)
def test_grids_are_those_of_the_published_code(width, height, most, eagle, internvl):
    assert GRID_RULES["eagle"](width, height, SIDE, most) == eagle
    assert GRID_RULES["internvl"](width, height, SIDE, most) == internvl


def test_tiles_come_row_by_row_and_the_whole_image_last():
    config = replace(Eagle.tiny(), image_size=8, max_tiles=6)
    grey = torch.arange(6, dtype=torch.uint8).reshape(2, 3) * 40
    image = grey.repeat_interleave(8, 0).repeat_interleave(8, 1).expand(3, -1, -1)  # [3, 16, 24]
    tiles = tile_image(image, config, 6)
    assert tiles.shape == (7, 3, 8, 8)
    assert [int(tile[0, 4, 4]) for tile in tiles[:6]] == [0, 40, 80, 120, 160, 200]
    assert tiles[6, 0, 1, 0] < 40 < 160 < tiles[6, 0, 6, 7]


def test_an_image_gets_no_more_tiles_than_there_is_room_for():
    config = replace(Eagle.tiny(), image_size=8, max_tiles=6)
    images = torch.zeros(2, 3, 16, 24, dtype=torch.uint8)
    assert tiled(images, config)[1] == (7, 7)
    for places, counts in ((7, (7, 7)), (5, (5, 5)), (2, (1, 1)), (1, (1, 1))):
        cut, found = tiled(images, config, places)
        assert found == counts and len(cut) == sum(counts)
    assert tiled(images, replace(config, max_tiles=1))[0][0].shape == (3, 16, 24)


@pytest.mark.parametrize("kind", ["eagle", "internvl"])
def test_kinds_without_a_rule_refuse_tiles(kind):
    config = preset("test")
    tiles = replace(config, backbone=replace(config.backbone, kind=kind, max_tiles=4))
    POLICY.check_config(tiles, "here")
    other = replace(config, backbone=replace(config.backbone, kind="qwen3_vl", max_tiles=4))
    with pytest.raises(CheckpointError, match="was not trained with tiles"):
        POLICY.check_config(other, "here")


def test_conversations_and_inference_see_the_same_tiles(tmp_path):
    """One row of two images, cut into tiles, and a camera's image at inference."""
    config = preset("test")
    side = config.backbone.image_size // 2
    config = replace(config, backbone=replace(config.backbone, max_tiles=6))
    checkpoint = open_checkpoint(save_tiny_checkpoint(tmp_path / "tiny", config=config))
    reasoner = Reasoner(checkpoint)
    backbone = checkpoint.config.backbone
    collator = InstructVLACollator(checkpoint.config, checkpoint.tokenizer, CollationOptions())
    generator = np.random.default_rng(0)
    wide = generator.integers(0, 255, (4 * side, 6 * side, 3), np.uint8)
    talk = Conversation((wide, wide[:side, :side]), (("what is it ?", "a can ."),))
    batch = collator.conversation_batch([talk, Conversation((), talk.turns)], generator)
    assert len(batch.vlm_images) == 8
    places = (batch.text.ids == IMAGE).sum(1).tolist()
    assert places == [8 * backbone.image_tokens, 0]
    torch.testing.assert_close(
        batch.vlm_images[:7], tile_image(torch.from_numpy(wide).permute(2, 0, 1), backbone, 6)
    )
    _, loss, _, tokens = reasoner.model(batch.vlm_images, batch.text)
    assert torch.isfinite(loss) and len(tokens) == 8

    camera = checkpoint.contract.camera(config.vlm_cameras[0])
    shown = generator.integers(0, 255, (camera.height, camera.width, 3), np.uint8)
    images = dict.fromkeys(config.vlm_cameras, shown)
    seen, tokens, _ = reasoner._prompt(images, PromptRow((("what is it ?", ""),)))
    assert tokens.count(IMAGE) == len(seen) * backbone.image_tokens
    assert isinstance(reasoner.ask(images, "what is it ?"), str)
