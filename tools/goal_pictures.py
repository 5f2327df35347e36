"""Draws scenes of goals, and of the tasks in people's words, as the documentation shows them.

python tools/goal_pictures.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vla.envs.instruct.scene import InstructSimulator
from vla.envs.instruct.tasks import read_tasks
from vla.envs.tabletop.goal_sentences import INSTRUCTED_FAMILIES
from vla.envs.tabletop.simulator import TableTopSimulator

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"
SIZE = 240  # px
COLORS = 64  # of a palette, which keeps the files small
WIDE = 320  # px
# Tasks whose things training never shows.
TASKS = ("new_banana", "new_star_bowl", "new_striped_plate", "tool_hike")


def main() -> None:
    """Writes one PNG for each family, one for all atomic actions, and one of several tasks."""
    simulator = TableTopSimulator(SIZE)
    for name, family in (("atomic", "atomic_move"), *((f, f) for f in INSTRUCTED_FAMILIES)):
        simulator.reset(0, family)
        picture = Image.fromarray(simulator.render("overview", 2 * SIZE, detailed=True))
        picture.resize((SIZE, SIZE)).quantize(COLORS).save(FOLDER / f"goals_{name}.png")
    simulator.close()
    pictures = []
    for name in TASKS:
        at = InstructSimulator(read_tasks()[name], WIDE)
        at.reset(0, name)
        # Without the robot's foot above and the table's edge below.
        pictures.append(at.render("front", detailed=True)[WIDE // 4 : -WIDE // 4])
        at.close()
    # Without a palette: small things of many colours get wrong ones there.
    Image.fromarray(np.concatenate(pictures, axis=1)).save(FOLDER / "instruct_things.png")


if __name__ == "__main__":
    main()
