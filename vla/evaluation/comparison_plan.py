"""What a run of a grid depends on: configurations, data and code, written down when it begins.

A cell's key is a digest of all three. A run that goes on under other keys would mix results that
can't be compared, so it is refused, and the folder stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vla.core.files import read_json
from vla.core.replacing import replace_text
from vla.core.resources import given_or_shared
from vla.core.shown import shown_path
from vla.evaluation.errors import GridError
from vla.evaluation.grid import (
    Cell,
    Training,
    digest_of,
    plain,
)
from vla.training.sources import make_data

PLAN = "plan.json"
SAMPLED = 1 << 16  # bytes of the ends of a large file that its digest is of
# Packages that no result depends on.
_ASIDE = ("annotation", "preflight")


def code_digest() -> str:
    """Of the library's source: first 12 hexadecimal digits of its SHA-256."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if name.parts[0] not in _ASIDE:
            digest.update(f"{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def folder_digest(path: str | Path) -> str:
    """Of what lies in a file or folder: names, sizes, and content, of large files both ends."""
    path, digest = Path(path), hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)} {size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(SAMPLED))
            if size > SAMPLED:
                stream.seek(max(SAMPLED, size - SAMPLED), os.SEEK_SET)
                digest.update(stream.read(SAMPLED))
    return digest.hexdigest()[:12]


def data_paths(training: Training) -> list[str]:
    """Everything on disk that a training learns or starts from, where it is there."""
    found: dict[str, None] = {}
    for part in training.parts:
        for entry in part.robot:
            found |= dict.fromkeys((entry.path, entry.mapping, entry.annotations))
            found |= dict.fromkeys((entry.contract, entry.episode_list))
        for talk in part.conversations:
            found |= dict.fromkeys((talk.path, talk.images))
        found |= dict.fromkeys((part.backbone_source, part.initialize_from, part.vision_source))
        found[part.contract] = None
    return [path for path in found if path and given_or_shared(path).exists()]


def make_all_data(trainings: list[Training], contract_of: Any) -> None:
    """Makes the data that is missing, once for all."""
    done: set[str] = set()
    for training in trainings:
        for part in training.parts:
            entries = [*map(asdict, part.robot), *map(asdict, part.conversations)]
            wanted = digest_of(entries)
            if wanted not in done:
                make_data(part, contract_of(training))
                done.add(wanted)


def plan_of(cells: list[Cell]) -> dict[str, Any]:
    """Keys of all trainings and cells, and what they are made of. The data must be there."""
    trainings = {cell.training.name: cell.training for cell in cells}
    digests: dict[str, str] = {}
    parts: dict[str, dict[str, Any]] = {}
    code = code_digest()
    for name, training in trainings.items():
        for path in data_paths(training):
            digests.setdefault(path, folder_digest(given_or_shared(path)))
        parts[name] = {
            "configuration": digest_of([plain(part) for part in training.parts]),
            "data": digest_of({path: digests[path] for path in data_paths(training)}),
            "code": code,
        }
    return {
        "trainings": parts,
        "cells": {
            cell.name: parts[cell.training.name]
            | {
                "execution": cell.kind["execution"],
                "evaluation": digest_of(plain(cell.evaluation)),
            }
            for cell in cells
        },
        "data": digests,
    }


def keys_of(plan: dict[str, Any]) -> dict[str, str]:
    """The key of each training."""
    return {name: digest_of(parts) for name, parts in plan["trainings"].items()}


def keep_plan(plan: dict[str, Any], output: Path, any_code: bool = False) -> dict[str, Any]:
    """Writes a plan into a run's folder, or compares it with the one there; returns what counts.

    Cells may come and go, but those that were begun must be the same. any_code: lets a run go on
    whose cells other code began, under their old keys. Raises GridError that names the first cell
    that differs, and in what.
    """
    path = output / PLAN
    if path.exists():
        before = read_json(path, GridError, 64_000_000)
        if not isinstance(before, dict) or not {"trainings", "cells"} <= before.keys():
            raise GridError(f"{shown_path(path)} is no plan of a grid; give another output folder")
        for section in ("trainings", "cells"):
            for name, parts in plan[section].items():
                known = before[section].get(name, parts)
                if any_code:
                    parts["code"] = known["code"]
                differs = [entry for entry in parts if parts[entry] != known.get(entry)]
                if differs:
                    raise GridError(_changed(output, name, differs))
        plan = {
            "trainings": before["trainings"] | plan["trainings"],
            "cells": before["cells"] | plan["cells"],
            "data": plan["data"],
        }
    output.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(plan, indent=1) + "\n")
    return plan


def _changed(output: Path, name: str, differs: list[str]) -> str:
    remedy = "or --any-code to go on all the same" if differs == ["code"] else "or undo the change"
    return (
        f"{shown_path(output)} was begun with another {' and '.join(differs)} of {name}, and "
        f"results of both can't be compared; give another --output, {remedy}; nothing was changed"
    )
