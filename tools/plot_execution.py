#!/usr/bin/env python3
"""Draws docs/images/execution_MODE.svg: what each execution mode commands under the same delays.

A tool is to follow a wave across the table. Each chunk is planned from where the arm is when its
observation is taken, a little wrong each time, and comes 0.2 to 0.4 s later; one never comes. Drawn
are position, velocity and acceleration of the commanded tool along y, and when chunks arrive.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from vla.contract.embodiment import load_contract
from vla.control.arm import ArmController, ArmControllerConfig
from vla.control.chunk import ActionChunk
from vla.control.committed import committed_actions, join
from vla.control.execution import MODES, ExecutionConfig
from vla.control.robots import panda
from vla.core.resources import shared_file

OUTPUT = Path(__file__).resolve().parents[1] / "docs" / "images"
RATE, SECONDS = 100.0, 6.0
LOST = 7
WIDTH, HEIGHT, LEFT = 760, 120, 64


def wanted(time: float) -> float:
    """Where the tool should be along y [m]."""
    return 0.12 * np.sin(1.3 * time)


def commanded(mode: str) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Times [s], tool positions along y [m], and when chunks arrived [s]."""
    contract = load_contract(shared_file("config/contracts/sim_panda.yaml"))
    execution = ExecutionConfig(mode=mode, max_chunk_age=1.5)
    arm = ArmController(
        replace(ArmControllerConfig(), control_rate=RATE, execution=execution), contract
    )
    rng = np.random.default_rng(4)
    joints, now, number = panda.HOME.copy(), 0.0, 0
    base, _ = arm.kinematics.tool_pose(joints)
    waiting: ActionChunk | None = None
    newest: ActionChunk | None = None
    arrives, arrivals, places = 0.0, [], []
    while now < SECONDS:
        if waiting is None:
            position, quaternion = arm.kinematics.tool_pose(joints)
            times = now + contract.time_step * np.arange(1, contract.horizon + 1)
            path = np.array([wanted(float(time)) for time in times]) + rng.normal(0.0, 0.006)
            actions = np.zeros((contract.horizon, 7))
            actions[:, 1] = np.diff(path, prepend=position[1] - base[1])
            delay = rng.uniform(0.2, 0.4)
            if mode == "real_time" and newest is not None:
                ahead = 0.4 + arm.lookahead
                before = committed_actions(
                    newest, now, position, quaternion, ahead, late=arrivals[-1] - newest.stamp
                )
                if before is not None:
                    actions = join(before, actions)
            waiting = ActionChunk(now, contract.time_step, actions, position, quaternion)
            arrives = now + delay
        if now >= arrives:
            number += 1
            if number != LOST:
                arm.accept(waiting, now)
                newest = waiting
                arrivals.append(now)
            waiting = None
        joints = arm.step(now, joints).joint_positions
        places.append(arm.kinematics.tool_pose(joints)[0][1] - base[1])
        now += 1.0 / RATE
    return np.arange(len(places)) / RATE, np.array(places), arrivals


def panel(title: str, times: np.ndarray, values: np.ndarray, span: float, top: int) -> str:
    """One curve in a frame, values from -span to span."""
    x = LEFT + times / SECONDS * (WIDTH - LEFT - 10)
    y = top + HEIGHT / 2 - values / span * (HEIGHT / 2 - 6)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[::2], y[::2], strict=True))
    middle = top + HEIGHT / 2
    return (
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH - LEFT - 10}" height="{HEIGHT}" fill="none" '
        f'stroke="#999"/><line x1="{LEFT}" x2="{WIDTH - 10}" y1="{middle}" y2="{middle}" '
        f'stroke="#ddd"/><text x="{LEFT - 6}" y="{top + 12}" text-anchor="end">{span:g}</text>'
        f'<text x="{LEFT - 6}" y="{top + HEIGHT}" text-anchor="end">-{span:g}</text>'
        f'<text x="{LEFT + 6}" y="{top + 14}">{title}</text>'
        f'<polyline points="{points}" fill="none" stroke="#1f5fa8" stroke-width="1.4"/>'
    )


def draw(mode: str) -> str:
    """The picture of one mode."""
    times, places, arrivals = commanded(mode)
    speed = np.gradient(places, times)
    acceleration = np.gradient(speed, times)
    height = 3 * (HEIGHT + 12) + 34
    marks = "".join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="10" y2="{height - 26}" stroke="#c60" '
        'stroke-dasharray="2 4"/>'
        for x in (LEFT + at / SECONDS * (WIDTH - LEFT - 10) for at in arrivals)
    )
    panels = "".join(
        panel(title, times, values, span, 10 + index * (HEIGHT + 12))
        for index, (title, values, span) in enumerate(
            (
                ("position along y [m]", places, 0.16),
                ("velocity [m/s]", speed, 0.5),
                ("acceleration [m/s²]", acceleration, 4.0),
            )
        )
    )
    ticks = "".join(
        f'<text x="{LEFT + second / SECONDS * (WIDTH - LEFT - 10):.0f}" y="{height - 8}" '
        f'text-anchor="middle">{second} s</text>'
        for second in range(int(SECONDS) + 1)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f"{marks}{panels}{ticks}</svg>\n"
    )


def main() -> None:
    """Draws all modes."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for mode in MODES:
        (OUTPUT / f"execution_{mode}.svg").write_text(draw(mode))


if __name__ == "__main__":
    main()
