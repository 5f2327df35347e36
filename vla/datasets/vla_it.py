"""VLA-IT annotations: what an episode shows, and its command in other words (InstructVLA, 3.3).

One JSON file per data set, as the authors write it: {file path: {episode id: {"features":
{"move_primitive": [text per frame]}, "alt_instruction": {"Caption": text, "CR": [...], "CC": [...],
"QA": [...]}}}}, pairs as {"question", "answer"}; alt_instruction may be missing. Invisible
characters become escapes (see vla.core.text).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.core.files import read_json
from vla.core.replacing import replace_text
from vla.core.shown import brief, shown_path
from vla.core.text import escape_unseen, one_line
from vla.datasets.frames import DatasetError
from vla.datasets.sample import Annotation, Pair

# The most that one file may have.
MOST_BYTES = 2**32


@dataclass(frozen=True)
class EpisodeLabels:
    """What is known of one episode."""

    motions: tuple[str, ...]  # language motion of each frame, empty where there is none
    annotation: Annotation | None

    def motion(self, frame: int) -> str | None:
        """The label of a frame; None where it has none."""
        if not 0 <= frame < len(self.motions):
            return None
        return self.motions[frame] or None


def read_vla_it(path: str | Path) -> dict[tuple[str, str], EpisodeLabels]:
    """Labels by file path and episode id. Raises DatasetError that names the faulty entry."""
    files, path = read_json(path, DatasetError, MOST_BYTES), shown_path(path)
    labels = {}
    for file, episodes in _mapping(files, path).items():
        for episode, entry in _mapping(episodes, f"{path}: {one_line(file)}").items():
            where = f"{path}: {one_line(file, 80)}, episode {one_line(episode, 40)}"
            labels[file, str(episode)] = _labels(_mapping(entry, where), where)
    return labels


def write_vla_it(
    path: str | Path,
    labels: Mapping[tuple[str, str], tuple[Sequence[str], Annotation | None]],
) -> None:
    """Writes motions and annotations by file path and episode id; the file appears as a whole.

    The motions of an episode are one text per frame, or none at all.
    """
    files: dict[str, dict] = {}
    for (file, episode), (motions, annotation) in labels.items():
        entry: dict[str, Any] = {"features": {"move_primitive": list(motions)}}
        if annotation is not None:
            entry["alt_instruction"] = {
                "Caption": annotation.caption,
                "QA": _written(annotation.question_answers),
                "CR": _written(annotation.command_rewrites),
                "CC": _written(annotation.contexts),
            }
        files.setdefault(file, {})[episode] = entry
    replace_text(path, json.dumps(files, ensure_ascii=False, indent=1) + "\n")


def _written(pairs: tuple[Pair, ...]) -> list[dict[str, str]]:
    return [{"question": question, "answer": answer} for question, answer in pairs]


def _mapping(value: Any, where: str) -> dict:
    if not isinstance(value, dict):
        raise DatasetError(f"{where}: expected a mapping, got {type(value).__name__}")
    return value


def _labels(entry: dict, where: str) -> EpisodeLabels:
    features = _mapping(entry.get("features", {}), f"{where}: features")
    motions = features.get("move_primitive") or []
    if not isinstance(motions, list) or not all(m is None or isinstance(m, str) for m in motions):
        raise DatasetError(f"{where}: move_primitive must be a list of texts, one per frame")
    other = entry.get("alt_instruction")
    annotation = None
    if other is not None:
        other = _mapping(other, f"{where}: alt_instruction")
        caption = other.get("Caption") or ""
        if not isinstance(caption, str):
            raise DatasetError(f"{where}: Caption must be text")
        annotation = Annotation(
            caption=escape_unseen(caption.strip()),
            question_answers=_pairs(other.get("QA"), f"{where}: QA"),
            command_rewrites=_pairs(other.get("CR"), f"{where}: CR"),
            contexts=_pairs(other.get("CC"), f"{where}: CC"),
        )
    return EpisodeLabels(tuple(escape_unseen(motion or "") for motion in motions), annotation)


def _pairs(values: Any, where: str) -> tuple[Pair, ...]:
    if not isinstance(values, list | None):
        raise DatasetError(f"{where} must be a list of pairs, got {brief(values)}")
    pairs = []
    for index, value in enumerate(values or []):
        pair = _mapping(value, f"{where} {index}")
        question, answer = pair.get("question"), pair.get("answer")
        if not (isinstance(question, str) and isinstance(answer, str) and question and answer):
            raise DatasetError(
                f"{where} {index}: question and answer must be texts: {brief(pair, 200)}"
            )
        pairs.append((escape_unseen(question.strip()), escape_unseen(answer.strip())))
    return tuple(pairs)
