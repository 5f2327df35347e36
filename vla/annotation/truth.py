"""Annotates episodes of the simulator from the truth of their scenes, without a model.

A scene is laid out again from its seed and task family. They come from a file of scenes, or from
the note in the episode's bag, which `vla demo` writes as "FAMILY, seed N".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vla.annotation.asking import AskSummary
from vla.annotation.record_file import made_digest
from vla.annotation.records import Record, Records, entries_of
from vla.core.files import read_json, read_yaml
from vla.core.shown import shown_path
from vla.core.text import one_line
from vla.datasets.frames import DatasetError, EpisodeWords
from vla.datasets.lerobot.meta import EpisodeMeta
from vla.datasets.lerobot.writer import REPORT_FILE
from vla.datasets.sample import Annotation
from vla.envs.tabletop.annotations import annotate
from vla.envs.tabletop.demonstrations import landmark_places, object_places
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import ALL_FAMILIES, COLORS, Task, phrase

MOST_BYTES = 100_000_000

# Raise it when a scene is described differently, so that annotations are made again.
TRUTH_VERSION = 1
_NOTE = re.compile(r"\b(\w+), seed (\d+)\b")


@dataclass(frozen=True)
class SceneOrigin:
    """How a scene was laid out."""

    family: str
    seed: int
    task: str = ""  # as Task.text(), "" for the one that the seed draws


def scene_of_note(note: str) -> SceneOrigin | None:
    """The scene of a note such as "place, seed 12"; None where it tells none."""
    found = _NOTE.search(note)
    if found is None or len(found[2]) > 9:
        return None
    return SceneOrigin(found[1], int(found[2]))


def read_scenes(path: str | Path) -> dict[int, SceneOrigin]:
    """Scenes by episode index: YAML or JSON, {episode: {family, seed, task}}, task optional.

    Raises DatasetError that names the faulty entry.
    """
    values, path = read_yaml(path, DatasetError, number_keys=True), shown_path(path)
    if not isinstance(values, dict):
        raise DatasetError(f"{path}: expected a mapping from episodes to scenes")
    scenes = {}
    for episode, value in values.items():
        scene = _origin(value) if isinstance(value, dict) else None
        number = str(episode)
        if scene is None or not number.isdecimal() or len(number) > 12:
            raise DatasetError(
                f"{path}: episode {one_line(episode, 60)} needs a family and a seed, such as "
                "{family: pick, seed: 7}"
            )
        scenes[int(number)] = scene
    return scenes


def scenes_of_conversion(folder: str | Path) -> dict[int, SceneOrigin]:
    """The scenes that the bags of a converted data set tell, by episode index.

    Episodes of whose scene nothing is said are left out. Raises DatasetError where the data set
    keeps no report of its conversion.
    """
    path = Path(folder) / "meta" / REPORT_FILE
    try:
        kept = read_json(path, DatasetError, MOST_BYTES)["kept"]
        entries = {int(entry["episode_index"]): entry for entry in kept}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{shown_path(path)} does not tell the scenes of the episodes ({one_line(error)}); "
            "name a file of them by --scenes"
        ) from error
    scenes = {}
    for index, entry in entries.items():
        scene = _origin(entry) or scene_of_note(str(entry.get("note", "")))
        if scene is not None:
            scenes[index] = scene
    return scenes


def _origin(value: dict[str, Any]) -> SceneOrigin | None:
    family, seed = value.get("family"), value.get("seed")
    if isinstance(family, str) and type(seed) is int and 0 <= seed < 2**32:
        return SceneOrigin(one_line(family, 60), seed, one_line(value.get("task") or "", 1000))
    return None


class TruthAnnotator:
    """Lays scenes out and says what is in them. entries: at most so many of each kind."""

    def __init__(self, entries: int = 6):
        self.entries = entries
        self._simulator = TableTopSimulator()

    def close(self) -> None:
        """Frees the simulator."""
        self._simulator.close()

    def source(self, origin: SceneOrigin) -> dict[str, Any]:
        """Everything that changes what is said, but for the episode."""
        return {
            "kind": "truth",
            "version": TRUTH_VERSION,
            "family": origin.family,
            "seed": origin.seed,
            "task": origin.task,
            "entries": self.entries,
        }

    def record(self, episode: EpisodeMeta, data: str, origin: SceneOrigin) -> Record:
        """The record of an episode. data: its digest. Raises DatasetError; see annotation."""
        source = self.source(origin)
        entries = entries_of(self.annotation(episode, origin))
        return Record(
            episode.index, episode.instruction, data, entries, source, made_digest(source)
        )

    def annotation(self, episode: EpisodeMeta, origin: SceneOrigin) -> Annotation:
        """What is true of an episode's scene, the same each time.

        The instruction as it was given is the first of the rewrites. Raises DatasetError where the
        scene cannot be laid out, or is not the one that the instruction speaks of.
        """
        task = self._lay_out(episode, origin)
        simulator = self._simulator
        words = EpisodeWords(
            task.family,
            episode.instruction,
            task.answer(),
            object_places(simulator),
            landmark_places(simulator),
        )
        generator = np.random.default_rng([origin.seed, episode.index])
        made = annotate(words, generator, simulator.drawer_opening, self.entries)
        rewrites = {episode.instruction: task.answer(), **dict(made.command_rewrites)}
        if len(rewrites) == 1:
            # Nobody has written other sentences for this family; it can still be phrased again.
            for _ in range(3 * self.entries):
                if len(rewrites) < self.entries:
                    rewrites[phrase(task, generator)] = task.answer()
        return replace(made, command_rewrites=tuple(rewrites.items())[: self.entries])

    def _lay_out(self, episode: EpisodeMeta, origin: SceneOrigin) -> Task:
        where = f"episode {episode.index}: the scene '{origin.family}, seed {origin.seed}'"
        try:
            if origin.family not in ALL_FAMILIES:
                raise ValueError(f"known families: {', '.join(ALL_FAMILIES)}")
            task = self._simulator.reset(origin.seed, origin.family)
            if origin.task:
                task = self._simulator.parse_task(origin.task)
        except ValueError as error:
            raise DatasetError(f"{where} cannot be laid out: {error}") from error
        named = {color for color in COLORS if re.search(rf"\b{color}\b", episode.instruction)}
        there = {name.split()[0] for name in self._simulator.objects()}
        if odd := named - there:
            raise DatasetError(
                f"{where} has nothing {' or '.join(sorted(odd))}, but the instruction is "
                f"'{episode.instruction}': its bag belongs to another scene"
            )
        return task


def annotate_from_truth(
    episodes: list[EpisodeMeta],
    digest: Callable[[EpisodeMeta], str],
    scenes: dict[int, SceneOrigin],
    annotator: TruthAnnotator,
    records: Records,
    on_episode: Callable[[int, str], None] | None = None,
) -> AskSummary:
    """Annotates episodes whose scenes are known; others are failures of the outcome."""
    outcome = AskSummary()
    for episode in episodes:
        error = ""
        try:
            records.add(annotator.record(episode, digest(episode), scenes[episode.index]))
            outcome.finished.append(episode.index)
        except DatasetError as problem:
            error = outcome.failed[episode.index] = str(problem)
        if on_episode is not None:
            on_episode(episode.index, error)
    return outcome
