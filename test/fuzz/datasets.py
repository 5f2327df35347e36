"""Data sets that others wrote: LeRobot's two layouts, conversations and our own shards, mutated."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from lerobot_files import write_v2, write_v3
from PIL import Image

from fuzz.mutation import mutate_bytes, mutate_text, mutate_tree, odd_value
from fuzz.report import Report
from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.conversations import LlavaConversations
from vla.datasets.lerobot.dataset import LeRobotEpisodes, LeRobotMapping

CONTRACT = load_contract(contract_path("widowx_bridge"))
MAPPING = LeRobotMapping(cameras={"front": "camera"})


def fuzz_datasets(report: Report, count: int, seed: int) -> None:
    """Reads `count` data sets with one mutated file each, frame by frame."""
    random = Random(seed)
    sources: list[tuple[str, Path, Callable[[Path], object]]] = [
        ("v2.1, videos", write_v2(report.folder / "v2"), _read_lerobot),
        ("v2.1, images", write_v2(report.folder / "v2i", images=True), _read_lerobot),
        ("v3.0, videos", write_v3(report.folder / "v3"), _read_lerobot),
        ("v3.0, images", write_v3(report.folder / "v3i", images=True), _read_lerobot),
        ("conversations", _write_conversations(report.folder / "talk"), _read_conversations),
    ]
    for number in range(count):
        name, source, read = sources[number % len(sources)]
        folder = report.folder / "mutated_set"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        file = random.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        how = _mutate(random, file)
        case = f"{number}, {name}: {how} {file.relative_to(folder)}"
        report.try_case("data sets", case, lambda read=read, at=folder: read(at), _wrong)


def _mutate(random: Random, file: Path) -> str:
    kind = random.choice(("content", "content", "content", "bytes", "missing"))
    if kind == "missing":
        file.unlink()
    elif kind == "content" and file.suffix == ".json":
        file.write_text(json.dumps(mutate_tree(random, json.loads(file.read_text()))))
    elif kind == "content" and file.suffix == ".jsonl":
        if random.randrange(3) == 0:
            file.write_text(mutate_text(random, file.read_text()), errors="replace")
        else:
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            file.write_text("\n".join(json.dumps(x) for x in mutate_tree(random, lines)))
    elif kind == "content" and file.suffix == ".parquet":
        _mutate_table(random, file)
    else:
        kind = "bytes"
        file.write_bytes(mutate_bytes(random, file.read_bytes()))
    return kind


def _mutate_table(random: Random, file: Path) -> None:
    """A column removed, renamed, of another type, with an odd entry, or rows left out."""
    rows = parquet.read_table(file).to_pylist()
    kind = random.randrange(4)
    if kind == 0:
        rows = random.sample(rows, random.randrange(len(rows) + 1))
    else:
        name = random.choice(sorted(rows[0]))
        chosen = rows if kind == 1 else [random.choice(rows)]
        # A copy, or a list could become an entry of itself, at which Arrow crashes.
        odd = odd_value(random, copy.deepcopy(rows[0][name]))
        for row in chosen:
            value = row[name]
            if isinstance(value, list) and value and random.randrange(2):
                value[random.randrange(len(value))] = odd
            elif kind == 3:
                del row[name]
            else:
                row[name] = odd
    whole = file.read_bytes()
    try:
        table = pa.Table.from_pylist(rows)
        if not table.num_columns:
            # Arrow crashes when it writes this.
            raise pa.ArrowInvalid("no columns")
        parquet.write_table(table, file)
    except (pa.ArrowException, OverflowError, UnicodeError):
        # What parquet itself cannot hold is no case; a file that ends too soon is.
        file.write_bytes(whole[: random.randrange(len(whole))])


def _write_conversations(folder: Path) -> Path:
    folder.mkdir(parents=True)
    Image.fromarray(np.full((6, 9, 3), 99, np.uint8)).save(folder / "red.png")
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Grey."}]
    entries = [{"id": "a", "image": "red.png", "conversations": turns}] * 3
    (folder / "data.json").write_text(json.dumps(entries))
    return folder


def _read_conversations(folder: Path) -> list:
    data = LlavaConversations(folder / "data.json")
    return [data.sample(index, np.random.default_rng(0)) for index in range(len(data))]


def _read_lerobot(folder: Path) -> list:
    data = LeRobotEpisodes(folder, MAPPING, CONTRACT)
    return [data.sample(index, np.random.default_rng(0)) for index in range(min(len(data), 200))]


def _wrong(samples: list) -> str | None:
    """What no training may see."""
    for sample in samples:
        if hasattr(sample, "turns"):
            texts = [text for turn in sample.turns for text in turn]
        else:
            texts = [sample.instruction or ""]
            if not (np.isfinite(sample.state).all() and np.isfinite(sample.actions).all()):
                return "a state or an action is not finite"
            if ((sample.actions[:, -1] < 0) | (sample.actions[:, -1] > 1)).any():
                return "a gripper value is not within 0 and 1"
            if any(image.dtype != np.uint8 for image in sample.images.values()):
                return "an image is not of 8 bits"
        for text in texts:
            if not text.strip():
                return "a text is empty"
            if len(text) > 100_000:
                return f"a text has {len(text)} characters"
    return None
