"""Scenes as the simulator lays them out, without the simulator."""

from __future__ import annotations

import numpy as np

from vla.datasets.frames import EpisodeWords
from vla.envs.tabletop.tasks import COLORS, DESTINATIONS, KINDS, Task


def random_scene(generator: np.random.Generator, landmarks: bool = False) -> EpisodeWords:
    """Two to four objects, and bowl and plate if asked for, that keep their distance."""
    names: list[str] = []
    for kind in generator.permutation(["block"] * 3 + ["can"] * 3)[: generator.integers(2, 5)]:
        free = [color for color in COLORS if f"{color} {kind}" not in names]
        names.append(f"{generator.choice(free)} {kind}")
    places: dict[str, list[float]] = {}
    for name in [*names, *DESTINATIONS]:
        while name not in places:
            place = generator.uniform([0.35, -0.31], [0.65, 0.11]).round(3)
            if all(np.hypot(*(place - other)) > 0.06 for other in places.values()):
                places[name] = place.tolist()
    objects = {name: places[name] for name in names}
    fixed = {name: places[name] for name in DESTINATIONS} if landmarks else {}
    return EpisodeWords("pick", "", f"pick up the {names[0]} .", objects, fixed)


def possible_tasks(words: EpisodeWords) -> list[Task]:
    """Everything that can be asked for in a scene."""
    tasks = [Task("open_drawer", "drawer"), Task("close_drawer", "drawer")]
    for name in words.objects:
        tasks.append(Task("pick", name))
        tasks += [Task("place", name, destination) for destination in DESTINATIONS]
    return tasks


NAMES = [f"{color} {kind}" for color in COLORS for kind in KINDS]
