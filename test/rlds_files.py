"""RLDS data sets that tfds wrote, what it reads from them, and contracts of their image sizes."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from vla.contract.embodiment import CameraContract, EmbodimentContract, load_contract
from vla.core.resources import contract_path
from vla.datasets.rlds.crc32c import masked_crc32c
from vla.datasets.rlds.mapping import RldsMapping, read_rlds_mapping

ROOT = Path(__file__).parents[1]
SETS = ROOT / "test/data/rlds"
BRIDGE, FRACTAL = SETS / "mini_bridge/1.0.0", SETS / "mini_fractal/0.1.0"


def read_by_tfds(name: str, split: str) -> dict[str, np.ndarray]:
    """See tools/write_rlds_sets.py."""
    values = np.load(SETS / f"{name}.npz")
    return {key.removeprefix(f"{split}/"): values[key] for key in values if key.startswith(split)}


def bridge() -> tuple[EmbodimentContract, RldsMapping]:
    """As shipped, but with both cameras at the size that they are stored in."""
    contract = load_contract(contract_path("widowx_bridge"))
    front = replace(contract.cameras[0], width=16, height=16)
    cameras = (front, CameraContract("side", 16, 16, 0.5, "camera/side/image_raw"))
    mapping = read_rlds_mapping(ROOT / "config/data/bridge_rlds.yaml")
    both = {"front": "observation/image_0", "side": "observation/image_1"}
    return replace(contract, cameras=cameras), replace(mapping, cameras=both)


def fractal() -> tuple[EmbodimentContract, RldsMapping]:
    """As shipped, but with images at the size that they are stored in."""
    contract = load_contract(contract_path("google_fractal"))
    camera = replace(contract.cameras[0], width=20, height=16)
    mapping = read_rlds_mapping(ROOT / "config/data/fractal_rlds.yaml")
    return replace(contract, cameras=(camera,)), mapping


def copy_of(folder: Path, place: Path) -> Path:
    """A copy that may be spoiled."""
    return Path(shutil.copytree(folder, place / folder.parent.name))


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """A TFRecord file."""
    with path.open("wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + struct.pack("<I", masked_crc32c(length)))
            file.write(record + struct.pack("<I", masked_crc32c(record)))
