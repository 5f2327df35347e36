"""Converted checkpoints against what the authors' own classes gave for the same camera frames.

test/data/instructvla.npz holds for each of CASES the latent action [Q, D], the velocities
[10, 16, 7] of the integration steps and the actions [16, 7] of `predict_action`, and the names and
shapes of the checkpoint's tensors. They were computed with the public code of InstructVLA (commit
dc3b8c7), transformers 4.51.0, peft 0.13.0, timm 0.9.10 and Pillow 11.3.0, on a CPU:

- The Eagle2 chat model is the backup copy in that repository, with the Qwen2 and SigLIP of
  reference_instructvla.py, use_cache False, and a head that shares no memory with the embedding.
- The action model has that Llama, and a VisionTransformer of timm with four registers; in the
  shapes that its code spells out, 1024 was replaced by the small width.
- float32 took the place of bfloat16 everywhere, autocast was off.
- After a model was made, `reference_weight` filled all tensors of its four groups.
- `torch.manual_seed(3)` came before `predict_action`; a hook on `action_head` kept the velocities.
  Where a case has a response, it stood in `last_response`, so that no text was generated.
- The tokens `generated` are the likeliest next ones, one pass over the whole sequence for each,
  since the code's own generation fails on a CPU after stage 2.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from reference_instructvla import (
    CASES,
    DINOV2,
    LLAMA,
    QUERIES,
    QWEN,
    SIGLIP,
    STATISTICS,
    reference_frame,
    reference_tokenizer,
    reference_weight,
)

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.policies.config import LoraConfig
from vla.policies.instructvla.inference import ActionModel, Reasoner
from vla.policies.instructvla.presets import PRESETS
from vla.policies.instructvla.prompts import thinking_prompt
from vla_cli.parser import main

REFERENCE = np.load(Path(__file__).parent / "data" / "instructvla.npz")
STATE = np.linspace(-1.5, 1.5, 8)


def preset_of_these_sizes():
    base = PRESETS["published"]
    backbone = replace(
        base.backbone,
        architecture={"vision_config": SIGLIP, "text_config": QWEN},
        width=QWEN["hidden_size"],
    )
    expert = replace(
        base.expert,
        vision_width=DINOV2["embed_dim"],
        vision_layers=DINOV2["depth"],
        vision_heads=DINOV2["num_heads"],
        vision_mlp=4 * DINOV2["embed_dim"],
        width=LLAMA["hidden_size"],
        layers=LLAMA["num_hidden_layers"],
        heads=LLAMA["num_attention_heads"],
        mlp=LLAMA["intermediate_size"],
        head_widths=tuple(int(part * LLAMA["hidden_size"]) for part in (4, 2, 0.5)),
    )
    lora = LoraConfig(experts=("action",), rank=128, alpha=256.0)
    return replace(base, num_queries=QUERIES, backbone=backbone, expert=expert, lora=lora)


def released_run(folder: Path, case: dict) -> Path:
    """A checkpoint in the authors' layout, with what `vla convert` needs beside it."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for full, shape in json.loads(REFERENCE[f"{case['name']}.shapes"].tobytes()).items():
        group, _, name = full.partition(".")
        weight = torch.from_numpy(np.asarray(reference_weight(full, tuple(shape))))
        groups.setdefault(group, {})[name] = weight
    file = folder / "checkpoints" / "step-000001-epoch-00-loss=1.0.pt"
    file.parent.mkdir(parents=True)
    torch.save({"model": groups}, file)
    (folder / "dataset_statistics.json").write_text(json.dumps({"bridge_dataset": STATISTICS}))
    reference_tokenizer().save(str(folder / "tokenizer.json"))
    # A robot whose frames reach the policy as they are.
    bridge = load_contract(contract_path("widowx_bridge"))
    width, height = case["frame"]
    camera = replace(bridge.cameras[0], width=width, height=height)
    robot = replace(bridge, name="robot", cameras=(camera,))
    (folder / "robot.yaml").write_text(yaml.safe_dump(robot.to_dict()))
    return file


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_camera_frame_becomes_the_actions_of_the_authors_code(tmp_path, monkeypatch, case):
    monkeypatch.setitem(PRESETS, "tiny", replace(preset_of_these_sizes(), preset="tiny"))
    run, folder = tmp_path / "run", tmp_path / "converted"
    words = ["convert", "instructvla", str(released_run(run, case)), str(folder)]
    words += ["--preset", "tiny", "--unnorm-key", "bridge_dataset"]
    assert main([*words, "--contract", str(run / "robot.yaml"), "--tokenizer", str(run)]) == 0

    images = {"front": reference_frame(*case["frame"])}
    wanted = {
        part: REFERENCE[f"{case['name']}.{part}"] for part in ("latent", "velocity", "actions")
    }
    reasoner = Reasoner.from_pretrained(folder)
    latent = reasoner.latent_action(images, case["instruction"], case.get("response"))
    np.testing.assert_allclose(latent, wanted["latent"], atol=1e-4)

    if said := case.get("generated"):
        question = thinking_prompt(case["instruction"], reasoner.config.prompts)
        prefill = reasoner._read(images, question)
        assert reasoner.model.generate(prefill, set(), len(said)) == [said]

    action = ActionModel.from_pretrained(folder)
    frame = torch.from_numpy(images["front"]).permute(2, 0, 1)[None, None]
    state = torch.from_numpy(action.normalized_state(STATE))
    x = torch.randn(1, 16, 7, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        context = action.module.encode_context(frame, torch.from_numpy(latent)[None], state)
        for step, velocity in enumerate(wanted["velocity"]):
            given = action.module.velocity(context, x, torch.tensor([step / 10]))
            np.testing.assert_allclose(given[0], velocity, atol=1e-4)
            x = x + torch.from_numpy(velocity) / 10
    chunk = action.action_chunk(images, STATE, latent, seed=3)
    np.testing.assert_allclose(chunk, wanted["actions"], atol=1e-4)
    assert wanted["latent"].std() > 0.1 and wanted["velocity"].std() > 0.1
