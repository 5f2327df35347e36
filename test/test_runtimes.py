"""What computes action chunks: torch, or OpenVINO where that can."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_la4vla
from tiny_checkpoint import save_tiny_checkpoint
from tiny_robovlm import observation

from vla.policies.instructvla.inference import ActionModel
from vla.policies.policy import Policy

SEEN = observation(0)


def chunk(part: ActionModel, seed: int = 1, **more) -> np.ndarray:
    """Actions, normalised, of a latent action that differs from seed to seed."""
    latent = np.random.default_rng(seed).normal(size=(4, 32)).astype(np.float32)
    actions = part.action_chunk(SEEN.images, SEEN.state, latent, seed, **more)
    return part._stats["action"].normalize(actions)


@pytest.mark.slow
@pytest.mark.skipif(
    not any((Path(folder) / "openvino").is_dir() for folder in sys.path),
    reason="OpenVINO is not installed",
)
def test_openvino_computes_chunks():
    cases = Path(__file__).with_name("openvino_chunks.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout


def test_without_the_library_chunks_are_eager(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    part = ActionModel.from_pretrained(checkpoint)
    expected = chunk(part)
    part.use_runtime("openvino")
    assert part.runtime == "eager"
    assert "pip install 'vla_ros[openvino]'" in part.runtime_problem
    np.testing.assert_array_equal(chunk(part), expected)
    part.use_runtime("eager")
    assert part.runtime_problem == ""


def test_other_number_types_stay_eager(checkpoint):
    part = ActionModel.from_pretrained(checkpoint, dtype="bfloat16")
    part.use_runtime("openvino")
    assert part.runtime == "eager" and "float32 on the CPU only" in part.runtime_problem


def test_a_policy_of_one_part_stays_eager(tmp_path):
    policy = Policy.from_pretrained(save_tiny_checkpoint(tmp_path, config=tiny_la4vla.tiny()))
    assert "a policy of one part has no export" in policy.use_runtime("openvino")
    assert policy.use_runtime("eager") == ""
