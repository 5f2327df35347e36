"""Chunks by OpenVINO: equal to torch's, exported once, and never of other weights.

test_runtimes.py runs this file in a process of its own: where OpenVINO has computed, a training
that follows in the same process ends by a segmentation fault.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_runtimes import SEEN, chunk
from tiny_adapter import save_tiny_adapter
from tiny_checkpoint import save_tiny_checkpoint

from vla.control.committed import CommittedActions
from vla.policies.adapters import open_adapter
from vla.policies.instructvla.inference import ActionModel
from vla.policies.registry import preset
from vla.policies.runtimes import FOLDER


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> Path:
    """A checkpoint whose flow has two steps, since each takes seconds to export."""
    config = preset("test")
    config = replace(config, flow=replace(config.flow, steps=2))
    return save_tiny_checkpoint(tmp_path_factory.mktemp("two_steps"), config=config)


def kept(folder: Path) -> list[Path]:
    """Exports in a folder."""
    return [path for path in (folder / FOLDER).glob("*") if path.is_dir()]


def test_chunks_equal_those_of_torch_also_after_an_adapter(two_steps, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(two_steps, tmp_path / "checkpoint")
    adapter = open_adapter(save_tiny_adapter(folder, tmp_path / "adapter"))
    eager, part = (ActionModel.from_pretrained(folder) for _ in range(2))
    part.use_runtime("openvino")
    assert (part.runtime, part.runtime_problem) == ("openvino", "")
    assert len(kept(folder)) == 2
    before = [CommittedActions(np.full((8, 7), 0.004), committed) for committed in (2, 5)]
    asked = [{"before": own, "max_guidance": bound} for own in before for bound in (0.5, 4.0)]
    expected = [chunk(eager, seed, **more) for seed in (1, 2) for more in ({}, *asked)]
    with monkeypatch.context() as patch:
        patch.setattr(part, "_chunk", None)  # Torch computes none of them.
        found = [chunk(part, seed, **more) for seed in (1, 2) for more in ({}, *asked)]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected, axis=0).max() > 1e-2
    # Chunks without images are not in the export.
    latent = np.ones((4, 32), np.float32)
    blind = [p.action_chunk({}, SEEN.state, latent, 1) for p in (eager, part)]
    np.testing.assert_array_equal(*blind)

    # Swapped in place: the export of other weights is not used, and none is waited for.
    for model in (eager, part):
        model.set_adapter(adapter)
    assert part.runtime == "eager" and "no export of these weights" in part.runtime_problem
    np.testing.assert_array_equal(chunk(part), chunk(eager))
    part.use_runtime("openvino")
    assert part.runtime == "openvino" and len(kept(folder)) == 4
    adapted = chunk(part)
    np.testing.assert_allclose(adapted, chunk(eager), atol=1e-4)
    for model in (eager, part):
        model.set_adapter(None)
    assert part.runtime == "openvino"
    np.testing.assert_allclose(chunk(part), chunk(eager), atol=1e-4)
    assert np.abs(chunk(part) - adapted).max() > 1e-3


def test_bfloat16_takes_the_same_export_and_stays_close(two_steps, tmp_path):
    folder = shutil.copytree(two_steps, tmp_path / "checkpoint")
    exact, rough = (ActionModel.from_pretrained(folder) for _ in range(2))
    for part, runtime in ((exact, "openvino"), (rough, "openvino_bf16")):
        part.exports_guided = False
        part.use_runtime(runtime)
        assert (part.runtime, part.runtime_problem) == (runtime, "")
    assert len(kept(folder)) == 1
    chunks = [[chunk(part, seed) for seed in range(5)] for part in (exact, rough)]
    spread = np.ptp(chunks[0], axis=(0, 1))
    assert (np.abs(np.subtract(*chunks)).max(axis=(0, 1)) <= 0.1 * spread + 1e-6).all()


def test_an_export_is_kept_and_a_damaged_one_is_not_used(two_steps, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(two_steps, tmp_path / "checkpoint")
    # Not to be written, also by root: what should be a folder is a file.
    (folder / FOLDER).write_text("")
    part = ActionModel.from_pretrained(folder)
    part.exports_guided = False
    part.use_runtime("openvino")
    (export,) = kept(tmp_path / "cache" / "vla_ros")
    assert part.runtime == "openvino"
    # The next process finds it, and so does another copy of the checkpoint.
    (folder / FOLDER).unlink()
    again = ActionModel.from_pretrained(two_steps)
    again.exports_guided = False
    again.use_runtime("auto")
    assert again.runtime == "openvino"
    (export / "model.xml").write_text("<net")
    again.use_runtime("openvino")
    assert (
        again.runtime == "eager" and "OpenVINO can't compute this policy" in again.runtime_problem
    )
    np.testing.assert_allclose(chunk(part), chunk(again), atol=1e-4)
    # Left to choose, it says nothing.
    again.use_runtime("auto")
    assert (again.runtime, again.runtime_problem) == ("eager", "")
