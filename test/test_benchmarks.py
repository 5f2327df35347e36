"""The benchmarks run, at a size that says nothing about speed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_workers import fake_python

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def figures_of(script: str, *arguments: str, folder: Path) -> dict:
    output = folder / "figures.json"
    command = [sys.executable, str(BENCHMARKS / script), "--preset", "test", "--json", str(output)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text())["presets"]["test"]


@pytest.mark.slow
@pytest.mark.parametrize("gate", [[], ["--gate", "two_pass"]])
def test_inference(tmp_path, gate):
    sizes = ("--steps", "2", "--rounds", "1", "--tokens", "3")
    figures = figures_of("inference.py", *sizes, *gate, folder=tmp_path)
    modes = {"act", "naive act", "real time", "language", "latent caching", "think", "naive think"}
    assert set(figures["modes"]) == modes
    parts = {"latent action", "text and latent action", "chunk", "guided chunk"}
    assert set(figures["parts"]) == parts and figures["peak_memory_gb"] > 0
    assert all(
        row["hz"] > 0 and row["cpu_ms"] > 0 and row["p50_ms"] <= row["p99_ms"]
        for row in figures["modes"].values()
    )


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["layer", "two_pass"])
def test_training(tmp_path, gate):
    sizes = ("--batch", "2", "--steps", "1", "--precision", "bf16", "--gate", gate)
    figures = figures_of("training.py", *sizes, folder=tmp_path)
    action, instruct = figures["action"], figures["instruct"]
    assert action["samples_per_second"] > 0 and 0 < action["share_of_peak"] < 1
    assert instruct["trained_parameters"] < action["trained_parameters"], "the expert is frozen"
    assert instruct["teraflop_per_step"] > action["teraflop_per_step"], "and conversations come too"
    made = figures["with batches"]
    assert made["samples_per_second"] > 0 and made["batch_ms"] > 0 and made["workers"] == 0


@pytest.mark.slow
def test_training_without_images(tmp_path):
    figures = figures_of("masked_training.py", "--batch", "2", "--steps", "1", folder=tmp_path)
    seen, masked = figures["with images"], figures["without images"]
    assert masked["samples_per_second"] > 0 and figures["speedup"] > 0
    assert masked["activation_mb"] < seen["activation_mb"]


@pytest.mark.slow
def test_wordings(tmp_path, checkpoint):
    output = tmp_path / "wordings.json"
    command = [
        sys.executable,
        str(BENCHMARKS / "wordings.py"),
        "--checkpoints",
        f"new={checkpoint}",
    ]
    command += ["--wordings", "direct", "implied", "--families", "pick", "--seeds", "0:2"]
    command += ["--time-limit", "0.5", "--workers", "1", "--json", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| direct | 0% (0% to 66%, n=2) | 0% (0% to 66%, n=2) |" in done.stdout
    assert "| negation | - | - |" in done.stdout
    cells = json.loads(output.read_text())["cells"]
    assert {(cell["column"], cell["wording"]) for cell in cells} == {
        (column, wording)
        for column in ("new", "new, thinking")
        for wording in ("direct", "implied")
    }
    for cell in cells:
        assert len(cell["episodes"]) == 2
        for episode in cell["episodes"]:
            assert (episode["answered_right"] is None) == (cell["column"] == "new")


@pytest.mark.slow
def test_conversion(tmp_path):
    output = tmp_path / "conversion.json"
    command = [sys.executable, str(BENCHMARKS / "conversion.py"), "--json", str(output)]
    command += ["--episodes", "1", "--seconds", "0.5", "--size", "96x96", "--rate", "10"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (figures,) = json.loads(output.read_text())["results"]
    assert figures["episodes"] == 1 and figures["frames"] == 4
    images = 2 * 15 * 640 * 480 * 3
    assert figures["bag_gigabytes"] == pytest.approx(images / 1e9, rel=0.05)
    assert figures["gigabytes_per_minute"] > 0 and figures["frames_per_second"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["conversion.json"]


def kills_benchmark():
    spec = importlib.util.spec_from_file_location("node_kills", BENCHMARKS / "node_kills.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_time_to_rest_of_a_killed_graph():
    time_to_rest = kills_benchmark().time_to_rest
    moving = [(0.02 * i, 0.01) for i in range(60)]
    assert time_to_rest(moving, 1.0, 1e-4, 1.3) is None, "too early to tell"
    still = [(1.2 + 0.02 * i, 0.0) for i in range(30)]
    assert time_to_rest(moving + still, 1.0, 1e-4, 1.8) == 180.0
    again = [(2.0 + 0.02 * i, 0.01) for i in range(30)]
    assert time_to_rest(moving + still + again, 1.0, 1e-4, 2.6) == 180.0
    assert time_to_rest(moving, 1.0, 1e-4, 1.6) == 180.0, "silence is rest"
    assert time_to_rest(moving, 1.19, 1e-4, 2.0) == 0.0


def test_figures_of_kills():
    def kill(node, command_ms, recovery_s, transport="default"):
        return {
            "node": node,
            "transport": transport,
            "command_ms": command_ms,
            "rest_ms": None,
            "recovery_s": recovery_s,
        }

    rounds = [kill("a", 100.0, 5.0), kill("a", 301.0, None), kill("a", None, 7.0)]
    rounds += [kill("a", 120.0, 4.0, "udp"), kill("b", 90.0, None)]
    figures = kills_benchmark().summarize(rounds)
    assert set(figures) == {"a default", "a udp", "b default"}
    assert figures["a default"] == {
        "kills": 3,
        "command_ms_p50": 200.5,
        "command_ms_max": 301.0,
        "over_300_ms": 2,
        "rest_ms_p50": None,
        "rest_ms_max": None,
        "recovery_s_p50": 6.0,
        "recovery_s_max": 7.0,
        "never_moved_again": 1,
    }
    assert figures["b default"]["recovery_s_max"] is None


@pytest.mark.slow
def test_metaworld(tmp_path):
    output = tmp_path / "metaworld.json"
    command = [sys.executable, str(BENCHMARKS / "metaworld.py"), "--json", str(output)]
    command += ["--python", str(fake_python(tmp_path, "metaworld"))]
    command += ["--tasks", "reach", "stick-pull", "--seeds", "0:1", "--images", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stick-pull failed: 1 time limit" in done.stdout
    figures = json.loads(output.read_text())
    assert figures["groups"][0]["groups"] == {"easy": 1.0, "very_hard": 0.0}
    assert [speed["task"] for speed in figures["speeds"]] == ["reach", "stick-pull"]
    for speed in figures["speeds"]:
        assert 0 < speed["open_core_seconds"] < speed["open_seconds"] * 2
        assert speed["images_per_second"] > 0 and speed["steps_per_core_second"] > 0


def load_benchmark(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Its dataclasses look for it there.
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_launches_are_counted_at_the_published_size(tmp_path, monkeypatch):
    output = tmp_path / "operations.json"
    arguments = ["--passes", "latent action", "decode", "chunk", "--json", str(output)]
    monkeypatch.setattr(sys, "argv", ["operations.py", *arguments])
    load_benchmark("operations").main()
    figures = json.loads(output.read_text())["presets"]["base"]
    counts = {name: values["before"] for name, values in figures.items()}
    most = {"latent action": 1500, "decode": 1160, "chunk": 5500}
    # Not fewer than their matrix products: 27 and 28 layers, 28 layers, ten times 12 layers.
    least = {"latent action": 6 * 27 + 7 * 28, "decode": 7 * 28, "chunk": 10 * 12 * 5}
    for name, count in counts.items():
        assert least[name] < count <= most[name], name


@pytest.mark.slow
def test_launches_of_a_compiled_pass(tmp_path, monkeypatch):
    output = tmp_path / "operations.json"
    arguments = ["--preset", "test", "--passes", "decode", "--after", "--json", str(output)]
    monkeypatch.setattr(sys, "argv", ["operations.py", *arguments])
    load_benchmark("operations").main()
    figures = json.loads(output.read_text())["presets"]["test"]["decode"]
    # One layer: seven matrix products, an attention, and the scores.
    assert 9 <= figures["after"] < figures["before"] / 1.5


@pytest.mark.slow
def test_inference_ends_when_its_time_is_over(tmp_path, monkeypatch):
    output = tmp_path / "inference.json"
    arguments = ["--preset", "test", "--tokens", "3", "--steps", "2", "--rounds", "5"]
    arguments += ["--modes", "act", "think", "naive act", "--budget", "0", "--json", str(output)]
    monkeypatch.setattr(sys, "argv", ["inference.py", *arguments])
    monkeypatch.syspath_prepend(BENCHMARKS)
    load_benchmark("inference").main()
    figures = json.loads(output.read_text())["presets"]["test"]
    # It is over at once: our variant is not warmed up, and a single round is measured.
    assert figures["left_out"] == ["none"] and {*figures["modes"]} == {"naive act"}
    assert figures["modes"]["naive act"]["steps"] == 2
