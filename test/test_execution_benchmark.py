"""The benchmark of the execution modes runs, keeps each episode, and goes on from there."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import execution_modes  # noqa: E402


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch, capsys):
    """Runs the benchmark on two modes; returns the episodes in its file and what it printed."""
    path = tmp_path / "results" / "modes.jsonl"

    def run(latency, episodes=1):
        words = ["--checkpoint", str(checkpoint), "--modes", "first", "real_time"]
        words += ["--latencies", str(latency), "--episodes", str(episodes)]
        words += ["--time-limit", "1.2", "--output", str(path)]
        monkeypatch.setattr(sys, "argv", ["execution_modes.py", *words])
        execution_modes.main()
        return [json.loads(line) for line in path.read_text().splitlines()], capsys.readouterr().out

    return run


@pytest.mark.slow
def test_it_measures_each_mode_once_and_goes_on_where_it_was_interrupted(run):
    episodes, printed = run(0.3)
    assert [episode["mode"] for episode in episodes] == ["first", "real_time"]
    for episode in episodes:
        assert not episode["success"] and episode["seconds"] == pytest.approx(1.2, abs=0.02)
        assert 0 < episode["joint_jerk"] < 7**0.5 * 400
        assert 0 < episode["largest_acceleration"] <= 10.0
        # Nothing is there to follow until the first chunk comes.
        assert episode["held"] == pytest.approx(0.3 / 1.2, abs=0.02)
    assert "| 300 | real_time | 0 of 1 |" in printed
    again, printed = run(0.3)
    assert again == episodes and "| 300 | first | 0 of 1 |" in printed


@pytest.mark.slow
def test_latencies_need_not_be_whole_steps(run):
    episodes, _ = run(0.137)
    assert all(e["held"] == pytest.approx(0.137 / 1.2, abs=0.02) for e in episodes)
