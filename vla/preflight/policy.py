"""Judges a checkpoint before anything moves: whether the policy fits this robot. No ROS.

A policy is known by the features that its type declares; no weights are loaded.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from vla.contract.embodiment import ContractError, EmbodimentContract
from vla.core.findings import Finding, fine, problem, warning
from vla.policies.base import PolicyFeatures
from vla.policies.config import CheckpointError

AREA = "policy"


def check_policy(
    contract: EmbodimentContract,
    checkpoint: str | Path,
    adapter: str | Path,
    device: str,
    live_cameras: Collection[str],
    control_rate: float,
    execute_steps: int,
) -> list[Finding]:
    """Checkpoint, adapter and device, without loading the weights.

    live_cameras: names of the cameras whose images arrive. control_rate: commands to the arm per
    second [Hz]. execute_steps: of a chunk before the next is taken, 0 for all.
    """
    from vla.policies.adapters import open_adapter, require_base
    from vla.policies.checkpoint import open_checkpoint

    device_findings = _check_device(device)
    try:
        opened = open_checkpoint(checkpoint)
        contract.require_same(opened.contract, "of this robot", "of the checkpoint")
        if not opened.stats:
            raise CheckpointError(f"{checkpoint} has no norm_stats.json: it cannot act yet")
    except ContractError as error:
        cure = "train or fine-tune for this contract (docs/training.md)"
        return [problem(AREA, str(error), cure), *device_findings]
    except CheckpointError as error:
        return [problem(AREA, str(error), "give the folder of another one"), *device_findings]
    found = [
        fine(AREA, f"checkpoint {opened.checkpoint_id} is made for this contract"),
        *check_features(opened.features, contract, live_cameras, control_rate, execute_steps),
        *device_findings,
    ]
    if adapter:
        try:
            opened_adapter = open_adapter(adapter)
            require_base(opened_adapter, opened)
            found.append(fine(AREA, f"adapter {opened_adapter.adapter_id} is made for it"))
        except CheckpointError as error:
            found.append(problem(AREA, str(error), "give the folder of another adapter"))
    return found


def check_features(
    features: PolicyFeatures,
    contract: EmbodimentContract,
    live_cameras: Collection[str],
    control_rate: float,
    execute_steps: int,
) -> list[Finding]:
    """Whether this robot gives what a policy reads and its controller can follow what it gives.

    Arguments as of check_policy().
    """
    found = []
    known = [camera.name for camera in contract.cameras]
    for name in features.cameras:
        if name not in known:
            text = f"the policy reads camera '{name}'; the contract has {', '.join(known)}"
            found.append(problem(AREA, text, "use a checkpoint that was trained for these cameras"))
        elif name not in live_cameras:
            text = f"the policy reads camera '{name}', and no image of it came"
            found.append(problem(AREA, text, "start its driver"))
    # The controller refuses chunks with another time step than the contract's.
    if abs(1.0 / features.rate - contract.time_step) > 1e-6:
        text = f"the policy acts at {features.rate:g} Hz, the contract's rate is {contract.rate:g}"
        found.append(problem(AREA, text, "use a checkpoint that was trained at this rate"))
    if control_rate < features.rate:
        text = f"the policy acts at {features.rate:g} Hz, the controller at {control_rate:g} Hz"
        found.append(problem(AREA, text, "raise the controller's control_rate"))
    if execute_steps > features.horizon:
        text = f"execute_steps is {execute_steps}, and a chunk has {features.horizon} steps"
        found.append(warning(AREA, text, "lower execute_steps: each chunk is followed to its end"))
    if found:
        return found
    reads = ", ".join(features.cameras) or "no camera"
    if features.uses_state:
        reads += " and the state"
    if features.window > 1:
        span = (features.window - 1) * features.history_step
        reads += f", {features.window} observations over {span:.2g} s"
    gives = f"chunks of {features.horizon} steps at {features.rate:g} Hz"
    if features.latent_shape is not None:
        gives += " from latent actions"
    return [fine(AREA, f"reads {reads}; gives {gives}")]


def _check_device(device: str) -> list[Finding]:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        cure = "install a CUDA build of torch and the driver, or use another device, such as cpu"
        return [problem(AREA, f"device '{device}' is not there", cure)]
    return []
