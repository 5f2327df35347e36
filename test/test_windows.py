"""Windows of frames for training."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_robovlm import STEP

from vla.datasets.windows import Timeline, ends_of_words, why_no_windows, window_indices
from vla.policies.history import History


def test_windows_of_an_episode():
    times = np.array([0.0, 0.3, 0.6, 0.9, 0.0, 0.3, 1.2, 1.5])
    found = window_indices(Timeline(times, np.array([4, 8])), 3, STEP)
    assert found.tolist() == [
        [0, -1, -1],
        [0, 1, -1],
        [0, 1, 2],
        [1, 2, 3],
        [4, -1, -1],
        [4, 5, -1],
        [6, -1, -1],  # nothing was seen for too long
        [6, 7, -1],
    ]


def test_steps_that_the_frames_can_not_give_are_named():
    episodes = Timeline(np.array([0.0, 0.3, 0.61, 0.9, 0.0, 0.3]), np.array([4, 6]))
    assert why_no_windows(episodes, 0.3) == why_no_windows(episodes, 0.9) == ""
    fine, coarse = why_no_windows(episodes, 0.1), why_no_windows(episodes, 1.0)
    assert "0.3 s apart, so that slots 0.1 s apart stay empty; set structure.history" in fine
    assert "lasts longer than 0.9 s, so that nothing was seen 1 s before" in coarse
    assert "lasts longer than 0 s" in why_no_windows(Timeline(np.zeros(2), np.array([1, 2])), 0.1)


def test_windows_of_a_part_and_of_changing_words():
    assert ends_of_words(["a", "a", "b", "b", "b", "a"], 10) == [12, 15, 16]
    whole = Timeline(np.arange(8.0), np.array([3, 8]))
    part = whole.part(1, 6)
    assert part.times.tolist() == [1, 2, 3, 4, 5] and part.ends.tolist() == [2, 5]
    assert whole.part(3, 8).ends.tolist() == [5]


@pytest.mark.parametrize("rate", [10, 15, 30])
def test_jitter_ends_no_history_and_a_gap_does(rate):
    """In a robot, which reads frames when they are due or it acts, and in training on the same."""
    generator, history = np.random.default_rng(rate), History(16, STEP)
    stamps = np.arange(0, 20, 1 / rate) + generator.uniform(-0.01, 0.01, 20 * rate)
    stamps[10 * rate :] += 1.0  # nothing is seen meanwhile
    read, windows, acts = [], [], generator.random(len(stamps)) < 2 / rate
    for stamp, is_act in zip(stamps, acts, strict=True):
        if is_act or history.is_due(stamp):
            read.append(stamp)
            windows.append(history.add(stamp, stamp))
    read, lengths = np.array(read), np.array([len(window) for window in windows])
    assert (lengths[(read > 5.2) & (read < 10)] == 16).all()
    assert lengths[read > 10.9].min() == 1 and (lengths[read > 16.2] == 16).all()
    trained = window_indices(Timeline(read, np.array([len(read)])), 16, STEP)
    assert [read[row[row >= 0]].tolist() for row in trained] == windows
