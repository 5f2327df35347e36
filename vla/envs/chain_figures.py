"""Figures of chains: tasks one after the other, each begun where the one before has left the scene.

After CALVIN (2112.03227): the policy starts over with each task, and the chain ends with the first
that is not done. `info` of such environments has "subtasks", see vla.envs.base.
"""

from __future__ import annotations

from typing import Any

IN_A_ROW = ("first", "second", "third", "fourth", "fifth")
LENGTH = "length"  # counted: how many were done, in the mean the "average length"


def chain_figures(info: dict[str, Any]) -> dict[str, float | None]:
    """Whether as many tasks were done, first to fifth, and how many in all. info: of the end."""
    done = sum(info["subtasks"].values())
    reached = {name: float(done >= count) for count, name in enumerate(IN_A_ROW, start=1)}
    return {**reached, LENGTH: float(done)}
