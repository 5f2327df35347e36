"""What the tests of data sets from elsewhere share: stored sets, odd images, and small changes."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.lerobot.dataset import LeRobotEpisodes, LeRobotMapping
from vla.training.config import RobotData, TrainConfig

DATA = Path(__file__).parent / "data"
PANDA, BRIDGE = (load_contract(contract_path(name)) for name in ("sim_panda", "widowx_bridge"))
MAPPING = LeRobotMapping({"front": "camera"})
GENERATOR = np.random.default_rng(0)


def panda(case: str, **mapping) -> LeRobotEpisodes:
    cameras = {name: f"observation.images.{name}" for name in ("front", "wrist")}
    return LeRobotEpisodes(DATA / case / "set", LeRobotMapping(cameras, **mapping), PANDA)


def run_config(case: str) -> TrainConfig:
    entry = RobotData(str(DATA / case / "set"), "lerobot", str(DATA / case / "mapping.yaml"))
    return TrainConfig(contract="sim_panda", robot=(entry,))


def edit_info(folder: Path, **values) -> None:
    path = folder / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def scaled(values: np.ndarray, columns: slice, factor: float) -> np.ndarray:
    changed = values.copy()
    changed[:, columns] *= factor
    return changed


def png_of(colour: int, bits: int, channels: int) -> bytes:
    """A PNG of a kind that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 64, 64, bits, colour, 0, 0, 0)
    rows = zlib.compress(64 * (b"\0" + bytes(64 * channels * bits // 8)))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows)
            + chunk(b"IEND", b""))  # fmt: skip


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


ODD_IMAGES = {
    "16 bits a value": png_of(2, 16, 3),
    "16 bits a pixel": png_of(0, 16, 1),
    "with transparency": encoded(Image.new("RGBA", (64, 64), (1, 2, 3, 255))),
    "with a palette": encoded(Image.new("RGB", (64, 64), (9, 2, 3)).convert("P")),
    "of floats": encoded(Image.new("F", (64, 64), 0.5), "TIFF"),
    "of 1 bit": encoded(Image.new("1", (64, 64), 1)),
    "printing": encoded(Image.new("CMYK", (64, 64)), "JPEG"),
    "cannot be read": b"\x89PNG\r\n",
}
