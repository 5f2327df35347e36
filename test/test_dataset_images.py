"""Data sets' images and videos: 8-bit colour or grey as claimed, or refused."""

from pathlib import Path

import pytest
from foreign_datasets import BRIDGE, ODD_IMAGES, encoded, png_of
from lerobot_files import (
    LENGTHS,
    grey_of,
    png,
    replace_column,
    write_v2,
    write_v3,
    write_video,
)
from PIL import Image

from vla.datasets.frames import DatasetError
from vla.datasets.images import decode_image
from vla.datasets.video import VideoFrames
from vla.training.config import RobotData
from vla.training.sources import open_robot


@pytest.mark.parametrize("says", ODD_IMAGES)
def test_images_are_8_bit_colour_or_grey_or_refused(tmp_path, says):
    content = ODD_IMAGES[says]
    with pytest.raises(DatasetError, match=f"the image .*{says}"):
        decode_image(content, "the image")
    folder = write_v3(tmp_path / "set", images=True)
    path = folder / "data/chunk-000/file-000.parquet"
    images = [{"bytes": content, "path": None}] + [png(20)] * (sum(LENGTHS[:2]) - 1)
    replace_column(path, "camera", images[::-1])
    (tmp_path / "map.yaml").write_text("cameras: {front: camera}")
    with pytest.raises(DatasetError, match=f"episode 1, frame 11: camera .*{says}"):
        open_robot(RobotData(str(folder), "lerobot", str(tmp_path / "map.yaml")), BRIDGE)


def test_grey_images_become_colour():
    for content in (encoded(Image.new("L", (4, 3), 77)), png_of(0, 8, 1)):
        image = decode_image(content, "the image")
        assert image.shape[2] == 3 and (image == image[..., :1]).all()


def spoil_video(name: str, folder: Path) -> None:
    path = next(folder.glob("videos/**/episode_000001.mp4"))
    greys = [grey_of(1, frame) for frame in range(LENGTHS[1])]
    if name == "missing":
        path.unlink()
    elif name == "cut":
        path.write_bytes(path.read_bytes()[:700])
    elif name == "foreign":
        path.write_bytes(b"no video at all" * 99)
    elif name == "short":
        write_video(path, greys[:6])
    elif name == "slow":
        write_video(path, greys, fps=2)
    elif name == "10 bits":
        write_video(path, greys, pixels="yuv420p10le")
    elif name == "size":
        write_video(path, greys, size=32)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing", "1 of 3 videos are missing, such as .*episode_000001.mp4"),
        ("cut", r"episode_000001\.mp4 cannot be read"),
        ("foreign", r"episode_000001\.mp4 cannot be read"),
        ("short", r"episode_000001\.mp4 has 6 frames, its episodes need 12"),
        ("slow", r"episode_000001\.mp4 has 2 frames a second, meta/info\.json says 5"),
        ("10 bits", r"episode_000001\.mp4 is of 10 bits a value"),
        ("size", r"episode_000001\.mp4 has 32 x 32 pixels, meta/info\.json says 64 x 64"),
    ],
)
def test_videos_are_what_the_data_set_claims(tmp_path, name, says):
    folder = write_v2(tmp_path / "set")
    spoil_video(name, folder)
    (tmp_path / "map.yaml").write_text("cameras: {front: camera}")
    with pytest.raises(DatasetError, match=says):
        open_robot(RobotData(str(folder), "lerobot", str(tmp_path / "map.yaml")), BRIDGE)


def test_a_video_of_ten_bits_is_refused_where_a_frame_is_read(tmp_path):
    write_video(tmp_path / "a.mp4", [9] * 5, pixels="yuv420p10le")
    with pytest.raises(DatasetError, match=r"a\.mp4 is of 10 bits a value"):
        VideoFrames().at(tmp_path / "a.mp4", 0.2, 0.1)
