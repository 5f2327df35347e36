"""Draws a scene of each family of goals, as the documentation shows them, into docs/images.

python tools/goal_pictures.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from vla.envs.tabletop.goal_sentences import INSTRUCTED_FAMILIES
from vla.envs.tabletop.simulator import TableTopSimulator

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"
SIZE = 240  # px
COLORS = 64  # of a palette, which keeps the files small


def main() -> None:
    """Writes one PNG for each family, and one for all atomic actions."""
    simulator = TableTopSimulator(SIZE)
    for name, family in (("atomic", "atomic_move"), *((f, f) for f in INSTRUCTED_FAMILIES)):
        simulator.reset(0, family)
        picture = Image.fromarray(simulator.render("overview", 2 * SIZE, detailed=True))
        picture.resize((SIZE, SIZE)).quantize(COLORS).save(FOLDER / f"goals_{name}.png")
    simulator.close()


if __name__ == "__main__":
    main()
