"""Windows of frames for training."""

from __future__ import annotations

import numpy as np
from tiny_robovlm import STEP

from vla.datasets.windows import Timeline, ends_of_words, why_no_windows, window_indices


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
